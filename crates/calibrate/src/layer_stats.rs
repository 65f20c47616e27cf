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

use rayon::prelude::*;
use runtime::Matrix;

use crate::capture::{Captured, CapturedRows};
use crate::gram;
use crate::square::Square;
use runtime::gemm::{Op, Shape, View, multiply};

/// β: the part of the residual stream's error that one matrix corrects.
const RESIDUAL_SHARE: f32 = 0.5;
/// Bound of a token's weight, relative to the mean, and inverse of the lower bound.
const MOST_WEIGHT: f32 = 30.0;
/// Lower bound of the weights of a norm, relative to their mean.
const LEAST_NORM: f32 = 0.25;

/// Statistics of one matrix, summed over tokens.
pub(crate) struct LayerStats {
    hessian: Square,
    /// Σ x̂·(x − x̂)ᵀ, of which W makes the first term of Cᵀ.
    cross: Square,
    /// Σ x̂·Δyᵀ: a row each column of W. Empty where the output is not added to the residual stream.
    output_error: Vec<f32>,
    outputs: usize,
    tokens: f32,
    held_out: HeldOut,
}

/// Held-out tokens: the output Ŵ·x̂ is compared with W·x + Δy.
#[derive(Default)]
pub(crate) struct HeldOut {
    pub(crate) rounded: Matrix,
    pub(crate) original: Matrix,
    /// Δy; without columns where the output is not added to the residual stream.
    pub(crate) output_error: Matrix,
}

/// The statistics that a matrix is quantized with.
pub(crate) struct RoundingTarget {
    pub(crate) hessian: Square,
    pub(crate) correction: Correction,
    /// Mean of x̂² of each column, if there was any token.
    pub(crate) importance: Option<Vec<f32>>,
    pub(crate) held_out: HeldOut,
}

impl RoundingTarget {
    /// The same without corrections.
    pub(crate) fn without_correction(self) -> RoundingTarget {
        RoundingTarget {
            correction: Correction { cross: Square::zeros(0), output_error: Vec::new() },
            ..self
        }
    }
}

/// C. Rows are computed on demand; zero if `cross` is empty.
pub(crate) struct Correction {
    cross: Square,
    output_error: Vec<f32>,
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
            hessian: Square::zeros(cols),
            cross: Square::zeros(cols),
            output_error: vec![0.0; cols * outputs],
            outputs,
            tokens: 0.0,
            held_out: HeldOut::default(),
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
        let mut x = rounded.x.select(rows.iter().copied());
        let mut errors = errors(&rows, rounded, original);
        let mut output_error =
            if self.outputs > 0 { output_error(&rows, rounded, pair, norms) } else { Matrix::default() };
        if pair.held_out {
            self.held_out.rounded.append(&x);
            x.data_mut().iter_mut().zip(errors.data()).for_each(|(x, error)| *x += error);
            self.held_out.original.append(&x);
            return self.held_out.output_error.append(&output_error);
        }
        let shares = shares(&rows, rounded, pair, self.outputs > 0);
        scale_rows(&mut x, &shares);
        scale_rows(&mut errors, &shares);
        gram::add(&mut self.hessian, &x);
        gram::add_product(self.cross.data_mut(), x.cols(), &x, &errors);
        if self.outputs > 0 {
            scale_rows(&mut output_error, &shares);
            gram::add_product(&mut self.output_error, self.outputs, &x, &output_error);
        }
        self.tokens += shares.iter().map(|share| share * share).sum::<f32>();
    }

    /// The mean Gram matrix of all tokens of several matrices (experts).
    pub(crate) fn shared(inputs: &[LayerStats]) -> Square {
        let tokens: f32 = inputs.iter().map(|input| input.tokens).sum();
        let mut shared = Square::zeros(inputs[0].hessian.size());
        for input in inputs {
            gram::blend(&mut shared, &input.hessian, 1.0 / tokens.max(f32::MIN_POSITIVE));
        }
        shared
    }

    /// The statistics to quantize with. `shared` is a Gram matrix to blend in, and the number of tokens that it counts for.
    pub(crate) fn prepare(self, shared: Option<(&Square, f32)>) -> RoundingTarget {
        let LayerStats { mut hessian, cross, output_error, tokens: own, held_out, .. } = self;
        let mut all = own;
        if let Some((shared, tokens)) = shared {
            gram::blend(&mut hessian, shared, tokens);
            all += tokens;
        }
        let cols = hessian.size();
        let importance: Vec<f32> = (0..cols).map(|i| hessian.at(i, i) / all).collect();
        let any = importance.iter().any(|x| *x > 0.0);
        let correction = Correction { cross, output_error };
        RoundingTarget { hessian, correction, importance: any.then_some(importance), held_out }
    }
}

