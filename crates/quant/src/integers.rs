//! Signed integers of 2, 4 and 8 bits whose scales are stored apart: the weights of TFLite models.
//!
//! Two's complement, the first code in the lowest bits of a byte. The rule is that of ai-edge-quantizer 0.10.0
//! (`uniform_quantize_tensor.py`, symmetric min-max), in f32: the scale is the largest magnitude (at least 1e-9) divided
//! by the largest code, a code is the quotient rounded half to even. A scale is one f32 a row, or one f16 a block; the
//! scale of a block is rounded to BF16 before the codes are computed.
//!
//! One difference: where ai-edge-quantizer gives a block the scale 0, this codec writes 2⁻¹⁴. The runtime refuses to load
//! a scale of 0. The codes are 0 either way.
//!
//! Instead of the min-max scale, [`IntegerScales::Search`] takes the one with the least squared error.

mod search;

use crate::float::{f16_to_f32, f32_to_bf16, f32_to_f16, nearest_int};
use crate::max_abs;

use search::Group;

/// The f16 scale of blocks whose scale would be 0: the smallest normal f16, 2⁻¹⁴.
pub const ZERO_BLOCK: u16 = 0x0400;

/// The smallest bound of a row's values in ai-edge-quantizer.
const MIN_BOUND: f32 = 1e-9;

/// The bits of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IntegerBits {
    /// Codes from −2 to 1.
    Two,
    /// Codes from −8 to 7.
    Four,
    /// Codes from −127 to 127.
    Eight,
}

impl IntegerBits {
    /// Number of bits.
    pub const fn count(self) -> usize {
        8 / self.per_byte()
    }

    /// Number of codes in a byte.
    pub const fn per_byte(self) -> usize {
        match self {
            IntegerBits::Two => 4,
            IntegerBits::Four => 2,
            IntegerBits::Eight => 1,
        }
    }

    /// The smallest and the largest code that is written.
    const fn range(self) -> (f32, f32) {
        match self {
            IntegerBits::Two => (-2.0, 1.0),
            IntegerBits::Four => (-8.0, 7.0),
            IntegerBits::Eight => (-127.0, 127.0),
        }
    }

    /// The smallest and the largest code that there is.
    const fn whole_range(self) -> (f32, f32) {
        match self {
            IntegerBits::Two => (-2.0, 1.0),
            IntegerBits::Four => (-8.0, 7.0),
            IntegerBits::Eight => (-128.0, 127.0),
        }
    }
}

/// How scales are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum IntegerScales<'a> {
    /// By the largest magnitude of a group, as ai-edge-quantizer's min-max rule.
    MinMax,
    /// By the least squared error of a group: a search among clipped ranges. With the weight of each column, such as its mean square of
    /// activations; `None` for equal weights.
    Search(Option<&'a [f32]>),
}

/// Integers of a matrix, and the values that share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Integers {
    /// The bits of a code.
    pub bits: IntegerBits,
    /// Values of a row that share an f16 scale; `None` for one f32 scale a row.
    pub block: Option<usize>,
}

impl Integers {
    /// Checks that rows of `cols` values are whole bytes and whole blocks.
    pub fn fits(self, cols: usize) -> bool {
        let whole = |of: usize| of > 0 && cols.is_multiple_of(of);
        cols > 0 && whole(self.bits.per_byte()) && self.block.is_none_or(whole)
    }

    /// Bytes of the codes of a row.
    pub fn code_bytes(self, cols: usize) -> usize {
        cols / self.bits.per_byte()
    }

    /// Bytes of the scales of a row.
    pub fn scale_bytes(self, cols: usize) -> usize {
        self.block.map_or(1, |block| cols / block) * self.scale_size()
    }

    /// Bytes of a scale.
    const fn scale_size(self) -> usize {
        if self.block.is_some() { 2 } else { 4 }
    }

