//! SFP8: gemma.cpp's "switching floating point". One byte a value; the scale is one number for each tensor, stored
//! elsewhere.
//!
//! The seven bits below the sign bit are a code that grows with the magnitude; its highest bit switches the layout.
//! There are no subnormal, infinite or NaN values, and 0x80 is reserved:
//!
//! | code | bits | value |
//! |---|---|---|
//! | 0 | | 0 |
//! | 1…63 | `0EEEEMM` | 2^(E−23)·(1 + M/4), up to 1.75·2⁻⁸ |
//! | 64…127 | `1EEEMMM` | 2^(E−7)·(1 + M/8), from 2⁻⁷ to 1.875 |
//!
//! Encodes as gemma.cpp does, not to the full precision of the format: an f32 is truncated to BF16 before it is
//! rounded. Beyond 1.875, where gemma.cpp aborts or gives nonsense, the result is ±1.875.
//!
//! Source: `compression/sfp-inl.h` (codec) and `compression/compress.cc` (scale) of google/gemma.cpp, 3ed403e2.
//! Importance has no effect.

use tensor::DType;

use super::{Codec, Rows};
use crate::float::first_bad;
use crate::lanes::Lanes;

pub(super) struct Sfp8;

/// The largest value of the format.
pub(crate) const LARGEST: f32 = 1.875;

/// Exponents, biased as in f32, that correspond to exponent code 0 of the two layouts.
const SMALL: u32 = 127 - 23;
const LARGE: u32 = 127 - 15;

/// The first code of the large layout, and the smallest magnitude (in the form of `encode`) that rounds to its value,
/// 2⁻⁷.
const SWITCH: u32 = 64;
const FIRST_LARGE: u32 = 7676;

#[inline(always)]
fn encode(value: f32) -> u8 {
    let bits = value.to_bits();
    // the bits of BF16 without its last one: eight bits of exponent, six of mantissa
    let magnitude = ((bits & 0x7fff_ffff) >> 17).min(LARGEST.to_bits() >> 17);
    // rounds half to even, to two and to three bits of mantissa
    let two = (magnitude + 7 + (magnitude >> 4 & 1)) >> 4;
    let three = (magnitude + 3 + (magnitude >> 3 & 1)) >> 3;
    // 2^−23, whose code would be 0, becomes the next larger value, 1.25·2^−23.
    let small = two.saturating_sub(SMALL << 2) + u32::from(two == SMALL << 2);
    let large = three.wrapping_sub(LARGE << 3);
    let code = if magnitude < FIRST_LARGE { small } else { large };
    let sign = if code == 0 { 0 } else { bits >> 24 & 0x80 };
    (sign | code) as u8
}

#[inline(always)]
fn decode(byte: u8) -> f32 {
    let code = u32::from(byte & 0x7f);
    let small = (code << 21) + (SMALL << 23);
    let large = (code << 20) + (LARGE << 23);
    let magnitude = if code < SWITCH { small } else { large };
    let magnitude = if code == 0 { 0 } else { magnitude };
    f32::from_bits(u32::from(byte & 0x80) << 24 | magnitude)
}

/// The scale of an SFP8 tensor whose largest magnitude is `max_abs` (finite, see [`max_abs`](crate::max_abs)): a weight
/// is the value of its code times the scale. The scale is 1 for tensors within range; small tensors are never scaled
/// up.
pub fn sfp8_scale(max_abs: f32) -> f32 {
    if max_abs <= LARGEST { 1.0 } else { max_abs / LARGEST }
}

/// Divides finite weights by a scale of [`sfp8_scale`], to bring them into the range of SFP8 before encoding; like
/// gemma.cpp, by multiplication with the inverse.
pub fn sfp8_divide(values: &mut [f32], scale: f32) {
    if scale == 1.0 {
        return;
    }
    let inverse = (1.0 / f64::from(scale)) as f32;
    for value in values {
        *value = (*value * inverse).clamp(-LARGEST, LARGEST);
    }
}

impl Codec for Sfp8 {
    const DTYPE: DType = DType::SFP8;

    #[inline(always)]
    fn encode<V: Lanes>(rows: &Rows<'_>, out: &mut [u8]) {
        for (out, &v) in out.iter_mut().zip(rows.x) {
            *out = encode(v);
        }
    }

    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        for (v, &byte) in out.iter_mut().zip(bytes) {
            *v = decode(byte);
        }
    }

    /// The reserved byte, which no encoder writes.
    fn invalid_block(bytes: &[u8]) -> Option<usize> {
        first_bad(bytes, |byte| byte == 0x80)
    }
}
