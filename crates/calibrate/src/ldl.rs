//! LDL factorisation H = M·D·Mᵀ of a Gram matrix, M unit upper triangular and D diagonal.
//!
//! Blocked Cholesky, from the last column to the first. f32 is enough with the damping of GPTQ (arXiv:2210.17323); diagonal
//! blocks are factored in f64.

use std::ops::Range;

use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;
use runtime::gemm::general_mat_mul;

/// Columns that are factored at a time.
const BLOCK: usize = 128;
/// Rows that a thread takes at a time where earlier columns are updated.
const TILE: usize = 512;

/// LDL factors of a Gram matrix.
pub(crate) struct Factors {
    /// M above its diagonal; the rest is unspecified.
    pub(crate) feedback: Array2<f32>,
    /// D.
    pub(crate) diagonal: Vec<f32>,
    /// The inverses of the diagonal blocks of M, of [`BLOCK`] columns each.
    inverses: Vec<Array2<f32>>,
}

/// The columns of each block of a matrix of `n` columns.
fn blocks(n: usize) -> impl DoubleEndedIterator<Item = Range<usize>> + ExactSizeIterator {
    (0..n).step_by(BLOCK).map(move |start| start..(start + BLOCK).min(n))
}

/// Factors a symmetric matrix after adding `damping` times the mean of its diagonal to the diagonal. Reads the upper triangle.
/// Columns without inputs (zero on the diagonal) get the mean.
///
/// `None` if the damped matrix is not positive definite.
pub(crate) fn factor(mut h: Array2<f32>, damping: f32) -> Option<Factors> {
    let n = h.nrows();
    let mean = (h.diag().iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64) as f32;
    if !(mean > 0.0 && mean.is_finite()) {
        return None;
    }
    h.diag_mut().mapv_inplace(|x| (if x > 0.0 { x } else { mean }) + damping * mean);
    for block in blocks(n).rev() {
        let root = root(h.slice(s![block.clone(), block.clone()]))?;
        for (i, j) in upper(root.nrows()) {
            h[[block.start + i, block.start + j]] = root[[i, j]] as f32;
        }
        columns_above(&mut h, &block, &inverse(&root));
        update(&mut h, &block);
    }
    let roots: Array1<f32> = h.diag().to_owned();
    h.axis_iter_mut(Axis(0)).into_par_iter().for_each(|mut row| row /= &roots);
    let inverse_of = |block: Range<usize>| {
        let mut m = h.slice(s![block.clone(), block]).mapv(f64::from);
        m.diag_mut().fill(1.0);
        inverse(&m).reversed_axes()
    };
    let inverses = blocks(n).collect::<Vec<_>>().into_par_iter().map(inverse_of).collect();
    Some(Factors { feedback: h, diagonal: roots.iter().map(|root| root * root).collect(), inverses })
}

impl Factors {
    /// `rows·H⁻¹` in place, of rows as long as H is wide.
    pub(crate) fn solve(&self, mut rows: ArrayViewMut2<'_, f32>) {
        let n = self.feedback.nrows();
        // y·Mᵀ = row, from the last column
        for (block, inverse) in blocks(n).zip(&self.inverses).rev() {
            let known = block.end..n;
            let m = self.feedback.slice(s![block.clone(), known.clone()]);
            subtract(&mut rows, known, m.reversed_axes(), &block);
            within(&mut rows, &block, inverse.t());
        }
        rows.outer_iter_mut()
            .for_each(|mut row| row.iter_mut().zip(&self.diagonal).for_each(|(y, d)| *y /= d));
        // x·M = y, from the first
        for (block, inverse) in blocks(n).zip(&self.inverses) {
            let known = 0..block.start;
            let m = self.feedback.slice(s![known.clone(), block.clone()]);
            subtract(&mut rows, known, m, &block);
            within(&mut rows, &block, inverse.view());
        }
    }
}

/// Subtracts the contribution of the `known` columns from a block of columns; `m` is the part of M to multiply with.
fn subtract(
    rows: &mut ArrayViewMut2<'_, f32>,
    known: Range<usize>,
    m: ArrayView2<'_, f32>,
    block: &Range<usize>,
) {
    if known.is_empty() {
        return;
    }
    let from = rows.slice(s![.., known]).to_owned();
    general_mat_mul(-1.0, from.view(), m, 1.0, rows.slice_mut(s![.., block.clone()]));
}

/// Multiplies a block of columns by a matrix.
fn within(rows: &mut ArrayViewMut2<'_, f32>, block: &Range<usize>, by: ArrayView2<'_, f32>) {
    let columns = s![.., block.clone()];
    let from = rows.slice(columns).to_owned();
    general_mat_mul(1.0, from.view(), by, 0.0, rows.slice_mut(columns));
}

/// The places on and above the diagonal.
fn upper(len: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..len).flat_map(move |i| (i..len).map(move |j| (i, j)))
}