    /// Encodes whole rows of `cols` finite values. `codes` and `stored` scales have exactly the size of the results.
    ///
    /// # Panics
    /// If `cols` does not [fit](Self::fits), or the sizes do not match.
    pub fn encode(
        self,
        cols: usize,
        x: &[f32],
        scales: IntegerScales<'_>,
        codes: &mut [u8],
        stored: &mut [u8],
    ) {
        self.check(cols, x.len(), codes.len(), stored.len());
        let group = self.block.unwrap_or(cols);
        let range = self.bits.range();
        let equal;
        let weights = match scales {
            IntegerScales::MinMax => None,
            IntegerScales::Search(Some(weights)) => {
                assert_eq!(weights.len(), cols, "weights of the columns");
                Some(weights)
            }
            IntegerScales::Search(None) => {
                equal = vec![1.0; cols];
                Some(equal.as_slice())
            }
        };
        let groups = x.chunks_exact(group).zip(codes.chunks_exact_mut(self.code_bytes(group)));
        for (number, ((x, codes), stored)) in
            groups.zip(stored.chunks_exact_mut(self.scale_size())).enumerate()
        {
            let min_max = max_abs(x).max(MIN_BOUND) / range.1;
            let scale = match weights {
                None => self.storable(min_max),
                Some(weights) => {
                    let weights = &weights[number * group % cols..][..group];
                    Group { x, weights, range }.scale(min_max, |scale| self.storable(scale))
                }
            };
            self.store(scale, stored);
            self.pack(x, scale, range, codes);
        }
    }

    /// The scale as it can be stored. That of a block is rounded to BF16, and not 0.
    fn storable(self, scale: f32) -> f32 {
        if self.block.is_none() {
            return scale;
        }
        let rounded = f32_to_f16(f32::from_bits(u32::from(f32_to_bf16(scale)) << 16));
        f16_to_f32(if rounded == 0 { ZERO_BLOCK } else { rounded })
    }

    /// Stores a scale.
    fn store(self, scale: f32, stored: &mut [u8]) {
        match self.block {
            Some(_) => stored.copy_from_slice(&f32_to_f16(scale).to_le_bytes()),
            None => stored.copy_from_slice(&scale.to_le_bytes()),
        }
    }

    /// Replaces the codes and the scale of groups that are codes times a scale, where [`encode`](Self::encode) found others: then every
    /// value is kept, as that of a checkpoint of quantization-aware training. Codes may be as low as −2, −8 and −128.
    ///
    /// # Panics
    /// As [`encode`](Self::encode).
    pub fn keep_grid(self, cols: usize, x: &[f32], codes: &mut [u8], scales: &mut [u8]) {
        self.check(cols, x.len(), codes.len(), scales.len());
        let group = self.block.unwrap_or(cols);
        let mut back = vec![0.0; group];
        let groups = x.chunks_exact(group).zip(codes.chunks_exact_mut(self.code_bytes(group)));
        for ((x, codes), stored) in groups.zip(scales.chunks_exact_mut(self.scale_size())) {
            let alone = Integers { block: self.block.map(|_| group), ..self };
            alone.decode(group, codes, stored, &mut back);
            if back == x {
                continue;
            }
            let Some(scale) = self.grid_scale(x) else { continue };
            self.store(scale, stored);
            self.pack(x, scale, self.bits.whole_range(), codes);
        }
    }

    /// The largest scale with which every value is a code times the scale.
    fn grid_scale(self, x: &[f32]) -> Option<f32> {
        let (least, most) = self.bits.whole_range();
        let largest = max_abs(x);
        let fits = |scale: f32| {
            x.iter().all(|x| {
                let code = nearest_int((x / scale).clamp(least, most)) as f32;
                code * scale == *x
            })
        };
        // the largest magnitude is one of the codes; a quotient may be off by one in its last place
        let near = |code: i32| {
            let quotient = largest / code as f32;
            [0, -1, 1].map(|step: i32| f32::from_bits(quotient.to_bits().wrapping_add_signed(step)))
        };
        let stored = |scale: f32| match self.block {
            Some(_) => f16_to_f32(f32_to_f16(scale)),
            None => scale,
        };
        let mut scales = (1..=-least as i32).flat_map(near).map(stored);
        scales.find(|scale| scale.is_normal() && fits(*scale))
    }

