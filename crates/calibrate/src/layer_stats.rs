//! Statistics of one matrix: the Gram matrix of its inputs, and the correction for errors of the quantized prefix.
//!
//! Let x be the input of a token in the original model, and x̂ the input in the model whose earlier matrices are quantized.
//! The target of the output is W·x plus a part of the accumulated error of the residual stream. The weights to quantize are
//! the least-squares solution on x̂:
//!
//! > W* = W + C·H⁻¹,  H = Σ x̂·x̂ᵀ,  C = W·Σ (x − x̂)·x̂ᵀ + Σ Δy·x̂ᵀ
//!
//! The first term of C is that of QEP (arXiv:2504.09629). The second term corrects the residual stream h, for matrices whose
//! output y is normalised, g·y/rms(y), and added to h: Δy = β·(h − ĥ)·rms(y)/g. In a mixture of experts the norm g applies to
//! the sum s of the experts' and the dense network's output, each behind a norm of its own. There the error before g is
//! β·((h − ĥ)·rms(s)/g + m − m̂), m being the other summand; it is divided by the inner norm in the same way. So the branch
//! that is quantized later compensates errors of the earlier one.

use ndarray::{Array2, ArrayView2, ArrayViewMut1, Axis, s};
use rayon::prelude::*;
use runtime::gemm::general_mat_mul;
use runtime::{Matrix, RowMajor};

use crate::capture::{Captured, CapturedRows};
use crate::gram;

/// β: the part of the residual stream's error that one matrix corrects.
const RESIDUAL_SHARE: f32 = 0.5;
/// Bound of a token's weight, relative to the mean, and inverse of the lower bound.
const MOST_WEIGHT: f32 = 30.0;
/// Lower bound of the weights of a norm, relative to their mean.
const LEAST_NORM: f32 = 0.25;

/// Statistics of one matrix, summed over tokens.
pub(crate) struct LayerStats {
    hessian: Array2<f32>,
    /// Σ x̂·(x − x̂)ᵀ, of which W makes the first term of Cᵀ.
    cross: Array2<f32>,
    /// Σ x̂·Δyᵀ: a row each column of W, a column each output. Without columns where the output is not added to the residual
    /// stream.
    output_error: Array2<f32>,
    tokens: f32,
    held_out: HeldOut,
}

/// Held-out tokens: the output Ŵ·x̂ is compared with W·x + Δy. A row a token.
pub(crate) struct HeldOut {
    pub(crate) rounded: Matrix,
    pub(crate) original: Matrix,
    /// Δy; without columns where the output is not added to the residual stream.
    pub(crate) output_error: Matrix,
}

/// The statistics that a matrix is quantized with.
pub(crate) struct RoundingTarget {
    pub(crate) hessian: Array2<f32>,
    /// `None` for C = 0.
    pub(crate) correction: Option<Correction>,
    /// Mean of x̂² of each column, if there was any token.
    pub(crate) importance: Option<Vec<f32>>,
    pub(crate) held_out: HeldOut,
}

impl RoundingTarget {
    /// The Gram matrix, to factor it in place. Leaves an empty one.
    pub(crate) fn take_hessian(&mut self) -> Array2<f32> {
        std::mem::replace(&mut self.hessian, Array2::zeros((0, 0)))
    }

    /// The same without corrections.
    pub(crate) fn without_correction(self) -> RoundingTarget {
        RoundingTarget { correction: None, ..self }
    }
}

/// C. Rows are computed on demand.
pub(crate) struct Correction {
    cross: Array2<f32>,
    output_error: Array2<f32>,
}

/// The activations of one batch in both models.
pub(crate) struct CapturedPair<'a> {
    pub(crate) original: &'a Captured,
    pub(crate) rounded: &'a Captured,
    /// Rows of BOS tokens, which are skipped.
    pub(crate) starts: &'a [usize],
    pub(crate) held_out: bool,
}

