//! Detects blocks that are on a 4-bit quantization grid, and packs them as Q4_0 without loss.
//!
//! Weights of quantisation-aware training (QAT) are published as BF16 of d·q, with q from −8 to 7 and a scale for 32
//! values. ggml's Q4_0 encoder assumes that the extremum is −8; where it is not, all codes are wrong. This module finds
//! codes and an f16 scale whose products, rounded to BF16, are the original values. (Zeros of both signs are equal.)
//!
//! The code of the extremum has a magnitude of 8, 7, … 1; each determines the codes of the other values. A value and
//! its code define an interval of scales that round to the value. An f16 within all intervals is exact: every such f16
//! gives the same BF16 values. A scale that was an f32 also has an interval, but often without an f16: such a block is
//! *near*, its codes are right and its scale is off by at most 2⁻¹². Other grids (with a minimum, more bits, other
//! groups) are not detected.
//!
//! Fine-tuning moves weights off their grid. Such a block gets the grid with the least squared error (`grid/nearest.rs`).

mod nearest;

use std::ops::AddAssign;

use crate::Simd;
use crate::float::{f16_to_f32, f32_to_bf16, f32_to_f16, low_byte};
use crate::types::q4_0::pack;
use tensor::DType;

/// Number of values in a block.
const QK: usize = 32;
const BYTES: usize = DType::Q4_0.block_bytes();

/// Value and extremum are each off by at most half a unit of BF16, 2⁻⁸ of their magnitude: together by this share of
/// the code.
const SLACK: f32 = 1.01 / 128.0;
/// Magnitudes of an extremum that are out of reach of f16 scales, with a margin.
const TOO_SMALL: f32 = 1.0 / (1 << 25) as f32;
const TOO_LARGE: f32 = 65504.0 * 9.0;
/// Bits of the smallest normal f16, and of infinity.
const NORMAL: u16 = 0x0400;
const INFINITE: u16 = 0x7c00;
/// Adding and subtracting this number rounds to the nearest integer.
const TO_INTEGER: f32 = 12_582_912.0;
/// Half a unit of BF16, in bits of an f32.
const HALF: i32 = 0x8000;

/// Blocks with fewer distinct magnitudes (without 0) fit many grids, and are not evidence.
const TELLING: u32 = 3;

/// Counts of the results of [`repack_q4_0`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepackCounts {
    /// Number of blocks.
    pub blocks: u64,
    /// Blocks that decode, in BF16, to the original values.
    pub exact: u64,
    /// Blocks on a grid whose scale is not an f16: exact codes, scale off by at most 2⁻¹².
    pub near: u64,
}

/// Counts of [`survey`] for a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GridSurvey {
    /// Blocks that are evidence for or against a grid: not zero, not of one or two magnitudes.
    pub telling: u64,
    /// Those of them that are on a grid.
    pub on: u64,
    /// Those of them that are close to a grid, as after a little fine-tuning: less than a sixth of a step (RMS).
    pub moved: u64,
}

impl GridSurvey {
    /// True if the tensor is on a grid: at least 99 of 100 blocks are.
    pub fn is_on_grid(&self) -> bool {
        self.telling > 0 && self.on * 100 >= self.telling * 99
    }

    /// True if the tensor is close to a grid, but not on one: at least half of the blocks are close to theirs.
    pub fn is_moved(&self) -> bool {
        self.may_be_moved() && self.telling > 0 && !self.is_on_grid()
    }

    /// Whether as many blocks as a moved tensor needs are close to a grid.
    pub fn may_be_moved(&self) -> bool {
        (self.on + self.moved) * 2 >= self.telling
    }
}

impl AddAssign for GridSurvey {
    fn add_assign(&mut self, more: GridSurvey) {
        let GridSurvey { telling, on, moved } = more;
        (self.telling, self.on, self.moved) = (self.telling + telling, self.on + on, self.moved + moved);
    }
}