    /// Decodes whole rows: code times scale.
    ///
    /// # Panics
    /// As [`encode`](Self::encode).
    pub fn decode(self, cols: usize, codes: &[u8], scales: &[u8], out: &mut [f32]) {
        self.check(cols, out.len(), codes.len(), scales.len());
        let group = self.block.unwrap_or(cols);
        let groups = out.chunks_exact_mut(group).zip(codes.chunks_exact(self.code_bytes(group)));
        for ((out, codes), stored) in groups.zip(scales.chunks_exact(self.scale_size())) {
            let scale = match *stored {
                [a, b] => f16_to_f32(u16::from_le_bytes([a, b])),
                [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
                _ => unreachable!("a scale has 2 or 4 bytes"),
            };
            match self.bits {
                IntegerBits::Two => unpack::<4>(codes, scale, out),
                IntegerBits::Four => unpack::<2>(codes, scale, out),
                IntegerBits::Eight => unpack::<1>(codes, scale, out),
            }
        }
    }

    /// Packs the codes of a group.
    fn pack(self, x: &[f32], scale: f32, range: (f32, f32), codes: &mut [u8]) {
        match self.bits {
            IntegerBits::Two => pack::<4>(x, scale, range, codes),
            IntegerBits::Four => pack::<2>(x, scale, range, codes),
            IntegerBits::Eight => pack::<1>(x, scale, range, codes),
        }
    }

    fn check(self, cols: usize, values: usize, codes: usize, scales: usize) {
        assert!(self.fits(cols), "rows of {cols} values do not fit {self:?}");
        assert!(values > 0 && values.is_multiple_of(cols), "{values} values are not whole rows of {cols}");
        let rows = values / cols;
        assert_eq!(codes, rows * self.code_bytes(cols), "bytes of the codes");
        assert_eq!(scales, rows * self.scale_bytes(cols), "bytes of the scales");
    }
}

/// Packs `N` codes into each byte.
fn pack<const N: usize>(x: &[f32], scale: f32, (least, most): (f32, f32), out: &mut [u8]) {
    let bits = 8 / N;
    let mask = (1u32 << bits) - 1;
    for (out, x) in out.iter_mut().zip(x.as_chunks::<N>().0) {
        let byte = x.iter().enumerate().fold(0, |byte, (n, x)| {
            // the bounds are integers, so clipping may come before rounding
            let code = nearest_int((x / scale).clamp(least, most)) as u32;
            byte | (code & mask) << (n * bits)
        });
        *out = byte as u8;
    }
}

/// Unpacks `N` codes from each byte.
fn unpack<const N: usize>(codes: &[u8], scale: f32, out: &mut [f32]) {
    let bits = 8 / N;
    for (out, &byte) in out.as_chunks_mut::<N>().0.iter_mut().zip(codes) {
        for (n, out) in out.iter_mut().enumerate() {
            // to the top of the byte, and back with the sign
            let code = (byte << (8 - bits - n * bits)) as i8 >> (8 - bits);
            *out = f32::from(code) * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(
        bits: IntegerBits,
        block: Option<usize>,
        cols: usize,
        x: &[f32],
    ) -> (Vec<u8>, Vec<u8>, Vec<f32>) {
        let integers = Integers { bits, block };
        let rows = x.len() / cols;
        let mut codes = vec![0; rows * integers.code_bytes(cols)];
        let mut scales = vec![0; rows * integers.scale_bytes(cols)];
        integers.encode(cols, x, IntegerScales::MinMax, &mut codes, &mut scales);
        let mut back = vec![f32::NAN; x.len()];
        integers.decode(cols, &codes, &scales, &mut back);
        (codes, scales, back)
    }

    /// Worked by hand from the rule: bound 7, scale 1 at four bits.
    #[test]
    fn codes_are_rounded_half_to_even_low_nibble_first() {
        let x = [7.0, -7.0, 0.5, 1.5, -0.5, -1.5, 2.5, 0.0];
        let (codes, scales, back) = round_trip(IntegerBits::Four, None, 8, &x);
        assert_eq!(codes, [0x97, 0x20, 0xe0, 0x02]);
        assert_eq!(scales, 1f32.to_le_bytes());
        assert_eq!(back, [7.0, -7.0, 0.0, 2.0, 0.0, -2.0, 2.0, 0.0]);
        let (codes, ..) = round_trip(IntegerBits::Two, None, 8, &[1.0, -1.0, 0.0, 0.4, 0.6, -0.6, -1.0, 1.0]);
        assert_eq!(codes, [0b00_00_11_01, 0b01_11_11_01]);
    }

    #[test]
    fn a_block_of_zeros_has_a_scale_that_the_runtime_loads() {
        let x = [[0.0; 32], [0.25; 32]].concat();
        let (codes, scales, back) = round_trip(IntegerBits::Four, Some(32), 64, &x);
        assert_eq!(scales[..2], ZERO_BLOCK.to_le_bytes());
        assert_eq!(codes[..16], [0; 16]);
        // 0.25 / 7, rounded to BF16
        assert_eq!(f16_to_f32(u16::from_le_bytes([scales[2], scales[3]])), 0.035_644_53);
        assert_eq!(back[32], 0.035_644_53 * 7.0);
        let (_, scales, back) = round_trip(IntegerBits::Eight, None, 4, &[0.0; 4]);
        assert_eq!(scales, (MIN_BOUND / 127.0).to_le_bytes());
        assert_eq!(back, [0.0; 4]);
    }

    /// Codes and scales as a checkpoint of quantization-aware training has them: min-max finds others.
    #[test]
    fn a_grid_keeps_its_codes_and_scales() {
        let cases = [
            (IntegerBits::Two, vec![-2.0, 1.0, 0.0, -1.0, 1.0, 1.0, -2.0, 0.0]),
            (IntegerBits::Four, vec![-8.0, 3.0, 7.0, 5.0, -1.0, 0.0, 2.0, -6.0]),
            (IntegerBits::Eight, vec![-128.0, 101.0, 7.0, 55.0, -1.0, 0.0, 2.0, -60.0]),
        ];
        for (bits, wanted) in cases {
            for (block, scale) in [(None, 0.003_141_592_7), (Some(8), 0.037_109_375)] {
                let integers = Integers { bits, block };
                let x: Vec<f32> = wanted.iter().map(|code| code * scale).collect();
                let (mut codes, mut scales, back) = round_trip(bits, block, 8, &x);
                assert_ne!(back, x, "{integers:?}");
                integers.keep_grid(8, &x, &mut codes, &mut scales);
                let mut back = vec![0.0; 8];
                integers.decode(8, &codes, &scales, &mut back);
                assert_eq!(back, x, "{integers:?}");
                let expected = match block {
                    Some(_) => f32_to_f16(scale).to_le_bytes().to_vec(),
                    None => scale.to_le_bytes().to_vec(),
                };
                assert_eq!(scales, expected, "{integers:?}");
            }
        }
        // other values stay as they were encoded
        let x = [0.3, -0.11, 0.07, 0.21, 0.013, -0.4, 0.1, 0.25];
        let (mut codes, mut scales, _) = round_trip(IntegerBits::Four, None, 8, &x);
        let before = (codes.clone(), scales.clone());
        Integers { bits: IntegerBits::Four, block: None }.keep_grid(8, &x, &mut codes, &mut scales);
        assert_eq!((codes, scales), before);
    }

    /// Against every scale of a fine ladder, each rounded as a plain sum over the values says. The error is a jagged function of the scale, so
    /// that a ladder of 4,096 finds luckier scales: a tenth better at most.
    #[test]
    fn the_search_finds_the_scale_of_the_least_squared_error() {
        let mut random = testkit::SplitMix64(7);
        let mut normal =
            || (0..12).map(|_| (random.next() >> 40) as f32 / (1 << 24) as f32).sum::<f32>() - 6.0;
        let cols = 128;
        let x: Vec<f32> = (0..4 * cols).map(|_| normal().powi(3) * 0.01).collect();
        let weights: Vec<f32> = (0..cols).map(|_| normal().powi(2)).collect();
        for (bits, block) in [
            (IntegerBits::Two, None),
            (IntegerBits::Four, None),
            (IntegerBits::Eight, None),
            (IntegerBits::Four, Some(32)),
        ] {
            let integers = Integers { bits, block };
            let group = block.unwrap_or(cols);
            for weights in [None, Some(weights.as_slice())] {
                let error = |of: &[f32], back: &[f32], first: usize| -> f64 {
                    let weight = |at: usize| weights.map_or(1.0, |w| f64::from(w[(first + at) % cols]));
                    let pairs = of.iter().zip(back).enumerate();
                    pairs.map(|(at, (x, y))| weight(at) * f64::from(x - y).powi(2)).sum()
                };
                let mut codes = vec![0; 4 * integers.code_bytes(cols)];
                let mut scales = vec![0; 4 * integers.scale_bytes(cols)];
                integers.encode(cols, &x, IntegerScales::Search(weights), &mut codes, &mut scales);
                let mut back = vec![0.0; x.len()];
                integers.decode(cols, &codes, &scales, &mut back);
                let (_, _, min_max) = round_trip(bits, block, cols, &x);
                for first in (0..x.len()).step_by(group) {
                    let of = &x[first..][..group];
                    let found = error(of, &back[first..][..group], first);
                    let (least, most) = bits.range();
                    let ladder = (1..=4096).map(|step| {
                        let scale = max_abs(of) / most * step as f32 / 4096.0;
                        let near: Vec<_> = of
                            .iter()
                            .map(|x| (x / scale).clamp(least, most).round_ties_even() * scale)
                            .collect();
                        error(of, &near, first)
                    });
                    let best = ladder.fold(f64::INFINITY, f64::min);
                    assert!(found <= 1.1 * best, "{integers:?} {first}: {found} {best}");
                    let min_max = error(of, &min_max[first..][..group], first);
                    assert!(found <= min_max, "{integers:?} {first}: {found} {min_max}");
                }
            }
        }
    }

    /// Zeros, one large value, and weights of 0 leave the min-max scale or a better one, never 0 or none.
    #[test]
    fn groups_without_a_best_scale_keep_the_min_max_scale() {
        let integers = Integers { bits: IntegerBits::Four, block: Some(32) };
        let mut x = [0.0; 96];
        (x[32], x[70]) = (1e3, 0.5);
        let weights = [&[1.0; 64][..], &[0.0; 32]].concat();
        let (mut codes, mut scales) = (vec![0; 48], vec![0; 6]);
        integers.encode(96, &x, IntegerScales::Search(Some(&weights)), &mut codes, &mut scales);
        let (expected_codes, expected, _) = round_trip(IntegerBits::Four, Some(32), 96, &x);
        assert_eq!((&scales[..2], &scales[4..]), (&expected[..2], &expected[4..]));
        assert_eq!((&codes[..16], &codes[32..]), (&expected_codes[..16], &expected_codes[32..]));
    }

    #[test]
    fn rows_must_be_whole_bytes_and_blocks() {
        let four = |block| Integers { bits: IntegerBits::Four, block };
        assert!(four(None).fits(6) && four(Some(32)).fits(64));
        assert!(
            !four(None).fits(5) && !four(Some(32)).fits(48) && !four(Some(0)).fits(64) && !four(None).fits(0)
        );
    }
}
