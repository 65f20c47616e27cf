//! LDL factorisation H = M·D·Mᵀ of a Gram matrix, M unit upper triangular and D diagonal.
//!
//! Blocked Cholesky, from the last column to the first. f32 is enough with the damping of GPTQ (arXiv:2210.17323); diagonal
//! blocks are factored in f64.

use rayon::prelude::*;

use crate::square::Square;
use runtime::gemm::{Op, Shape, View, multiply};

/// Columns that are factored at a time.
const BLOCK: usize = 128;
/// Rows that a thread takes at a time where earlier columns are updated.
const TILE: usize = 512;

/// LDL factors of a Gram matrix.
pub(crate) struct Factors {
    /// M above its diagonal; the rest is unspecified.
    pub(crate) feedback: Square,
    /// D.
    pub(crate) diagonal: Vec<f32>,
    /// The inverses of the diagonal blocks of M, [`BLOCK`] by [`BLOCK`] each.
    inverses: Vec<f32>,
}

/// Factors a symmetric matrix after adding `damping` times the mean of its diagonal to the diagonal. Reads the upper triangle.
/// Columns without inputs (zero on the diagonal) get the mean.
///
/// `None` if the damped matrix is not positive definite.
pub(crate) fn factor(mut h: Square, damping: f32) -> Option<Factors> {
    let n = h.size();
    let mean = ((0..n).map(|i| f64::from(h.at(i, i))).sum::<f64>() / n as f64) as f32;
    if !(mean > 0.0 && mean.is_finite()) {
        return None;
    }
    for i in 0..n {
        let diagonal = h.at_mut(i, i);
        *diagonal = if *diagonal > 0.0 { *diagonal } else { mean } + damping * mean;
    }
    let starts: Vec<usize> = (0..n).step_by(BLOCK).collect();
    for &start in starts.iter().rev() {
        let len = BLOCK.min(n - start);
        let root = root(&h, start, len)?;
        let inverse = inverse(&root, len);
        for i in 0..len {
            for j in i..len {
                *h.at_mut(start + i, start + j) = root[i * len + j] as f32;
            }
        }
        columns_above(&mut h, start, len, &inverse);
        update(&mut h, start, len);
    }
    let roots: Vec<f32> = (0..n).map(|i| h.at(i, i)).collect();
    h.data_mut()
        .par_chunks_mut(n)
        .for_each(|row| row.iter_mut().zip(&roots).for_each(|(m, root)| *m /= root));
    let mut inverses = vec![0.0; starts.len() * BLOCK * BLOCK];
    inverses.par_chunks_mut(BLOCK * BLOCK).zip(&starts).for_each(|(out, &start)| {
        let len = BLOCK.min(n - start);
        let block = |i: usize, j: usize| if i == j { 1.0 } else { f64::from(h.at(start + i, start + j)) };
        let block: Vec<f64> = (0..len * len).map(|at| block(at / len, at % len)).collect();
        // transposed
        let inverse = inverse(&block, len);
        (0..len).for_each(|i| (i..len).for_each(|j| out[i * BLOCK + j] = inverse[j * len + i]));
    });
    Some(Factors { feedback: h, diagonal: roots.into_iter().map(|root| root * root).collect(), inverses })
}

impl Factors {
    /// `rows·H⁻¹` in place, of rows as long as H is wide.
    pub(crate) fn solve(&self, rows: &mut [f32]) {
        let n = self.feedback.size();
        let starts: Vec<usize> = (0..n).step_by(BLOCK).collect();
        // y·Mᵀ = row, from the last column
        for &start in starts.iter().rev() {
            let after = start + BLOCK.min(n - start);
            self.step(rows, start, after..n, |at| View {
                data: &self.feedback.data()[at.0 * n + at.1..],
                row: 1,
                col: n,
            });
            self.within(rows, start, false);
        }
        for row in rows.chunks_exact_mut(n) {
            row.iter_mut().zip(&self.diagonal).for_each(|(y, d)| *y /= d);
        }
        // x·M = y, from the first
        for &start in &starts {
            self.step(rows, start, 0..start, |at| View {
                data: &self.feedback.data()[at.1 * n + at.0..],
                row: n,
                col: 1,
            });
            self.within(rows, start, true);
        }
    }

    /// Subtracts the contribution of the `known` columns from the block at `start`; `of` is the view of M to multiply with.
    fn step<'a>(
        &'a self,
        rows: &mut [f32],
        start: usize,
        known: std::ops::Range<usize>,
        of: impl Fn((usize, usize)) -> View<'a>,
    ) {
        let n = self.feedback.size();
        if known.is_empty() {
            return;
        }
        let from: Vec<f32> = rows.chunks_exact(n).flat_map(|row| &row[known.clone()]).copied().collect();
        let shape = Shape { m: rows.len() / n, n: BLOCK.min(n - start), k: known.len() };
        let a = View { data: &from, row: known.len(), col: 1 };
        multiply(shape, a, of((start, known.start)), Op::Subtract, &mut rows[start..], n);
    }

    /// Multiplies the block at `start` by the inverse of M's diagonal block (`plain`) or by its transpose.
    fn within(&self, rows: &mut [f32], start: usize, plain: bool) {
        let n = self.feedback.size();
        let len = BLOCK.min(n - start);
        let from: Vec<f32> = rows.chunks_exact(n).flat_map(|row| &row[start..start + len]).copied().collect();
        let (row, col) = if plain { (BLOCK, 1) } else { (1, BLOCK) };
        multiply(
            Shape { m: rows.len() / n, n: len, k: len },
            View { data: &from, row: len, col: 1 },
            View { data: &self.inverses[start * BLOCK..], row, col },
            Op::Set,
            &mut rows[start..],
            n,
        );
    }
}

