//! The little linear algebra that is needed, over the `gemm` crate. A product is one thread's; who calls it shares the work
//! in a way that does not depend on how many threads there are, so that sums are always the same.

/// A square matrix, row by row.
#[derive(Default)]
pub(crate) struct Square {
    size: usize,
    data: Vec<f32>,
}

impl Square {
    pub(crate) fn zeros(size: usize) -> Square {
        Square { size, data: vec![0.0; size * size] }
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn at(&self, row: usize, col: usize) -> f32 {
        self.data[row * self.size + col]
    }

    pub(crate) fn at_mut(&mut self, row: usize, col: usize) -> &mut f32 {
        &mut self.data[row * self.size + col]
    }

    pub(crate) fn data(&self) -> &[f32] {
        &self.data
    }

    pub(crate) fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }
}

/// `[m, k] · [k, n]`.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
}

/// A matrix inside a slice: how far apart are rows, and columns.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) row: usize,
    pub(crate) col: usize,
}

impl View<'_> {
    fn check(&self, rows: usize, cols: usize) {
        let last = rows.saturating_sub(1) * self.row + cols.saturating_sub(1) * self.col;
        assert!(rows * cols == 0 || last < self.data.len(), "a matrix of {rows} × {cols} beyond its slice");
    }
}

/// What becomes of a product.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Op {
    Set,
    Add,
    Subtract,
}

/// `out = a·b`, or more or less by it; `out` in rows of `stride`.
pub(crate) fn multiply(shape: Shape, a: View<'_>, b: View<'_>, op: Op, out: &mut [f32], stride: usize) {
    multiply_by(1.0, shape, a, b, op, out, stride);
}

/// [`multiply`], with `factor·a·b`.
pub(crate) fn multiply_by(
    factor: f32,
    shape: Shape,
    a: View<'_>,
    b: View<'_>,
    op: Op,
    out: &mut [f32],
    stride: usize,
) {
    let Shape { m, n, k } = shape;
    a.check(m, k);
    b.check(k, n);
    View { data: out, row: stride, col: 1 }.check(m, n);
    if m * n == 0 {
        return;
    }
    // SAFETY: all three matrices lie inside their slices, see above, and `out` is ours alone
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
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
            if op == Op::Subtract { -factor } else { factor },
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