impl LayerStats {
    /// For a matrix of `cols` columns. `outputs` is its number of rows if its output goes to the residual stream, else 0.
    pub(crate) fn new(cols: usize, outputs: usize) -> LayerStats {
        LayerStats {
            hessian: Array2::zeros((cols, cols)),
            cross: Array2::zeros((cols, cols)),
            output_error: Array2::zeros((cols, outputs)),
            tokens: 0.0,
            held_out: HeldOut {
                rounded: Matrix::zeros((0, cols)),
                original: Matrix::zeros((0, cols)),
                output_error: Matrix::zeros((0, outputs)),
            },
        }
    }

    /// Adds a batch. `norms` are the bounded weights of the norms behind the output, see [`norm`].
    pub(crate) fn add(&mut self, number: usize, pair: &CapturedPair<'_>, norms: &[Vec<f32>]) {
        let Some(rounded) = pair.rounded.inputs.get(&number) else { return };
        let original = pair.original.inputs.get(&number);
        let known = |token: usize| original.is_some_and(|rows| rows.tokens.binary_search(&token).is_ok());
        // a token that the original model routes elsewhere has no reference output
        let rows: Vec<usize> = (0..rounded.tokens.len())
            .filter(|&row| !pair.starts.contains(&rounded.tokens[row]))
            .filter(|&row| !pair.held_out || known(rounded.tokens[row]))
            .collect();
        if rows.is_empty() {
            return;
        }
        let mut x = rounded.x.select(Axis(0), &rows);
        let mut errors = errors(&rows, rounded, original);
        let residual = self.output_error.ncols() > 0;
        let mut output_error =
            if residual { output_error(&rows, rounded, pair, norms) } else { Matrix::zeros((rows.len(), 0)) };
        if pair.held_out {
            self.held_out.rounded.append_rows(&x);
            x += &errors;
            self.held_out.original.append_rows(&x);
            return self.held_out.output_error.append_rows(&output_error);
        }
        let shares = shares(&rows, rounded, pair, residual);
        scale_rows(&mut x, &shares);
        scale_rows(&mut errors, &shares);
        gram::add(&mut self.hessian, &x);
        gram::add_product(&mut self.cross, &x, &errors);
        if residual {
            scale_rows(&mut output_error, &shares);
            gram::add_product(&mut self.output_error, &x, &output_error);
        }
        self.tokens += shares.iter().map(|share| share * share).sum::<f32>();
    }

    /// The mean Gram matrix of all tokens of several matrices (experts).
    pub(crate) fn shared(inputs: &[LayerStats]) -> Array2<f32> {
        let tokens: f32 = inputs.iter().map(|input| input.tokens).sum();
        let mut shared = Array2::zeros(inputs[0].hessian.raw_dim());
        for input in inputs {
            gram::blend(&mut shared, &input.hessian, 1.0 / tokens.max(f32::MIN_POSITIVE));
        }
        shared
    }

    /// The statistics to quantize with. `shared` is a Gram matrix to blend in, and the number of tokens that it counts for.
    pub(crate) fn prepare(self, shared: Option<(&Array2<f32>, f32)>) -> RoundingTarget {
        let LayerStats { mut hessian, cross, output_error, tokens: own, held_out, .. } = self;
        let mut all = own;
        if let Some((shared, tokens)) = shared {
            gram::blend(&mut hessian, shared, tokens);
            all += tokens;
        }
        let importance: Vec<f32> = hessian.diag().iter().map(|square| square / all).collect();
        let any = importance.iter().any(|x| *x > 0.0);
        let correction = Some(Correction { cross, output_error });
        RoundingTarget { hessian, correction, importance: any.then_some(importance), held_out }
    }
}

/// x − x̂ of some rows; 0 for tokens that the original model routes to other experts.
fn errors(rows: &[usize], rounded: &CapturedRows, original: Option<&CapturedRows>) -> Matrix {
    let mut errors = Matrix::zeros((rows.len(), rounded.x.ncols()));
    let Some(original) = original else { return errors };
    for (mut out, &row) in errors.outer_iter_mut().zip(rows) {
        let Ok(there) = original.tokens.binary_search(&rounded.tokens[row]) else { continue };
        out.assign(&(&original.x.row(there) - &rounded.x.row(row)));
    }
    errors
}

