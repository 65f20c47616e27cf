//! How far a weight may be from its original: what separates a coarse type from wrong values.
//!
//! **Plain types** round each value on its own, so a value is wrong when it is beyond one step of the coarsest type
//! between the two (and of BF16 where the plan, or llama.cpp's two tools, go by way of it).
//!
//! **Quantised types** are judged by the units that an honest quantiser gets right whatever its method: by rounding, with
//! importance weights (zeros among them) or with error feedback.
//! - A *block*, the 32 or 256 weights under one f16 scale, may be `block` times its own size away. Zeros are 1 away, and
//!   honest quantisers come to 1.16. A tiny group inside a block of 256 may well be lost; the block is not, as its largest
//!   group carries the sum. A block that is quieter than its row counts as if it had a quarter of the row's mean power,
//!   because error feedback puts the errors of loud columns into quiet ones.
//! - A *row* may be `row` times its own size away, not counting groups of zeros, which importance of zero makes. And it
//!   must point where the original does, at a cosine of at least 0.25, or it has too many zeros: honest rows have 0.99, and
//!   0.32 at the very least, with most of the row in blocks of no importance.
//! - The *tensor's* best scale, `Σxy / Σx²`, may be `scale` away from 1.
//! - What is smaller than `reach` steps of an f16 scale near zero (2⁻²⁴) is beneath the type and not judged.
//!
//! **8-bit floats** round each value on its own too, by a ninth of it at most (SFP8) or a seventeenth (FP8), so that no scale
//! is farther off; but another program may put errors of one column into others, and so they are judged like quantised
//! types, in blocks of 32. `reach` of SFP8 is in steps of 2⁻²⁴ of the tensor's scale.
//!
//! A wrong row, an exchanged expert, a shifted table is a random vector to the original: √2 times its size away, at a
//! cosine of 0 ± 0.1; rows of an embedding may be nearer to each other, therefore the tighter limit of rows. `limits/honest.rs` holds the table against files of all types over weights that are hard for them.

use tensor::DType;

use crate::errors::{GROUP, Sums};

/// The least cosine of a row with its original.
const ROW_COSINE: f64 = 0.25;
/// The share of its row's mean power that a block is held against when it has less itself.
const QUIET: f64 = 0.25;

/// What is allowed of a quantised type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) dtype: DType,
    /// The largest multiple of its f16 scale that a weight can be.
    reach: f64,
    /// The largest relative error of a block.
    pub(crate) block: f64,
    /// The largest relative error of a row, groups of zeros left out.
    row: f64,
    /// The largest distance of the tensor's best scale from 1.
    pub(crate) scale: f64,
    /// The relative error of a tensor that is remarkable.
    pub(crate) tensor: f64,
}

/// The largest figures of honest files: of a block, a row and the scale by importance and outliers at their worst, of a
/// tensor by rounding normally distributed weights. Q8_0 and MXFP4 know no importance.
#[rustfmt::skip]
const LIMITS: &[Limits] = &[
    //     type            reach   block row   scale tensor   honest: block, row, scale, tensor
    limits(DType::Q8_0,    127.0,  0.50, 0.20, 0.01, 0.02), //    0.371  0.065  0.001  0.005
    limits(DType::Q6_K,    4096.0, 1.35, 0.50, 0.20, 0.06), //    0.973  0.300  0.047  0.018
    limits(DType::Q5_0,    16.0,   1.35, 0.90, 0.20, 0.10), //    1.000  0.305  0.024  0.042
    limits(DType::Q5_1,    31.0,   1.35, 0.90, 0.20, 0.10), //    0.960  0.752  0.126  0.038
    limits(DType::Q5_K,    1953.0, 1.35, 0.90, 0.20, 0.10), //    0.839  0.762  0.137  0.036
    limits(DType::Q4_0,    8.0,    1.35, 0.90, 0.35, 0.20), //    1.136  0.296  0.061  0.086
    limits(DType::Q4_1,    15.0,   1.35, 0.90, 0.35, 0.20), //    1.034  0.748  0.142  0.078
    limits(DType::Q4_K,    945.0,  1.35, 0.90, 0.35, 0.20), //    0.881  0.801  0.152  0.072
    limits(DType::IQ4_NL,  127.0,  1.35, 0.90, 0.35, 0.20), //    1.000  0.664  0.268  0.076
    limits(DType::IQ4_XS,  4064.0, 1.35, 0.90, 0.35, 0.20), //    0.973  0.598  0.204  0.077
    limits(DType::MXFP4,   0.0,    1.35, 0.60, 0.20, 0.25), //    0.803  0.255  0.148  0.114
    limits(DType::Q3_K,    128.0,  1.35, 0.90, 0.35, 0.35), //    0.973  0.426  0.092  0.150
    limits(DType::Q2_K,    45.0,   1.35, 0.95, 0.35, 0.60), //    1.164  0.797  0.234  0.295
    limits(DType::SFP8,    4.0,    0.50, 0.30, 0.15, 0.10), //    0.190  0.088  0.023  0.029
    limits(DType::F8_E4M3, 0.0,    0.50, 0.20, 0.10, 0.06), //    0.145  0.045  0.015  0.026
];