/// Packs blocks of 32 BF16 values as Q4_0: exactly if they are on a grid, else with the scale of the least squared error.
/// Blocks out of reach of f16 scales are encoded as by [`encode`](crate::encode). `out` has exactly the size of the encoded
/// bytes.
///
/// # Panics
/// If the sizes do not match or the CPU lacks `simd`.
pub fn repack_q4_0(simd: Simd, x: &[f32], out: &mut [u8]) -> RepackCounts {
    assert!(x.len().is_multiple_of(QK), "{} values are not whole blocks", x.len());
    assert_eq!(out.len(), x.len() / QK * BYTES, "bytes of the output");
    let mut count = RepackCounts::default();
    let mut out = out.as_chunks_mut::<BYTES>().0.iter_mut();
    each(simd, x, &mut |x, fit| {
        let Some(out) = out.next() else { return };
        count.blocks += 1;
        match fit {
            Fit::Exact(block) => (count.exact, *out) = (count.exact + 1, block.pack()),
            Fit::Near(block) => (count.near, *out) = (count.near + 1, block.pack()),
            Fit::Off(Some(block)) => *out = block.pack(),
            Fit::Off(None) => crate::encode(simd, DType::Q4_0, QK, x, None, out),
        }
    });
    count
}

/// The scale that [`repack_q4_0`] gives each block of 32 values, without its sign; 0 for blocks of zeros and for those out of
/// reach.
///
/// # Panics
/// If `x` is not whole blocks or the CPU lacks `simd`.
pub fn grid_scales(simd: Simd, x: &[f32]) -> Vec<f32> {
    assert!(x.len().is_multiple_of(QK), "{} values are not whole blocks", x.len());
    let mut scales = Vec::with_capacity(x.len() / QK);
    each(simd, x, &mut |_, fit| {
        scales.push(match fit {
            Fit::Exact(block) | Fit::Near(block) | Fit::Off(Some(block)) => f16_to_f32(block.scale),
            Fit::Off(None) => 0.0,
        });
    });
    scales
}

/// Counts the blocks of 32 BF16 values that are on a grid, exactly or nearly, and those that are close to one.
///
/// # Panics
/// As [`repack_q4_0`].
pub fn survey(simd: Simd, x: &[f32]) -> GridSurvey {
    assert!(x.len().is_multiple_of(QK), "{} values are not whole blocks", x.len());
    let mut seen = GridSurvey::default();
    each(simd, x, &mut |x, fit| match fit {
        Fit::Off(block) => {
            seen.telling += 1;
            let is_moved = |block: Block| block.magnitudes() >= TELLING && nearest::is_close(x, &block);
            seen.moved += u64::from(block.is_some_and(is_moved));
        }
        Fit::Exact(block) | Fit::Near(block) if block.magnitudes() >= TELLING => {
            seen.telling += 1;
            seen.on += 1;
        }
        _ => {}
    });
    seen
}

/// Result of the fit of a block.
enum Fit {
    Exact(Block),
    Near(Block),
    /// On no grid: the nearest one, if a scale of f16 reaches the values.
    Off(Option<Block>),
}

/// Codes from −8 to 8 and a scale above 0. A block does not contain both 8 and −8.
struct Block {
    scale: u16,
    codes: [f32; QK],
}

impl Block {
    /// Packs as Q4_0: if there is a code 8, all signs are flipped.
    #[inline(always)]
    fn pack(&self) -> [u8; BYTES] {
        let flip = any(&self.codes, 8.0);
        let sign = if flip { -1.0 } else { 1.0 };
        let mut codes = [0; QK];
        for (to, code) in codes.iter_mut().zip(self.codes) {
            *to = low_byte(sign * code + 8.0);
        }
        pack(self.scale | u16::from(flip) << 15, &codes)
    }

    /// The number of distinct magnitudes, without 0.
    fn magnitudes(&self) -> u32 {
        let seen = self.codes.iter().fold(0u32, |seen, code| seen | 1 << code.abs() as u32);
        (seen >> 1).count_ones()
    }
}