/// R of a diagonal block, upper triangular: the block is R·Rᵀ.
fn root(block: ArrayView2<'_, f32>) -> Option<Array2<f64>> {
    let len = block.nrows();
    let mut r = Array2::zeros((len, len));
    for j in (0..len).rev() {
        for i in (0..=j).rev() {
            let known: f64 = (j + 1..len).map(|k| r[[i, k]] * r[[j, k]]).sum();
            let rest = f64::from(block[[i, j]]) - known;
            r[[i, j]] = if i < j {
                rest / r[[j, j]]
            } else if rest > 0.0 {
                rest.sqrt()
            } else {
                return None;
            };
        }
    }
    Some(r)
}

/// R⁻ᵀ of an upper triangular R: a row b above the block becomes b·R⁻ᵀ.
fn inverse(r: &Array2<f64>) -> Array2<f32> {
    // R⁻¹ by back substitution, column by column; stored transposed
    let len = r.nrows();
    let mut out = Array2::zeros((len, len));
    let mut column = vec![0.0f64; len];
    for j in 0..len {
        column.fill(0.0);
        column[j] = 1.0 / r[[j, j]];
        for i in (0..j).rev() {
            let known: f64 = (i + 1..=j).map(|k| r[[i, k]] * column[k]).sum();
            column[i] = -known / r[[i, i]];
        }
        (0..=j).for_each(|i| out[[j, i]] = column[i] as f32);
    }
    out
}

/// Solves for the columns of R of a block, in the rows above it.
fn columns_above(h: &mut Array2<f32>, block: &Range<usize>, inverse: &Array2<f32>) {
    let mut above = h.slice_mut(s![..block.start, ..]);
    above.axis_chunks_iter_mut(Axis(0), TILE).into_par_iter().for_each(|mut rows| {
        within(&mut rows, block, inverse.view());
    });
}

/// Subtracts the contribution of a block of columns from the upper left part of H (trailing update).
fn update(h: &mut Array2<f32>, block: &Range<usize>) {
    let mut above = h.slice_mut(s![..block.start, ..]);
    let explained = above.slice(s![.., block.clone()]).to_owned();
    above.axis_chunks_iter_mut(Axis(0), TILE).into_par_iter().enumerate().for_each(|(tile, mut rows)| {
        // only the upper triangle
        let first = tile * TILE;
        let a = explained.slice(s![first..first + rows.nrows(), ..]);
        let b = explained.slice(s![first.., ..]).reversed_axes();
        general_mat_mul(-1.0, a, b, 1.0, rows.slice_mut(s![.., first..block.start]));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Σ x·xᵀ of pseudo-random vectors with correlated neighbours.
    fn correlated(n: usize, tokens: usize) -> Array2<f32> {
        let mut h = Array2::zeros((n, n));
        let mut random = testkit::SplitMix64(1);
        for _ in 0..tokens {
            let mut last = 0.0;
            let x: Vec<f32> = (0..n)
                .map(|_| {
                    last = 0.7 * last + random.uniform();
                    last
                })
                .collect();
            upper(n).for_each(|(i, j)| h[[i, j]] += x[i] * x[j]);
        }
        h
    }

    #[test]
    fn the_factors_give_the_matrix_back() {
        for n in [5, 128, 300] {
            let h = correlated(n, 2 * n);
            let mean = h.diag().mean().unwrap();
            let factors = factor(h.clone(), 0.01).unwrap();
            let m = |i: usize, j: usize| match i.cmp(&j) {
                std::cmp::Ordering::Less => f64::from(factors.feedback[[i, j]]),
                std::cmp::Ordering::Equal => 1.0,
                std::cmp::Ordering::Greater => 0.0,
            };
            for (i, j) in upper(n) {
                let found: f64 = (j..n).map(|k| m(i, k) * f64::from(factors.diagonal[k]) * m(j, k)).sum();
                let damped = if i == j { 0.01 * mean } else { 0.0 };
                let expected = f64::from(h[[i, j]] + damped);
                assert!(
                    (found - expected).abs() < 1e-4 * f64::from(mean),
                    "{n}: {i}, {j}: {found}, not {expected}"
                );
            }
        }
    }

    #[test]
    fn solving_inverts_the_product() {
        for n in [5, 128, 300] {
            let mut h = correlated(n, 2 * n);
            let mean = h.diag().mean().unwrap();
            let factors = factor(h.clone(), 0.01).unwrap();
            h.diag_mut().mapv_inplace(|x| x + 0.01 * mean);
            let rows =
                Array2::from_shape_fn((3, n), |(i, j)| ((i * n + j) * 7919 % 1009) as f32 / 504.0 - 1.0);
            let mut solved = rows.clone();
            factors.solve(solved.view_mut());
            for (row, x) in rows.outer_iter().zip(solved.outer_iter()) {
                for (j, expected) in row.iter().enumerate() {
                    let product = |k: usize| f64::from(x[k]) * f64::from(h[[k.min(j), k.max(j)]]);
                    let sum: f64 = (0..n).map(product).sum();
                    assert!((sum - f64::from(*expected)).abs() < 1e-3, "{n}: {j}: {sum}, not {expected}");
                }
            }
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_has_no_factors() {
        assert!(factor(Array2::zeros((4, 4)), 0.01).is_none());
        assert!(factor(ndarray::array![[1.0, 2.0], [2.0, 1.0]], 0.01).is_none());
    }
}
