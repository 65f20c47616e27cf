//! Products of matrices that lie in slices, over the `gemm` crate.
//!
//! A product runs on one thread. Callers divide the work independently of the number of threads, so that results are
//! deterministic.

/// `[m, k] · [k, n]`.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Rows of the first matrix and of the product.
    pub m: usize,
    /// Columns of the second matrix and of the product.
    pub n: usize,
    /// Columns of the first matrix, rows of the second.
    pub k: usize,
}

/// A strided matrix in a slice.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The slice; the matrix begins with it.
    pub data: &'a [f32],
    /// Values from a row to the next.
    pub row: usize,
    /// Values from a column to the next.
    pub col: usize,
}

impl View<'_> {
    fn check(&self, rows: usize, cols: usize) {
        let last = rows.saturating_sub(1) * self.row + cols.saturating_sub(1) * self.col;
        assert!(rows * cols == 0 || last < self.data.len(), "a matrix of {rows} × {cols} beyond its slice");
    }
}

/// How a product is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `out = a·b`; the old values are not read.
    Set,
    /// `out += a·b`.
    Add,
    /// `out -= a·b`.
    Subtract,
}

/// `out = a·b`, `out += a·b` or `out -= a·b`; the rows of `out` are `stride` apart.
///
/// # Panics
/// When a matrix is larger than its slice.
pub fn multiply(shape: Shape, a: View<'_>, b: View<'_>, op: Op, out: &mut [f32], stride: usize) {
    View { data: out, row: stride, col: 1 }.check(shape.m, shape.n);
    // SAFETY: `out` is ours alone and large enough
    unsafe { product(shape, a, b, op, out.as_mut_ptr(), stride) }
}

/// [`multiply`] into a part of a matrix whose other parts other threads may write.
///
/// # Safety
/// `out` must be valid for reads and writes of `m` rows of `n` values, `stride` apart, that nothing else accesses.
///
/// # Panics
/// When `a` or `b` is larger than its slice.
pub(crate) unsafe fn product(
    Shape { m, n, k }: Shape,
    a: View<'_>,
    b: View<'_>,
    op: Op,
    out: *mut f32,
    stride: usize,
) {
    a.check(m, k);
    b.check(k, n);
    // SAFETY: both views have been checked, `out` is the caller's promise
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            stride as isize,
            op != Op::Set,
            a.data.as_ptr(),
            a.col as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.col as isize,
            b.row as isize,
            if op == Op::Set { 0.0 } else { 1.0 },
            if op == Op::Subtract { -1.0 } else { 1.0 },
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