/// R of the diagonal block at `start`, upper triangular: the block is R·Rᵀ.
fn root(h: &Square, start: usize, len: usize) -> Option<Vec<f64>> {
    let mut r = vec![0.0f64; len * len];
    for j in (0..len).rev() {
        for i in (0..=j).rev() {
            let known: f64 = (j + 1..len).map(|k| r[i * len + k] * r[j * len + k]).sum();
            let rest = f64::from(h.at(start + i, start + j)) - known;
            r[i * len + j] = if i < j {
                rest / r[j * len + j]
            } else if rest > 0.0 {
                rest.sqrt()
            } else {
                return None;
            };
        }
    }
    Some(r)
}

/// R⁻ᵀ: a row b above the block becomes b·R⁻ᵀ.
fn inverse(r: &[f64], len: usize) -> Vec<f32> {
    // R⁻¹ by back substitution, column by column; stored transposed
    let mut out = vec![0.0f32; len * len];
    let mut column = vec![0.0f64; len];
    for j in 0..len {
        column.fill(0.0);
        column[j] = 1.0 / r[j * len + j];
        for i in (0..j).rev() {
            let known: f64 = (i + 1..=j).map(|k| r[i * len + k] * column[k]).sum();
            column[i] = -known / r[i * len + i];
        }
        (0..=j).for_each(|i| out[j * len + i] = column[i] as f32);
    }
    out
}

/// Solves for the columns of R of the block, in the rows above it.
fn columns_above(h: &mut Square, start: usize, len: usize, inverse: &[f32]) {
    let n = h.size();
    h.data_mut()[..start * n].par_chunks_mut(TILE * n).for_each(|rows| {
        let m = rows.len() / n;
        let old: Vec<f32> = rows.chunks_exact(n).flat_map(|row| &row[start..start + len]).copied().collect();
        multiply(
            Shape { m, n: len, k: len },
            View { data: &old, row: len, col: 1 },
            View { data: inverse, row: len, col: 1 },
            Op::Set,
            &mut rows[start..],
            n,
        );
    });
}

/// Subtracts the block's contribution from the upper left part of H (trailing update).
fn update(h: &mut Square, start: usize, len: usize) {
    let n = h.size();
    let (above, _) = h.data_mut().split_at_mut(start * n);
    let explained: Vec<f32> =
        above.chunks_exact(n).flat_map(|row| &row[start..start + len]).copied().collect();
    above.par_chunks_mut(TILE * n).enumerate().for_each(|(tile, rows)| {
        let (first, m) = (tile * TILE, rows.len() / n);
        // only the upper triangle
        multiply(
            Shape { m, n: start - first, k: len },
            View { data: &explained[first * len..], row: len, col: 1 },
            View { data: &explained[first * len..], row: 1, col: len },
            Op::Subtract,
            &mut rows[first..],
            n,
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Σ x·xᵀ of pseudo-random vectors with correlated neighbours.
    fn correlated(n: usize, tokens: usize) -> Square {
        let mut h = Square::zeros(n);
        let mut random = testkit::SplitMix64(1);
        for _ in 0..tokens {
            let mut last = 0.0;
            let x: Vec<f32> = (0..n)
                .map(|_| {
                    last = 0.7 * last + random.uniform();
                    last
                })
                .collect();
            for i in 0..n {
                for j in i..n {
                    *h.at_mut(i, j) += x[i] * x[j];
                }
            }
        }
        h
    }

    #[test]
    fn the_factors_give_the_matrix_back() {
        for n in [5, 128, 300] {
            let h = correlated(n, 2 * n);
            let mean = (0..n).map(|i| h.at(i, i)).sum::<f32>() / n as f32;
            let mut copy = Square::zeros(n);
            copy.data_mut().copy_from_slice(h.data());
            let factors = factor(copy, 0.01).unwrap();
            let m = |i: usize, j: usize| match i.cmp(&j) {
                std::cmp::Ordering::Less => f64::from(factors.feedback.at(i, j)),
                std::cmp::Ordering::Equal => 1.0,
                std::cmp::Ordering::Greater => 0.0,
            };
            for (i, j) in (0..n).flat_map(|i| (i..n).map(move |j| (i, j))) {
                let found: f64 = (j..n).map(|k| m(i, k) * f64::from(factors.diagonal[k]) * m(j, k)).sum();
                let damped = if i == j { 0.01 * mean } else { 0.0 };
                let expected = f64::from(h.at(i, j) + damped);
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
            let mean = (0..n).map(|i| h.at(i, i)).sum::<f32>() / n as f32;
            let mut copy = Square::zeros(n);
            copy.data_mut().copy_from_slice(h.data());
            let factors = factor(copy, 0.01).unwrap();
            (0..n).for_each(|i| *h.at_mut(i, i) += 0.01 * mean);
            let rows: Vec<f32> = (0..3 * n).map(|i| (i * 7919 % 1009) as f32 / 504.0 - 1.0).collect();
            let mut solved = rows.clone();
            factors.solve(&mut solved);
            for (row, x) in rows.chunks_exact(n).zip(solved.chunks_exact(n)) {
                for (j, expected) in row.iter().enumerate() {
                    let product = |k: usize| f64::from(x[k]) * f64::from(h.at(k.min(j), k.max(j)));
                    let sum: f64 = (0..n).map(product).sum();
                    assert!((sum - f64::from(*expected)).abs() < 1e-3, "{n}: {j}: {sum}, not {expected}");
                }
            }
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_has_no_factors() {
        assert!(factor(Square::zeros(4), 0.01).is_none());
        let mut h = Square::zeros(2);
        h.data_mut().copy_from_slice(&[1.0, 2.0, 2.0, 1.0]);
        assert!(factor(h, 0.01).is_none());
    }
}