const fn limits(dtype: DType, reach: f64, block: f64, row: f64, scale: f64, tensor: f64) -> Limits {
    Limits { dtype, reach, block, row, scale, tensor }
}

/// How weights of a type are judged.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Judge {
    /// Each value: at most `relative · |x| + absolute` away.
    Values { relative: f64, absolute: f64 },
    /// Each block and row.
    Blocks(Limits),
}

impl Judge {
    /// For weights that were fitted to what is rounded around them: a little of each is another.
    pub(crate) const FITTED: Judge = Judge::Blocks(limits(DType::F32, 0.0, 1.35, 0.60, 0.20, 0.25));

    /// For weights of type `base` that are stored as `artifact`, all with `scale` (1 for types that bring their own).
    /// `via` when they may have been rounded to BF16 on the way.
    /// `rounded` when the base itself may be a rounding of what both are of.
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
    /// For a tensor whose values are all multiplied with `scale`.
    fn scaled(&self, scale: f32) -> Limits {
        Limits { reach: self.reach * f64::from(scale), ..*self }
    }

    /// Weights that are judged together: a block, or a group of those that round on their own.
    pub(crate) fn block_len(&self) -> usize {
        self.dtype.block_len().max(GROUP)
    }

    /// The relative error of each of the type's blocks of a row, whose sums are given by groups of 32 columns.
    pub(crate) fn errors(&self, groups: &[Sums], cols: usize, row: Sums) -> impl Iterator<Item = f64> {
        let len = self.block_len();
        let quiet = QUIET * row.xx * len as f64 / cols as f64;
        let least = quiet.max(self.beneath(len)).max(f64::MIN_POSITIVE);
        groups.chunks(len / GROUP).map(move |groups| {
            let sums = groups.iter().fold(Sums::default(), |sum, group| sum.plus(*group));
            (sums.ee / sums.xx.max(least)).sqrt()
        })
    }

    /// Whether a row is not its original, unless that is too small to tell. `groups` as for [`Limits::errors`].
    pub(crate) fn is_another(&self, groups: &[Sums], cols: usize, row: Sums) -> bool {
        if row.xx <= self.beneath(cols) {
            return false;
        }
        let shown = groups.iter().filter(|group| group.yy > 0.0);
        let shown = shown.fold(Sums::default(), |sum, group| sum.plus(*group));
        row.cosine() < ROW_COSINE || shown.xx > self.beneath(cols) && shown.relative() > self.row
    }

    /// The power of `count` weights that the type cannot tell from zeros.
    pub(crate) fn beneath(&self, count: usize) -> f64 {
        let step = self.reach * 2f64.powi(-24);
        count as f64 * step * step
    }
}

#[cfg(test)]
mod honest;
