//! Quantization of one matrix, by error feedback (LDLQ) or round-to-nearest (RTN), and its error on held-out tokens.

use quant::{PANEL, Panel, Simd};
use rayon::prelude::*;
use tensor::{DType, Result};

use crate::layer_stats::{Correction, HeldOut};
use crate::ldl::Factors;
use runtime::gemm::{Op, Shape, View, multiply};

/// Rows that a thread quantizes at a time: enough for efficient matrix products.
const ROWS: usize = 128;

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
}

/// Quantizes a matrix with error feedback (LDLQ) after applying the correction, with or without its residual term. For F32
/// only the correction is applied.
///
/// # Errors
/// `Io` and `Malformed` of the source of the weights.
pub(crate) fn quantize_ldlq(
    matrix: &MatrixSource<'_>,
    factors: &Factors,
    correction: &Correction,
    residual: bool,
) -> Result<Rounded> {
    let (cols, dtype) = (matrix.cols, matrix.dtype);
    by_rows(matrix, |first, weights, bytes, values| {
        if correction.is_none() {
            return round_rows(dtype, factors, weights, bytes, values);
        }
        let mut corrected = correction.rows(first, weights, residual);
        factors.solve(&mut corrected);
        corrected.iter_mut().zip(weights).for_each(|(row, weight)| *row += weight);
        if dtype == DType::F32 {
            quant::encode(Simd::detect(), dtype, cols, &corrected, None, bytes);
            return values.copy_from_slice(&corrected);
        }
        round_rows(dtype, factors, &corrected, bytes, values);
    })
}

/// Quantizes rows panel by panel: the errors of earlier panels are fed back into the targets of the next one.
fn round_rows(dtype: DType, factors: &Factors, weights: &[f32], bytes: &mut [u8], values: &mut [f32]) {
    let cols = factors.feedback.size();
    let rows = weights.len() / cols;
    let row_bytes = bytes.len() / rows;
    // ŵ − w so far
    let mut errors = vec![0.0; weights.len()];
    let mut targets = vec![0.0; rows * PANEL];
    let mut feedback = vec![0.0; PANEL * PANEL];
    for first in (0..cols).step_by(PANEL) {
        let len = PANEL.min(cols - first);
        for (target, weights) in targets.chunks_exact_mut(PANEL).zip(weights.chunks_exact(cols)) {
            target[..len].copy_from_slice(&weights[first..][..len]);
        }
        multiply(
            Shape { m: rows, n: len, k: first },
            View { data: &errors, row: cols, col: 1 },
            View { data: &factors.feedback.data()[first..], row: cols, col: 1 },
            Op::Subtract,
            &mut targets,
            PANEL,
        );
        for (i, row) in feedback.chunks_exact_mut(PANEL).take(len).enumerate() {
            row[..len].copy_from_slice(&factors.feedback.data()[(first + i) * cols + first..][..len]);
        }
        let at = |value: usize| value / dtype.block_len() * dtype.block_bytes();
        for row in 0..rows {
            let span = row * cols + first..row * cols + first + len;
            let panel = Panel {
                weights: &weights[span.clone()],
                targets: &targets[row * PANEL..][..len],
                feedback: &feedback,
                importance: &factors.diagonal[first..][..len],
            };
            let out = &mut bytes[row * row_bytes..][at(first)..at(first + len)];
            quant::round_panel(Simd::detect(), dtype, &panel, out, &mut values[span.clone()]);
            let errors = errors[span.clone()].iter_mut();
            errors.zip(values[span].iter().zip(panel.weights)).for_each(|(e, (v, w))| *e = v - w);
        }
    }
}

/// Quantizes a matrix by round-to-nearest (RTN) with importance, as llama-quantize does.
///
/// # Errors
/// `Io` and `Malformed` of the source of the weights.
pub(crate) fn quantize_rtn(matrix: &MatrixSource<'_>, importance: Option<&[f32]>) -> Result<Rounded> {
    by_rows(matrix, |_, weights, bytes, values| {
        quant::encode(Simd::detect(), matrix.dtype, matrix.cols, weights, importance, bytes);
        quant::decode(Simd::detect(), matrix.dtype, bytes, values);
    })
}

fn by_rows(
    matrix: &MatrixSource<'_>,
    round: impl Fn(usize, &[f32], &mut [u8], &mut [f32]) + Sync,
) -> Result<Rounded> {
    let &MatrixSource { dtype, rows, cols, read, held_out } = matrix;
    let row_bytes = cols / dtype.block_len() * dtype.block_bytes();
    let mut bytes = vec![0; rows * row_bytes];
    let costs: Vec<HeldOutError> = bytes
        .par_chunks_mut(ROWS * row_bytes)
        .enumerate()
        .map(|(n, bytes)| {
            let mut weights = vec![0.0; bytes.len() / row_bytes * cols];
            read((n * ROWS) as u64, &mut weights)?;
            let mut values = vec![0.0; weights.len()];
            round(n * ROWS, &weights, bytes, &mut values);
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
fn cost(first: usize, weights: &[f32], values: &[f32], held_out: &HeldOut) -> HeldOutError {
    let (tokens, cols) = (held_out.rounded.rows(), held_out.rounded.cols());
    if tokens == 0 {
        return HeldOutError::default();
    }
    let shape = Shape { m: weights.len() / cols, n: tokens, k: cols };
    let row = |data| View { data, row: cols, col: 1 };
    let column = |data| View { data, row: 1, col: cols };
    let mut y = vec![0.0; shape.m * tokens];
    multiply(shape, row(values), column(held_out.rounded.data()), Op::Set, &mut y, tokens);
    multiply(shape, row(weights), column(held_out.original.data()), Op::Subtract, &mut y, tokens);
    let square = |sum: f64, y: f32| sum + f64::from(y) * f64::from(y);
    let output = y.iter().copied().fold(0.0, square);
    if held_out.output_error.cols() == 0 {
        return HeldOutError { output, target: output };
    }
    let mut target = 0.0;
    for (row, y) in y.chunks_exact(tokens).enumerate() {
        let output_error =
            held_out.output_error.data().iter().skip(first + row).step_by(held_out.output_error.cols());
        target = y.iter().zip(output_error).map(|(y, output_error)| y - output_error).fold(target, square);
    }
    HeldOutError { output, target }
}
