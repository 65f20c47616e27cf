//! Q8_0: 32 values x = code·d. F16 scale, 32 signed bytes. Importance has no effect, as in ggml.

use tensor::DType;

use super::blocks::QK;
use super::{Codec, Rows, invalid_f16};
use crate::float::{extremum, f16_at, f32_to_f16, low_byte};
use crate::lanes::Lanes;

pub(super) struct Q8_0;

const BYTES: usize = DType::Q8_0.block_bytes();

/// Packs a block of integer levels.
pub(crate) fn pack(scale: u16, levels: &[f32; QK], out: &mut [u8]) {
    let (head, codes) = out.split_at_mut(2);
    head.copy_from_slice(&scale.to_le_bytes());
    codes.iter_mut().zip(levels).for_each(|(code, level)| *code = *level as i8 as u8);
}

/// Rounds half away from zero, as C's `roundf`, for values in the range of the codes.
#[inline(always)]
fn round(v: f32) -> u8 {
    // Not 0.5: the sum must not round up for the largest value below one half.
    low_byte(v + 0.5_f32.next_down().copysign(v))
}

impl Codec for Q8_0 {
    const DTYPE: DType = DType::Q8_0;

    #[inline(always)]
    fn encode<V: Lanes>(rows: &Rows<'_>, out: &mut [u8]) {
        for (out, x) in out.as_chunks_mut::<BYTES>().0.iter_mut().zip(rows.x.as_chunks::<QK>().0) {
            let d = extremum(x).abs() / 127.0;
            let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
            let (scale, codes) = out.split_at_mut(2);
            scale.copy_from_slice(&f32_to_f16(d).to_le_bytes());
            for (code, v) in codes.iter_mut().zip(x) {
                *code = round(v * inverse);
            }
        }
    }

    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<QK>().0) {
            let d = f16_at(block, 0);
            for (v, &code) in out.iter_mut().zip(&block[2..]) {
                *v = f32::from(code as i8) * d;
            }
        }
    }

    fn invalid_block(bytes: &[u8]) -> Option<usize> {
        invalid_f16::<BYTES>(bytes, &[0])
    }
}
