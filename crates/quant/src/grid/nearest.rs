//! The Q4_0 grid nearest to a block that is on none: the scale with the least squared error.
//!
//! If the values are those of a grid plus small changes, the scale is close to the extremum divided by its code of
//! magnitude 8, 7, … 1. Each of these is fitted by least squares to the codes that it gives, twice.

use super::{Block, INFINITE, QK};
use crate::float::{extremum, f16_to_f32, f32_to_f16};

/// Least-squares fits of a candidate. A third changes the error of normal weights by 0.1 %.
const FITS: usize = 2;
/// Largest distance of a moved block from its grid, in steps, RMS. Weights on no grid have 0.27 on average, and one block in
/// a thousand has less than this.
const CLOSE: f32 = 1.0 / 6.0;
/// Values that are summed side by side.
const LANES: usize = 8;

/// The first of the grids with the least squared error, from the largest code of the extremum down. `None` if no scale is an
/// f16 other than 0.
#[inline(always)]
pub(super) fn nearest(x: &[f32; QK]) -> Option<Block> {
    let extremum = extremum(x);
    let (mut least, mut found) = (f32::INFINITY, None);
    for k in (1..=8u8).rev() {
        // the extremum gets a negative code, which has one more
        let mut scale = extremum / -f32::from(k);
        for _ in 0..FITS {
            scale = fitted(x, &codes(x, scale));
        }
        let bits = f32_to_f16(scale);
        let scale = f16_to_f32(bits);
        if !(1..INFINITE).contains(&(bits & 0x7fff)) {
            continue;
        }
        let codes = codes(x, scale);
        let error = sum(x, &codes, |x, code| (x - code * scale) * (x - code * scale));
        if error < least {
            (least, found) = (error, Some((bits, codes)));
        }
    }
    let (bits, codes) = found?;
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    Some(Block { scale: bits & 0x7fff, codes: codes.map(|code| sign * code) })
}

/// Whether the values are close to the block's, zeros left out.
#[inline(always)]
pub(super) fn is_close(x: &[f32; QK], block: &Block) -> bool {
    let scale = f16_to_f32(block.scale);
    let counts = |code: f32| if code == 0.0 { 0.0 } else { 1.0 };
    let error = sum(x, &block.codes, |x, code| counts(code) * (x - code * scale) * (x - code * scale));
    let most = CLOSE * scale;
    error <= most * most * sum(x, &block.codes, |_, code| counts(code))
}

/// The codes from −8 to 7 nearest to the values.
#[inline(always)]
fn codes(x: &[f32; QK], scale: f32) -> [f32; QK] {
    let inverse = 1.0 / scale;
    x.map(|x| ((x * inverse).clamp(-8.0, 7.0) + super::TO_INTEGER) - super::TO_INTEGER)
}

/// The scale with the least squared error for codes.
#[inline(always)]
fn fitted(x: &[f32; QK], codes: &[f32; QK]) -> f32 {
    sum(x, codes, |x, code| x * code) / sum(x, codes, |_, code| code * code)
}

/// The sum of a term of each value and its code, in the same order at every SIMD level.
#[inline(always)]
fn sum(x: &[f32; QK], codes: &[f32; QK], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    for (x, codes) in x.as_chunks::<LANES>().0.iter().zip(codes.as_chunks::<LANES>().0) {
        for ((sum, x), code) in sums.iter_mut().zip(x).zip(codes) {
            *sum += term(*x, *code);
        }
    }
    sums.iter().sum()
}
