//! Gram matrices: sums of outer products of activations.

use rayon::prelude::*;
use runtime::Matrix;

use crate::square::Square;
use runtime::gemm::{Op, Shape, View, multiply};

/// Rows of a sum that a thread takes at a time.
const TILE: usize = 256;

/// Adds Σ x·xᵀ to the upper triangle of H.
pub(crate) fn add(h: &mut Square, x: &Matrix) {
    let n = h.size();
    assert_eq!(x.cols(), n, "as wide as the matrix");
    h.data_mut().par_chunks_mut(TILE * n).enumerate().for_each(|(tile, rows)| {
        let (first, m) = (tile * TILE, rows.len() / n);
        multiply(
            Shape { m, n: n - first, k: x.rows() },
            View { data: &x.data()[first..], row: 1, col: n },
            View { data: &x.data()[first..], row: n, col: 1 },
            Op::Add,
            &mut rows[first..],
            n,
        );
    });
}

/// Adds Σ x·yᵀ: a row for each column of `x`, `cols` columns as `y` has.
pub(crate) fn add_product(sum: &mut [f32], cols: usize, x: &Matrix, y: &Matrix) {
    assert!(sum.len() == x.cols() * cols && y.cols() == cols && x.rows() == y.rows(), "sizes of a sum");
    sum.par_chunks_mut(TILE * cols).enumerate().for_each(|(tile, rows)| {
        multiply(
            Shape { m: rows.len() / cols, n: cols, k: x.rows() },
            View { data: &x.data()[tile * TILE..], row: 1, col: x.cols() },
            View { data: y.data(), row: cols, col: 1 },
            Op::Add,
            rows,
            cols,
        );
    });
}

/// `h += factor·other`.
pub(crate) fn blend(h: &mut Square, other: &Square, factor: f32) {
    h.data_mut().par_iter_mut().zip(other.data()).for_each(|(h, o)| *h += factor * o);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sums do not depend on how the tokens are batched, and are those of f64.
    #[test]
    fn sums_are_the_same_for_any_batches() {
        let (n, tokens) = (300, 61);
        let mut random = testkit::SplitMix64(1);
        let x: Vec<f32> = (0..n * tokens).map(|_| random.uniform()).collect();
        for batch in [1, 7, tokens] {
            let mut h = Square::zeros(n);
            let mut product = vec![0.0; n * n];
            for rows in x.chunks(batch * n) {
                let mut x = Matrix::zeros(rows.len() / n, n);
                x.data_mut().copy_from_slice(rows);
                add(&mut h, &x);
                add_product(&mut product, n, &x, &x);
            }
            for (i, j) in (0..n).flat_map(|i| (i..n).map(move |j| (i, j))) {
                let expected: f64 = x.chunks(n).map(|x| f64::from(x[i]) * f64::from(x[j])).sum();
                for found in [h.at(i, j), product[i * n + j], product[j * n + i]] {
                    assert!(
                        (f64::from(found) - expected).abs() < 1e-5,
                        "{batch}: {i}, {j}: {found}, {expected}"
                    );
                }
            }
        }
    }
}
