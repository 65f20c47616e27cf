//! `y = x · Wᵀ` with weights that are decoded a few rows at a time, where they are used.
//!
//! A piece of work is a block of rows of W: read, decoded to f32, multiplied with all of x. So a matrix is read
//! once, whatever the number of tokens, and is never whole in memory.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;
use tensor::Result;

use crate::math::dot;
use crate::{Matrix, Weight};

/// f32 values of a block of weights: what a core's second-level cache holds.
const BLOCK: usize = 512 * 1024;

/// The same where each weight is used once, and the first-level cache decides.
const BLOCK_ONE_TOKEN: usize = 16 * 1024;

thread_local! {
    /// A block as stored, and decoded.
    static SCRATCH: RefCell<(Vec<u8>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

impl Weight<'_> {
    /// `x · Wᵀ` for some rows of W (dimensions before the last are one): `x` is `[tokens, cols]`, the result
    /// `[tokens, rows]`.
    ///
    /// # Errors
    /// What the source says.
    ///
    /// # Panics
    /// When the rows are not there or `x` is not as wide as they are.
    pub(crate) fn project(&self, x: &Matrix, rows: Range<u64>) -> Result<Matrix> {
        let (cols, count) = (x.cols(), (rows.end - rows.start) as usize);
        assert_eq!(cols as u64, self.desc().cols(), "columns of {}", self.desc().name);
        let mut y = Matrix::zeros(x.rows(), count);
        if x.rows() == 1 {
            let block = (BLOCK_ONE_TOKEN / cols).max(1);
            y.data_mut().par_chunks_mut(block).enumerate().try_for_each(|(n, y)| {
                self.with_rows(rows.start + (n * block) as u64, y.len(), |w| {
                    y.iter_mut().zip(w.chunks_exact(cols)).for_each(|(y, w)| *y = dot(x.row(0), w));
                })
            })?;
        } else {
            let block = (BLOCK / cols).clamp(1, count);
            let out = Columns { first: y.data_mut().as_mut_ptr(), stride: count };
            (0..count).into_par_iter().step_by(block).try_for_each(|n| {
                let len = block.min(count - n);
                self.with_rows(rows.start + n as u64, len, |w| {
                    let shape = Shape { m: x.rows(), n: len, k: cols };
                    let (a, b) = (View { data: x.data(), row: cols, col: 1 }, View { data: w, row: 1, col: cols });
                    // SAFETY: no other block writes these columns
                    unsafe { product(shape, a, b, out.column(n), out.stride) }
                })
            })?;
        }
        Ok(y)
    }

    /// Calls `work` with `count` decoded rows.
    fn with_rows(&self, first: u64, count: usize, work: impl FnOnce(&[f32])) -> Result<()> {
        let values = count * self.desc().cols() as usize;
        SCRATCH.with_borrow_mut(|(bytes, out)| {
            if out.len() < values {
                out.resize(values, 0.0);
            }
            self.read(first, bytes, &mut out[..values])?;
            work(&out[..values]);
            Ok(())
        })
    }
}

/// Columns of a row-major matrix, which several threads write, each its own.
#[derive(Clone, Copy)]
struct Columns {
    first: *mut f32,
    stride: usize,
}

// SAFETY: a pointer to plain numbers; who writes through it says why nobody else does
unsafe impl Sync for Columns {}

impl Columns {
    /// Where column `n` begins.
    fn column(&self, n: usize) -> *mut f32 {
        self.first.wrapping_add(n)
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

/// `out = a · b`, `out` in rows of `stride`, on this thread.
pub(crate) fn multiply(shape: Shape, a: View<'_>, b: View<'_>, out: &mut [f32], stride: usize) {
    View { data: out, row: stride, col: 1 }.check(shape.m, shape.n);
    // SAFETY: `out` is ours alone and large enough
    unsafe { product(shape, a, b, out.as_mut_ptr(), stride) }
}

/// # Safety
/// `out` must be valid for writes of `m` rows of `n` values, `stride` apart, that nothing else accesses.
unsafe fn product(Shape { m, n, k }: Shape, a: View<'_>, b: View<'_>, out: *mut f32, stride: usize) {
    a.check(m, k);
    b.check(k, n);
    // SAFETY: both views have been checked, `out` is the caller's promise; 0 is not read from `out`
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            stride as isize,
            false,
            a.data.as_ptr(),
            a.col as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.col as isize,
            b.row as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
