//! Quantization of one matrix, by error feedback (LDLQ) or round-to-nearest (RTN), and its error on held-out tokens.

use ndarray::{Array2, s};
use quant::{PANEL, Panel, Simd};
use rayon::prelude::*;
use runtime::RowMajor;
use runtime::gemm::general_mat_mul;
use tensor::{DType, Result};

use crate::layer_stats::{Correction, HeldOut};
use crate::ldl::Factors;

/// Rows that a thread quantizes at a time: enough for efficient matrix products.
const ROWS: usize = 128;
/// Weights that share a scale on a 4-bit quantization grid.
const GRID_BLOCK: usize = 32;

/// A quantized matrix.
pub(crate) struct Rounded {
    pub(crate) bytes: Vec<u8>,
    pub(crate) cost: HeldOutError,
}

/// Squared output error on held-out tokens, summed.
#[derive(Clone, Copy, Default)]
pub(crate) struct HeldOutError {
    /// ‖Ŵ·x̂ − W·x‖²: the error against the original output.
    pub(crate) output: f64,
    /// ‖Ŵ·x̂ − W·x − Δy‖²: the error against the corrected target.
    pub(crate) target: f64,
}

/// A matrix to quantize.
pub(crate) struct MatrixSource<'a> {
    pub(crate) dtype: DType,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Reads rows into the buffer, beginning with the given row.
    pub(crate) read: &'a (dyn Fn(u64, &mut [f32]) -> Result<()> + Sync),
    pub(crate) held_out: &'a HeldOut,
    /// The weights are close to a 4-bit quantization grid, on which they are rounded.
    pub(crate) keeps_grid: bool,
    /// Vector instructions of codecs.
    pub(crate) simd: Simd,
}

/// Quantizes a matrix with error feedback (LDLQ) after applying the correction, with or without its residual term. For F32
/// only the correction is applied.
///
/// # Errors
/// `Io` and `Malformed` of the source of the weights.
pub(crate) fn quantize_ldlq(
    matrix: &MatrixSource<'_>,
    factors: &Factors,
    correction: Option<&Correction>,
    residual: bool,
) -> Result<Rounded> {
    let (dtype, simd) = (matrix.dtype, matrix.simd);
    by_rows(matrix, |first, weights, bytes| {
        // of the weights before the correction, which is not part of the grid
        let scales = if matrix.keeps_grid { quant::grid_scales(simd, weights.values()) } else { Vec::new() };
        let round = |weights: &Array2<f32>, bytes: &mut [u8]| {
            round_rows(simd, dtype, factors, (weights, &scales), bytes)
        };
        let Some(correction) = correction else { return round(weights, bytes) };
        let mut corrected = correction.rows(first, weights.view(), residual);
        factors.solve(corrected.view_mut());
        corrected += weights;
        if dtype == DType::F32 {
            quant::encode(matrix.simd, dtype, matrix.cols, corrected.values(), None, bytes);
            return corrected;
        }
        round(&corrected, bytes)
    })
}

/// Quantizes rows panel by panel: the errors of earlier panels are fed back into the targets of the next one. `scales` are
/// tried beside the usual ones, one for each block of 32 weights, if there are any. Returns the quantized values.
fn round_rows(
    simd: Simd,
    dtype: DType,
    factors: &Factors,
    (weights, scales): (&Array2<f32>, &[f32]),
    bytes: &mut [u8],
) -> Array2<f32> {
    let (rows, cols) = weights.dim();
    let row_bytes = bytes.len() / rows;
    let mut values = Array2::zeros((rows, cols));
    // ŵ − w so far
    let mut errors = Array2::zeros((rows, cols));
    let mut feedback = Array2::zeros((PANEL, PANEL));
    for first in (0..cols).step_by(PANEL) {
        let len = PANEL.min(cols - first);
        let panel = s![.., first..first + len];
        let mut targets = weights.slice(panel).to_owned();
        let above = factors.feedback.slice(s![..first, first..first + len]);
        general_mat_mul(-1.0, errors.slice(s![.., ..first]), above, 1.0, targets.view_mut());
        let diagonal = factors.feedback.slice(s![first..first + len, first..first + len]);
        feedback.slice_mut(s![..len, ..len]).assign(&diagonal);
        let at = |value: usize| value / dtype.block_len() * dtype.block_bytes();
        for row in 0..rows {
            let span = row * cols + first..row * cols + first + len;
            let blocks = span.start / GRID_BLOCK..span.end / GRID_BLOCK;
            let panel = Panel {
                weights: &weights.values()[span.clone()],
                targets: targets.row_values(row),
                feedback: feedback.values(),
                importance: &factors.diagonal[first..][..len],
                scales: scales.get(blocks).unwrap_or_default(),
            };
            let out = &mut bytes[row * row_bytes..][at(first)..at(first + len)];
            quant::round_panel(simd, dtype, &panel, out, &mut values.values_mut()[span]);
        }
        errors.slice_mut(panel).assign(&(&values.slice(panel) - &weights.slice(panel)));
    }
    values
}