/// x − x̂ of some rows; 0 for tokens that the original model routes to other experts.
fn errors(rows: &[usize], rounded: &CapturedRows, original: Option<&CapturedRows>) -> Matrix {
    let mut errors = Matrix::zeros(rows.len(), rounded.x.cols());
    let Some(original) = original else { return errors };
    let cols = errors.cols();
    for (out, &row) in errors.data_mut().chunks_exact_mut(cols).zip(rows) {
        let Ok(there) = original.tokens.binary_search(&rounded.tokens[row]) else { continue };
        let pairs = original.x.row(there).iter().zip(rounded.x.row(row));
        out.iter_mut().zip(pairs).for_each(|(out, (x, seen))| *out = x - seen);
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
    let cols = norms[0].len();
    let mut out = Matrix::zeros(rows.len(), cols);
    out.data_mut().par_chunks_mut(cols).zip(rows).for_each(|(out, &row)| {
        let token = rounded.tokens[row];
        let add_difference = |out: &mut [f32], original: &Matrix, rounded: &Matrix| {
            let pairs = original.row(token).iter().zip(rounded.row(token));
            out.iter_mut().zip(pairs).for_each(|(out, (x, seen))| *out += x - seen);
        };
        let take_back = |out: &mut [f32], norm: &[f32], square: f32| {
            out.iter_mut().zip(norm).for_each(|(out, g)| *out *= square.sqrt() / g);
        };
        add_difference(out, &pair.original.residual, &pair.rounded.residual);
        if let (Some(original), Some(rounded)) = (&pair.original.beside, &pair.rounded.beside) {
            take_back(out, &norms[1], original.squares[token]);
            add_difference(out, &original.x, &rounded.x);
        }
        take_back(out, &norms[0], pair.original.squares[token]);
        out.iter_mut().for_each(|out| *out *= RESIDUAL_SHARE);
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
    let cols = x.cols();
    for (row, factor) in x.data_mut().chunks_exact_mut(cols).zip(factors) {
        row.iter_mut().for_each(|x| *x *= factor);
    }
}

impl Correction {
    /// Whether C has the term of the residual stream.
    pub(crate) fn has_residual(&self) -> bool {
        !self.output_error.is_empty()
    }

    /// Whether C is zero.
    pub(crate) fn is_none(&self) -> bool {
        self.cross.size() == 0
    }

    /// The rows of C for some rows of W, with or without the term of the residual stream.
    pub(crate) fn rows(&self, first: usize, weights: &[f32], residual: bool) -> Vec<f32> {
        let cols = self.cross.size();
        let mut out = vec![0.0; weights.len()];
        multiply(
            Shape { m: weights.len() / cols, n: cols, k: cols },
            View { data: weights, row: cols, col: 1 },
            View { data: self.cross.data(), row: 1, col: cols },
            Op::Set,
            &mut out,
            cols,
        );
        let outputs = self.output_error.len() / cols;
        if outputs > 0 && residual {
            for (row, out) in out.chunks_exact_mut(cols).enumerate() {
                let column = self.output_error.iter().skip(first + row).step_by(outputs);
                out.iter_mut().zip(column).for_each(|(out, output_error)| *out += output_error);
            }
        }
        out
    }
}
