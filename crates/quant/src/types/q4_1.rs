//! Q4_1: 32 values x = code·d + m. F16 scale and minimum, 16 bytes of nibbles.

use tensor::DType;

use super::blocks::{QK, from_nibbles, nibbles, range, weighted_affine};
use super::{Codec, Rows, invalid_f16};
use crate::float::{f16_at, f32_to_f16, low_byte};
use crate::lanes::Lanes;

pub(super) struct Q4_1;

const BYTES: usize = DType::Q4_1.block_bytes();

#[inline(always)]
pub(crate) fn pack(scale: u16, min: u16, codes: &[u8; QK]) -> [u8; BYTES] {
    let mut out = [0; BYTES];
    out[..2].copy_from_slice(&scale.to_le_bytes());
    out[2..4].copy_from_slice(&min.to_le_bytes());
    out[4..].copy_from_slice(&nibbles(codes));
    out
}

impl Codec for Q4_1 {
    const DTYPE: DType = DType::Q4_1;

    #[inline(always)]
    fn encode<V: Lanes>(rows: &Rows<'_>, out: &mut [u8]) {
        if rows.importance.is_some() {
            return weighted_affine::<V, BYTES>(rows, 15, out, pack);
        }
        for (out, x) in out.as_chunks_mut::<BYTES>().0.iter_mut().zip(rows.x.as_chunks::<QK>().0) {
            let (min, max) = range(x);
            let d = (max - min) / 15.0;
            let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
            let mut codes = [0; QK];
            for (code, v) in codes.iter_mut().zip(x) {
                *code = (low_byte((v - min) * inverse + 0.5) as i8).min(15) as u8;
            }
            *out = pack(f32_to_f16(d), f32_to_f16(min), &codes);
        }
    }

    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<QK>().0) {
            let (d, min) = (f16_at(block, 0), f16_at(block, 2));
            let codes = from_nibbles(&block[4..]);
            for (v, code) in out.iter_mut().zip(codes) {
                *v = f32::from(code) * d + min;
            }
        }
    }

    fn invalid_block(bytes: &[u8]) -> Option<usize> {
        invalid_f16::<BYTES>(bytes, &[0, 2])
    }
}