/// Quantizes a matrix by round-to-nearest (RTN): with importance, as llama-quantize does, or on its own grid.
///
/// # Errors
/// `Io` and `Malformed` of the source of the weights.
pub(crate) fn quantize_rtn(matrix: &MatrixSource<'_>, importance: Option<&[f32]>) -> Result<Rounded> {
    by_rows(matrix, |_, weights, bytes| {
        if matrix.keeps_grid {
            quant::repack_q4_0(matrix.simd, weights.values(), bytes);
        } else {
            quant::encode(matrix.simd, matrix.dtype, matrix.cols, weights.values(), importance, bytes);
        }
        let mut values = Array2::zeros(weights.raw_dim());
        quant::decode(matrix.simd, matrix.dtype, bytes, values.values_mut());
        values
    })
}

/// Quantizes some rows at a time. `round` gets the number of the first row and the weights; it fills the bytes and returns the
/// quantized values.
fn by_rows(
    matrix: &MatrixSource<'_>,
    round: impl Fn(usize, &Array2<f32>, &mut [u8]) -> Array2<f32> + Sync,
) -> Result<Rounded> {
    let &MatrixSource { dtype, rows, cols, read, held_out, .. } = matrix;
    let row_bytes = cols / dtype.block_len() * dtype.block_bytes();
    let mut bytes = vec![0; rows * row_bytes];
    let costs: Vec<HeldOutError> = bytes
        .par_chunks_mut(ROWS * row_bytes)
        .enumerate()
        .map(|(n, bytes)| {
            let mut weights = Array2::zeros((bytes.len() / row_bytes, cols));
            read((n * ROWS) as u64, weights.values_mut())?;
            let values = round(n * ROWS, &weights, bytes);
            Ok(cost(n * ROWS, &weights, &values, held_out))
        })
        .collect::<Result<_>>()?;
    let cost = costs.iter().fold(HeldOutError::default(), |sum, cost| HeldOutError {
        output: sum.output + cost.output,
        target: sum.target + cost.target,
    });
    Ok(Rounded { bytes, cost })
}

/// The error of some rows, beginning with row `first`.
fn cost(first: usize, weights: &Array2<f32>, values: &Array2<f32>, held_out: &HeldOut) -> HeldOutError {
    let squares = |y: &Array2<f32>| y.iter().fold(0.0, |sum, y| sum + f64::from(*y) * f64::from(*y));
    let mut y = Array2::zeros((weights.nrows(), held_out.rounded.nrows()));
    general_mat_mul(1.0, values.view(), held_out.rounded.t(), 0.0, y.view_mut());
    general_mat_mul(-1.0, weights.view(), held_out.original.t(), 1.0, y.view_mut());
    let output = squares(&y);
    if held_out.output_error.ncols() == 0 {
        return HeldOutError { output, target: output };
    }
    y -= &held_out.output_error.slice(s![.., first..first + weights.nrows()]).t();
    HeldOutError { output, target: squares(&y) }
}

#[cfg(test)]
mod tests {
    use testkit::SplitMix64;

    use super::*;
    use crate::ldl::factor;

