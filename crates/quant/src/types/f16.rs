//! F16: IEEE half precision, little endian.

use tensor::DType;

use super::{Codec, Rows};
use crate::float::{f16_to_f32, f32_to_f16, first_bad};
use crate::lanes::Lanes;

pub(super) struct F16;

impl Codec for F16 {
    const DTYPE: DType = DType::F16;

    #[inline(always)]
    fn encode<V: Lanes>(rows: &Rows<'_>, out: &mut [u8]) {
        for (out, &v) in out.as_chunks_mut::<2>().0.iter_mut().zip(rows.x) {
            *out = f32_to_f16(v).to_le_bytes();
        }
    }

    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        for (v, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *v = f16_to_f32(u16::from_le_bytes(*bytes));
        }
    }

    fn invalid_block(bytes: &[u8]) -> Option<usize> {
        first_bad(bytes.as_chunks::<2>().0, |v: [u8; 2]| u16::from_le_bytes(v) & 0x7c00 == 0x7c00)
    }
}