/// Fits every block, with the instructions of the level.
fn each(simd: Simd, x: &[f32], take: &mut impl FnMut(&[f32; QK], Fit)) {
    assert!(simd.is_available(), "this CPU lacks {simd:?}");
    match simd {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the CPU has AVX2, see the assertion; CPUs with AVX-512 have it too, and are no faster with AVX-512.
        Simd::Avx2 | Simd::Avx512 => unsafe { each_avx2(x, take) },
        _ => each_inline(x, take),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn each_avx2(x: &[f32], take: &mut impl FnMut(&[f32; QK], Fit)) {
    each_inline(x, take);
}

#[inline(always)]
fn each_inline(x: &[f32], take: &mut impl FnMut(&[f32; QK], Fit)) {
    for x in x.as_chunks::<QK>().0 {
        take(x, fit(x));
    }
}

/// The first fit, from the largest code of the extremum down; exact fits take precedence over near ones.
#[inline(always)]
fn fit(x: &[f32; QK]) -> Fit {
    let largest = crate::max_abs(x);
    if largest == 0.0 {
        return Fit::Exact(Block { scale: 0, codes: [0.0; QK] });
    }
    if !(TOO_SMALL..TOO_LARGE).contains(&largest) {
        return Fit::Off(None);
    }
    let mut near = None;
    for k in (1..=8u8).rev() {
        let Some(codes) = codes(x, f32::from(k) / largest) else { continue };
        if k == 8 && any(&codes, 8.0) && any(&codes, -8.0) {
            continue;
        }
        let (low, high) = scales(x, &codes);
        if low > high {
            continue;
        }
        match f16_within(x, &codes, low, high) {
            Some(scale) => return Fit::Exact(Block { scale, codes }),
            None if near.is_none() => {
                let scale = f32_to_f16(low + (high - low) / 2.0);
                near = (NORMAL..INFINITE).contains(&scale).then_some(Block { scale, codes });
            }
            None => {}
        }
    }
    near.map_or_else(|| Fit::Off(nearest::nearest(x)), Fit::Near)
}

/// The codes of all values; `None` as soon as a value is between two codes.
#[inline(always)]
fn codes(x: &[f32; QK], to_code: f32) -> Option<[f32; QK]> {
    let mut codes = [0.0; QK];
    for (codes, x) in codes.as_chunks_mut::<8>().0.iter_mut().zip(x.as_chunks::<8>().0) {
        let mut between = false;
        for (code, x) in codes.iter_mut().zip(x) {
            let at = x * to_code;
            *code = (at + TO_INTEGER) - TO_INTEGER;
            between |= (at - *code).abs() > code.abs() * SLACK;
        }
        if between {
            return None;
        }
    }
    Some(codes)
}

#[inline(always)]
fn any(codes: &[f32; QK], wanted: f32) -> bool {
    codes.iter().fold(false, |any, code| any | (*code == wanted))
}

/// The interval of scales that map every code to its value, both ends included; empty if the first is larger.
#[inline(always)]
fn scales(x: &[f32; QK], codes: &[f32; QK]) -> (f32, f32) {
    // positive floats have the order of their bits
    let (mut low, mut high) = (0, f32::MAX.to_bits() as i32);
    for (x, code) in x.iter().zip(codes) {
        let (bits, code) = (x.abs().to_bits() as i32, code.abs());
        let from = f32::from_bits((bits - HALF) as u32) / code;
        let to = f32::from_bits((bits + HALF) as u32) / code;
        // any scale maps code 0 to its value, which is 0
        low = low.max(if code == 0.0 { low } else { from.to_bits() as i32 });
        high = high.min(if code == 0.0 { high } else { to.to_bits() as i32 });
    }
    (f32::from_bits(low as u32), f32::from_bits(high as u32))
}

/// An f16 that maps all codes to their values: one that is a BF16 too, else the one closest to the middle.
#[inline(always)]
fn f16_within(x: &[f32; QK], codes: &[f32; QK], low: f32, high: f32) -> Option<u16> {
    // one more f16 on either side: `exact` decides about the rounded ends of the interval
    let first = f32_to_f16(low).saturating_sub(1).max(1);
    let last = (f32_to_f16(high) + 1).min(INFINITE - 1);
    let is_bf16 = |scale: &u16| f16_to_f32(*scale).to_bits() & 0xffff == 0;
    if let Some(scale) = (first..=last).filter(is_bf16).find(|scale| exact(x, codes, *scale)) {
        return Some(scale);
    }
    let middle = f32_to_f16(low + (high - low) / 2.0);
    let around = (0..=last.saturating_sub(first)).flat_map(|far| [middle + far, middle.saturating_sub(far)]);
    around.filter(|scale| (first..=last).contains(scale)).find(|scale| exact(x, codes, *scale))
}

/// True if the products, rounded to BF16, equal the values.
#[inline(always)]
fn exact(x: &[f32; QK], codes: &[f32; QK], scale: u16) -> bool {
    let scale = f16_to_f32(scale);
    let same = |x: &f32, code: &f32| f32::from_bits(u32::from(f32_to_bf16(code * scale)) << 16) == *x;
    x.iter().zip(codes).fold(true, |all, (x, code)| all & same(x, code))
}

#[cfg(test)]
mod tests;