    /// Σ x·xᵀ of inputs whose neighbours go together, over all of the matrix.
    fn gram(n: usize) -> Array2<f32> {
        let mut random = SplitMix64(2);
        let mut h = Array2::zeros((n, n));
        for _ in 0..2 * n {
            let mut last = 0.0;
            let x: Vec<f32> = (0..n)
                .map(|_| {
                    last = 0.9 * last + random.uniform();
                    last
                })
                .collect();
            for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
                h[[i, j]] += x[i] * x[j];
            }
        }
        h
    }

    /// H = M·D·Mᵀ with M unit upper triangular, column by column from the last, in f64.
    fn naive_factors(h: &Array2<f32>, damping: f64) -> (Vec<Vec<f64>>, Vec<f64>) {
        let n = h.nrows();
        let mean = (0..n).map(|i| f64::from(h[[i, i]])).sum::<f64>() / n as f64;
        let mut rest: Vec<Vec<f64>> = (0..n)
            .map(|i| {
                (0..n).map(|j| f64::from(h[[i, j]]) + if i == j { damping * mean } else { 0.0 }).collect()
            })
            .collect();
        let (mut m, mut d) = (vec![vec![0.0; n]; n], vec![0.0; n]);
        for k in (0..n).rev() {
            d[k] = rest[k][k];
            (0..=k).for_each(|i| m[i][k] = rest[i][k] / d[k]);
            for (i, j) in (0..k).flat_map(|i| (0..k).map(move |j| (i, j))) {
                rest[i][j] -= m[i][k] * d[k] * m[j][k];
            }
        }
        (m, d)
    }

    /// LDLQ as the definition has it, column by column in f64, to multiples of `step`: what a column is rounded for is its
    /// weight without the errors before it.
    fn naive_ldlq(weights: &[f32], m: &[Vec<f64>], step: f64) -> Vec<f64> {
        let mut values: Vec<f64> = Vec::new();
        for (k, &weight) in weights.iter().enumerate() {
            let before = (0..k).map(|j| (values[j] - f64::from(weights[j])) * m[j][k]).sum::<f64>();
            values.push(((f64::from(weight) - before) / step).round().clamp(-127.0, 127.0) * step);
        }
        values
    }

    fn loss(h: &Array2<f32>, weights: &[f32], values: impl Fn(usize) -> f64) -> f64 {
        let n = h.nrows();
        let errors: Vec<f64> = (0..n).map(|i| values(i) - f64::from(weights[i])).collect();
        (0..n)
            .flat_map(|i| (0..n).map(move |j| (i, j)))
            .map(|(i, j)| errors[i] * f64::from(h[[i, j]]) * errors[j])
            .sum()
    }

    /// Rows that are wider than a panel: errors reach from one panel into the next.
    #[test]
    fn error_feedback_is_that_of_a_naive_implementation() {
        let (n, rows, damping) = (3 * PANEL, 5, 0.01);
        let h = gram(n);
        let (m, d) = naive_factors(&h, damping);
        let factors = factor(h.clone(), damping as f32).unwrap();
        for (i, j) in (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j))) {
            let found = f64::from(factors.feedback[[i, j]]);
            assert!((found - m[i][j]).abs() < 1e-3, "{i}, {j}: {found}, not {}", m[i][j]);
        }
        (0..n).for_each(|i| assert!((f64::from(factors.diagonal[i]) / d[i] - 1.0).abs() < 1e-3, "{i}"));

        let mut random = SplitMix64(3);
        let mut weights = Array2::from_shape_simple_fn((rows, n), || random.normal() * 0.02);
        // every block has the largest weight, so that Q8_0's scales are about those of the naive grid
        weights.iter_mut().step_by(32).for_each(|w| *w = 0.1);
        let mut bytes = vec![0; rows * n / 32 * DType::Q8_0.block_bytes()];
        let values = round_rows(Simd::detect(), DType::Q8_0, &factors, (&weights, &[]), &mut bytes);
        let mut decoded = vec![0.0; rows * n];
        quant::decode(Simd::Scalar, DType::Q8_0, &bytes, &mut decoded);
        assert_eq!(decoded, values.values());

        for (weights, values) in weights.values().chunks(n).zip(values.values().chunks(n)) {
            let step = 0.1 / 127.0;
            let naive = naive_ldlq(weights, &m, step);
            let nearest = |i: usize| (f64::from(weights[i]) / step).round() * step;
            let [ours, naive, nearest] = [
                loss(&h, weights, |i| f64::from(values[i])),
                loss(&h, weights, |i| naive[i]),
                loss(&h, weights, nearest),
            ];
            assert!(naive < 0.6 * nearest, "feedback does something: {naive:e} of {nearest:e}");
            assert!(ours < 1.15 * naive, "{ours:e}, naively {naive:e}, to the nearest {nearest:e}");
        }
    }
}