/// The weights of a norm with a lower bound, so that they can be divided by.
pub(crate) fn norm(weights: &[f32]) -> Vec<f32> {
    let least = LEAST_NORM * weights.iter().map(|g| g.abs()).sum::<f32>() / weights.len() as f32;
    weights.iter().map(|g| g.abs().max(least).copysign(*g)).collect()
}

/// Δy of some rows: the error of the residual stream, divided by the norms from the last to the first.
fn output_error(
    rows: &[usize],
    rounded: &CapturedRows,
    pair: &CapturedPair<'_>,
    norms: &[Vec<f32>],
) -> Matrix {
    let mut out = Matrix::zeros((rows.len(), norms[0].len()));
    out.axis_iter_mut(Axis(0)).into_par_iter().zip(rows).for_each(|(mut out, &row)| {
        let token = rounded.tokens[row];
        let add_difference = |out: &mut ArrayViewMut1<'_, f32>, original: &Matrix, rounded: &Matrix| {
            *out += &(&original.row(token) - &rounded.row(token));
        };
        let take_back = |out: &mut ArrayViewMut1<'_, f32>, norm: &[f32], square: f32| {
            out.iter_mut().zip(norm).for_each(|(out, g)| *out *= square.sqrt() / g);
        };
        add_difference(&mut out, &pair.original.residual, &pair.rounded.residual);
        if let (Some(original), Some(rounded)) = (&pair.original.beside, &pair.rounded.beside) {
            take_back(&mut out, &norms[1], original.squares[token]);
            add_difference(&mut out, &original.x, &rounded.x);
        }
        take_back(&mut out, &norms[0], pair.original.squares[token]);
        out *= RESIDUAL_SHARE;
    });
    out
}

/// √ω of some rows: the router's weight of a token. For outputs that are normalised it is divided by the RMS of the output.
fn shares(rows: &[usize], rounded: &CapturedRows, pair: &CapturedPair<'_>, normed: bool) -> Vec<f32> {
    let mut shares: Vec<f32> = rows.iter().map(|&row| rounded.shares[row]).collect();
    if normed {
        let Captured { squares, beside, .. } = pair.original;
        let square = |token: usize| squares[token] * beside.as_ref().map_or(1.0, |sum| sum.squares[token]);
        let inverse = |row: &usize| 1.0 / square(rounded.tokens[*row]).max(f32::MIN_POSITIVE);
        let mean = rows.iter().map(inverse).sum::<f32>() / rows.len() as f32;
        for (share, row) in shares.iter_mut().zip(rows) {
            *share *= (inverse(row) / mean).clamp(1.0 / MOST_WEIGHT, MOST_WEIGHT).sqrt();
        }
    }
    shares
}

fn scale_rows(x: &mut Matrix, factors: &[f32]) {
    if factors.iter().all(|factor| *factor == 1.0) {
        return;
    }
    x.outer_iter_mut().zip(factors).for_each(|(mut row, factor)| row *= *factor);
}

impl Correction {
    /// Whether C has the term of the residual stream.
    pub(crate) fn has_residual(&self) -> bool {
        self.output_error.ncols() > 0
    }

    /// The rows of C for the rows `weights` of W, of which the first is row `first`, with or without the term of the residual
    /// stream.
    pub(crate) fn rows(&self, first: usize, weights: ArrayView2<'_, f32>, residual: bool) -> Array2<f32> {
        let mut out = Array2::zeros(weights.raw_dim());
        general_mat_mul(1.0, weights, self.cross.t(), 0.0, out.view_mut());
        if residual && self.has_residual() {
            out += &self.output_error.slice(s![.., first..first + weights.nrows()]).t();
        }
        out
    }
}
