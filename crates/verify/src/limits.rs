//! Limits of the difference between a weight and its original, which separate quantization error from wrong values.
//!
//! **Plain types** round each value on its own. A value is wrong if it differs by more than one step of the coarsest
//! type between the two (and of BF16 where the plan, or llama.cpp's two tools, have a BF16 file in between).
//!
//! **Quantised types** are judged by units that every correct quantizer preserves, whatever its method:
//! round-to-nearest, importance weights (zeros among them) or error feedback.
//! - A *block*, the 32 or 256 weights under one f16 scale, may have a relative error of `block`; a block of zeros
//!   has 1. A tiny group inside a block of 256 may be lost, but not the block, because its largest group dominates the sum.
//!   A block with less power than a quarter of the row's mean is compared with that quarter, because error feedback
//!   moves the errors of large columns into small ones. *One* block of 32 has no limit: error feedback with uneven
//!   inputs gives a few of them an error of 2 to 4, more than a block of other weights (1.1 to 1.8). So two such blocks
//!   of a row must be beyond `block`; one is found among the others, if at all (`outliers.rs`).
//! - A *row* may have a relative error of `row`, without groups of zeros, which an importance of zero makes. Its cosine
//!   with the original must be at least 0.25, or it has too many zeros: correct rows have 0.99, and 0.32 at the very
//!   least, with most of the row in blocks without importance.
//! - The *tensor's* least-squares scale, `Σxy / Σx²`, may differ from 1 by `scale`.
//! - Weights smaller than `reach` steps of an f16 scale near zero (2⁻²⁴) cannot be represented, and are not judged.
//!
//! **8-bit floats** round each value on its own too, by at most a ninth of it (SFP8) or a seventeenth (FP8), so that no
//! scale can be further off. But another program may move errors of one column into others, so they are judged like
//! quantised types, in blocks of 32. `reach` of SFP8 is in steps of 2⁻²⁴ of the tensor's scale.
//!
//! A wrong row, an exchanged expert or a shifted table is a random vector with respect to the original: a relative
//! error of √2, a cosine of 0 ± 0.1. Rows of an embedding may be closer to each other, therefore the tighter limit of
//! rows. `limits/honest.rs` compares the table with files of all types over weights that are hard for them;
//! `limits/survey.rs` prints the figures: `SEQUENCES=30 cargo test -p verify --lib limits_have_a_margin -- --nocapture`.
//!
//! Rows whose bytes are what the checkpoint gives are not compared with limits.

use tensor::DType;

use crate::errors::GROUP;
use crate::sums::Sums;

/// The least cosine of a row with its original.
const ROW_COSINE: f64 = 0.25;
/// The least power that a block is compared with, as a share of its row's mean power.
const QUIET: f64 = 0.25;

/// Limits of a quantised type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) dtype: DType,
    /// The largest weight as a multiple of its f16 scale.
    reach: f64,
    /// The largest relative error of a block.
    pub(crate) block: f64,
    /// The largest relative error of a row, without groups of zeros.
    row: f64,
    /// The largest difference of the tensor's least-squares scale from 1.
    pub(crate) scale: f64,
    /// The relative error of a tensor above which there is a warning.
    pub(crate) tensor: f64,
}

/// The comments are the largest figures of correct files over 30 random sequences: of a block (for blocks of 32, of the
/// second worst block of a row), of a row and of the scale, with the worst importance and error feedback.
#[rustfmt::skip]
const LIMITS: &[Limits] = &[
    //     type            reach   block row   scale tensor    honest: block, row, scale
    limits(DType::Q8_0,    127.0,  1.00, 0.50, 0.02, 0.02), // 0.370 0.086 0.002
    limits(DType::Q6_K,    4096.0, 1.25, 0.90, 0.20, 0.06), // 0.987 0.310 0.021
    limits(DType::Q5_0,    16.0,   1.35, 1.00, 0.20, 0.10), // 1.000 0.601 0.034
    limits(DType::Q5_1,    31.0,   1.35, 0.90, 0.20, 0.10), // 0.533 0.309 0.020
    limits(DType::Q5_K,    1953.0, 1.25, 0.90, 0.20, 0.10), // 0.379 0.318 0.023
    limits(DType::Q4_0,    8.0,    1.35, 1.20, 0.35, 0.20), // 1.084 0.799 0.068
    limits(DType::Q4_1,    15.0,   1.35, 0.90, 0.35, 0.20), // 0.729 0.534 0.052
    limits(DType::Q4_K,    945.0,  1.25, 0.90, 0.35, 0.20), // 0.602 0.542 0.054
    limits(DType::IQ4_NL,  127.0,  1.35, 0.90, 0.35, 0.20), // 1.000 0.599 0.070
    limits(DType::IQ4_XS,  4064.0, 1.25, 0.90, 0.35, 0.20), // 0.987 0.391 0.051
    limits(DType::MXFP4,   0.0,    1.35, 0.60, 0.20, 0.25), // 0.699 0.268 0.179
    limits(DType::Q3_K,    128.0,  1.25, 0.90, 0.35, 0.35), // 0.987 0.677 0.109
    limits(DType::Q2_K,    45.0,   1.35, 1.25, 0.35, 0.60), // 1.155 0.944 0.210
    limits(DType::SFP8,    4.0,    0.50, 0.30, 0.15, 0.10), // 0.169 0.094 0.023
    limits(DType::F8_E4M3, 0.0,    0.50, 0.20, 0.10, 0.06), // 0.154 0.048 0.016
];

