//! Gram matrices: sums of outer products of activations.

use ndarray::parallel::par_azip;
use ndarray::{Array2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;
use runtime::Matrix;
use runtime::gemm::general_mat_mul;

/// Rows of a sum that a thread takes at a time.
const TILE: usize = 256;

/// Adds Σ x·xᵀ to the upper triangle of H, x a row of `[tokens, cols]`.
pub(crate) fn add(h: &mut Array2<f32>, x: &Matrix) {
    h.axis_chunks_iter_mut(Axis(0), TILE).into_par_iter().enumerate().for_each(|(tile, mut rows)| {
        let first = tile * TILE;
        add_rows(x, first, x, first, rows.slice_mut(s![.., first..]));
    });
}

/// Adds Σ x·yᵀ to a matrix of a row for each column of `x`, and a column for each of `y`.
pub(crate) fn add_product(sum: &mut Array2<f32>, x: &Matrix, y: &Matrix) {
    sum.axis_chunks_iter_mut(Axis(0), TILE).into_par_iter().enumerate().for_each(|(tile, rows)| {
        add_rows(x, tile * TILE, y, 0, rows);
    });
}

/// Adds some rows of Σ x·yᵀ: those of the columns of `x` from `row` on, and the columns of `y` from `col` on.
fn add_rows(x: &Matrix, row: usize, y: &Matrix, col: usize, rows: ArrayViewMut2<'_, f32>) {
    let x = x.slice(s![.., row..row + rows.nrows()]);
    general_mat_mul(1.0, x.reversed_axes(), y.slice(s![.., col..]), 1.0, rows);
}

/// `h += factor·other`.
pub(crate) fn blend(h: &mut Array2<f32>, other: &Array2<f32>, factor: f32) {
    par_azip!((h in h, other in other) *h += factor * other);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sums do not depend on how the tokens are batched, and are those of f64.
    #[test]
    fn sums_are_the_same_for_any_batches() {
        let (n, tokens) = (300, 61);
        let mut random = testkit::SplitMix64(1);
        let x = Matrix::from_shape_simple_fn((tokens, n), || random.uniform());
        for batch in [1, 7, tokens] {
            let mut h = Array2::zeros((n, n));
            let mut product = Array2::zeros((n, n));
            for rows in x.axis_chunks_iter(Axis(0), batch) {
                let rows = rows.to_owned();
                add(&mut h, &rows);
                add_product(&mut product, &rows, &rows);
            }
            for (i, j) in (0..n).flat_map(|i| (i..n).map(move |j| (i, j))) {
                let expected: f64 = x.outer_iter().map(|x| f64::from(x[i]) * f64::from(x[j])).sum();
                for found in [h[[i, j]], product[[i, j]], product[[j, i]]] {
                    assert!(
                        (f64::from(found) - expected).abs() < 1e-5,
                        "{batch}: {i}, {j}: {found}, {expected}"
                    );
                }
            }
        }
    }
}
