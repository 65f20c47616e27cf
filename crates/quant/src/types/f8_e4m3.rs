//! F8_E4M3: four bits of exponent (bias 7), three of mantissa, subnormals, no infinities, one NaN for each sign. The
//! "fn" variant of OCP's FP8 specification and of `torch.float8_e4m3fn`. Its scales, one for each row or tensor, are
//! stored elsewhere.
//!
//! Rounds half to even. Values beyond the largest, 448, and infinities saturate, as in torch 2.15; older versions gave
//! NaN beyond 464, so programs that quantise with them clamp first. Importance has no effect.

use tensor::DType;

use super::{Codec, Rows};
use crate::float::first_bad;
use crate::lanes::Lanes;

pub(super) struct F8E4M3;

/// The largest value of the format.
pub(crate) const LARGEST: f32 = 448.0;

const NAN: u8 = 0x7f;

/// The smallest value that is not subnormal.
const NORMAL: f32 = 1.0 / 64.0;

#[inline(always)]
fn encode(value: f32) -> u8 {
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    // The unit in the last place of the added number is the step of the subnormals, 2^−9, so the addition rounds to it.
    let subnormal = (f32::from_bits(magnitude) + 16384.0).to_bits().wrapping_sub(16384_f32.to_bits());
    let rounded = (magnitude + 0x7_ffff + (magnitude >> 20 & 1)) >> 20;
    let normal = rounded.wrapping_sub(120 << 3).min(u32::from(NAN) - 1);
    let code = if magnitude < NORMAL.to_bits() { subnormal } else { normal };
    let code = if magnitude > f32::INFINITY.to_bits() { u32::from(NAN) } else { code };
    (bits >> 24 & 0x80 | code) as u8
}

#[inline(always)]
fn decode(byte: u8) -> f32 {
    let code = u32::from(byte & 0x7f);
    let subnormal = f32::from_bits((code << 20) + NORMAL.to_bits()) - NORMAL;
    let normal = (code << 20) + (120 << 23);
    let magnitude = if code < 8 { subnormal.to_bits() } else { normal };
    // the same NaN bits as torch
    let magnitude = if code == u32::from(NAN) { 0x7ff0_0000 } else { magnitude };
    f32::from_bits(u32::from(byte & 0x80) << 24 | magnitude)
}

impl Codec for F8E4M3 {
    const DTYPE: DType = DType::F8_E4M3;

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

    fn invalid_block(bytes: &[u8]) -> Option<usize> {
        first_bad(bytes, |byte| byte & 0x7f == NAN)
    }
}