const fn limits(dtype: DType, reach: f64, block: f64, row: f64, scale: f64, tensor: f64) -> Limits {
    Limits { dtype, reach, block, row, scale, tensor }
}

/// The criterion for weights of a type.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Judge {
    /// By value: the error is at most `relative · |x| + absolute`.
    Values { relative: f64, absolute: f64 },
    /// By block and row.
    Blocks(Limits),
}

impl Judge {
    /// For weights adjusted to neighbouring quantization error: most values differ slightly.
    pub(crate) const FITTED: Judge = Judge::Blocks(limits(DType::F32, 0.0, 1.35, 0.60, 0.20, 0.25));

    /// The criterion for weights of type `base` stored as `artifact`. `scale` is the factor of the whole tensor (1 for
    /// types with scales of their own), `via` allows for an intermediate BF16 file, `rounded` for a base that was
    /// itself rounded from the common original.
    pub(crate) fn of(base: DType, artifact: DType, scale: f32, via: bool, rounded: bool) -> Judge {
        if let Some(limits) = LIMITS.iter().find(|limits| limits.dtype == artifact) {
            return Judge::Blocks(limits.scaled(scale));
        }
        // whole steps, so that truncation is allowed too
        let (bf16, f16) = ((1.0 / 128.0, 0.0), (1.0 / 1024.0, 2f64.powi(-24)));
        let mut steps = (0.0, 0.0);
        let mut step = |(relative, absolute): (f64, f64)| steps = (steps.0 + relative, steps.1 + absolute);
        let plain = |dtype| matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
        if base != DType::BF16 && (via || artifact == DType::BF16 || !plain(base)) {
            step(bf16);
        }
        if artifact == DType::F16 && base != DType::F16 || rounded && base == DType::F16 {
            step(f16);
        }
        Judge::Values { relative: steps.0, absolute: steps.1 }
    }
}

impl Limits {
    /// The limits for a tensor whose values are all multiplied by `scale`.
    fn scaled(&self, scale: f32) -> Limits {
        Limits { reach: self.reach * f64::from(scale), ..*self }
    }

    /// Weights judged together: a block, or a group of 32 for types without blocks.
    pub(crate) fn block_len(&self) -> usize {
        self.dtype.block_len().max(GROUP)
    }

    /// The relative error of each block of a row. `groups` are the sums of its groups of 32 columns, `row` is their
    /// total.
    pub(crate) fn errors(&self, groups: &[Sums], cols: usize, row: Sums) -> impl Iterator<Item = f64> {
        let len = self.block_len();
        let quiet = QUIET * row.xx * len as f64 / cols as f64;
        let least = quiet.max(self.beneath(len)).max(f64::MIN_POSITIVE);
        groups.chunks(len / GROUP).map(move |groups| {
            let sums = groups.iter().fold(Sums::default(), |sum, group| sum.plus(*group));
            (sums.ee / sums.xx.max(least)).sqrt()
        })
    }

    /// How many blocks of a row must be beyond the limit: error feedback can make one block of 32 arbitrarily wrong.
    fn enough(&self) -> usize {
        if self.block_len() > GROUP { 1 } else { 2 }
    }

    /// The column of the first wrong block of a wrong row; 0 if only the row as a whole is wrong. `groups` as for
    /// [`Limits::errors`].
    pub(crate) fn first_wrong(&self, groups: &[Sums], cols: usize, row: Sums) -> Option<usize> {
        let mut beyond = (0..).zip(self.errors(groups, cols, row)).filter(|(_, error)| *error > self.block);
        let first = beyond.next().map(|(block, _)| block * self.block_len());
        let blocks = usize::from(first.is_some()) + beyond.count();
        (blocks >= self.enough() || self.is_another(groups, cols, row)).then_some(first.unwrap_or(0))
    }

    /// Whether a row has other values than its original. Rows too small to tell pass. `groups` as for
    /// [`Limits::errors`].
    pub(crate) fn is_another(&self, groups: &[Sums], cols: usize, row: Sums) -> bool {
        if row.xx <= self.beneath(cols) {
            return false;
        }
        row.cosine() < ROW_COSINE || self.row_error(groups, cols) > self.row
    }

    /// The relative error of a row without groups of zeros; 0 if the rest is too small to tell.
    fn row_error(&self, groups: &[Sums], cols: usize) -> f64 {
        let shown = groups.iter().filter(|group| group.yy > 0.0);
        let shown = shown.fold(Sums::default(), |sum, group| sum.plus(*group));
        if shown.xx > self.beneath(cols) { shown.relative() } else { 0.0 }
    }

    /// The largest power (Σx²) of `count` weights that the type cannot distinguish from zero.
    pub(crate) fn beneath(&self, count: usize) -> f64 {
        let step = self.reach * 2f64.powi(-24);
        count as f64 * step * step
    }
}

#[cfg(test)]
mod honest;
#[cfg(test)]
mod survey;
