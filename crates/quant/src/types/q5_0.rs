//! Q5_0: 32 values x = (code − 16)·d. F16 scale, 32 fifth bits, 16 bytes of nibbles.

use tensor::DType;

use super::blocks::{QK, fifth_bits, nibbles, weighted_symmetric, with_fifth_bits};
use super::{Codec, Rows, invalid_f16};
use crate::float::{extremum, f16_at, f32_to_f16, low_byte};
use crate::lanes::Lanes;

pub(super) struct Q5_0;

const BYTES: usize = DType::Q5_0.block_bytes();

#[inline(always)]
pub(crate) fn pack(scale: u16, codes: &[u8; QK]) -> [u8; BYTES] {
    let mut out = [0; BYTES];
    out[..2].copy_from_slice(&scale.to_le_bytes());
    out[2..6].copy_from_slice(&fifth_bits(codes));
    out[6..].copy_from_slice(&nibbles(codes));
    out
}

impl Codec for Q5_0 {
    const DTYPE: DType = DType::Q5_0;

    #[inline(always)]
    fn encode<V: Lanes>(rows: &Rows<'_>, out: &mut [u8]) {
        if rows.importance.is_some() {
            return weighted_symmetric::<V, BYTES>(rows, 16, out, pack);
        }
        for (out, x) in out.as_chunks_mut::<BYTES>().0.iter_mut().zip(rows.x.as_chunks::<QK>().0) {
            // The extremum becomes code 0, with either sign.
            let d = extremum(x) / -16.0;
            let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
            let mut codes = [0; QK];
            for (code, v) in codes.iter_mut().zip(x) {
                *code = (low_byte(v * inverse + 16.5) as i8).min(31) as u8;
            }
            *out = pack(f32_to_f16(d), &codes);
        }
    }

    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<QK>().0) {
            let d = f16_at(block, 0);
            let codes = with_fifth_bits(&block[2..], &block[6..]);
            for (v, code) in out.iter_mut().zip(codes) {
                *v = f32::from(code as i8 - 16) * d;
            }
        }
    }

    fn invalid_block(bytes: &[u8]) -> Option<usize> {
        invalid_f16::<BYTES>(bytes, &[0])
    }
}
