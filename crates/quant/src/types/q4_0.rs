//! Q4_0: 32 values x = (code − 8)·d. F16 scale, 16 bytes of nibbles.

use tensor::DType;

use super::blocks::{QK, from_nibbles, nibbles, weighted_symmetric};
use super::{Codec, Rows, invalid_f16};
use crate::float::{extremum, f16_at, f32_to_f16, low_byte};
use crate::lanes::Lanes;

pub(super) struct Q4_0;

const BYTES: usize = DType::Q4_0.block_bytes();

#[inline(always)]
pub(crate) fn pack(scale: u16, codes: &[u8; QK]) -> [u8; BYTES] {
    let mut out = [0; BYTES];
    out[..2].copy_from_slice(&scale.to_le_bytes());
    out[2..].copy_from_slice(&nibbles(codes));
    out
}

impl Codec for Q4_0 {
    const DTYPE: DType = DType::Q4_0;

    #[inline(always)]
    fn encode<V: Lanes>(rows: &Rows<'_>, out: &mut [u8]) {
        if rows.importance.is_some() {
            return weighted_symmetric::<V, BYTES>(rows, 8, out, pack);
        }
        for (out, x) in out.as_chunks_mut::<BYTES>().0.iter_mut().zip(rows.x.as_chunks::<QK>().0) {
            // The extremum becomes code 0, with either sign.
            let d = extremum(x) / -8.0;
            let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
            let mut codes = [0; QK];
            for (code, v) in codes.iter_mut().zip(x) {
                *code = (low_byte(v * inverse + 8.5) as i8).min(15) as u8;
            }
            *out = pack(f32_to_f16(d), &codes);
        }
    }

    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<QK>().0) {
            let d = f16_at(block, 0);
            let codes = from_nibbles(&block[2..]);
            for (v, code) in out.iter_mut().zip(codes) {
                *v = f32::from(code as i8 - 8) * d;
            }
        }
    }

    fn invalid_block(bytes: &[u8]) -> Option<usize> {
        invalid_f16::<BYTES>(bytes, &[0])
    }
}
