//! F32: IEEE single precision, little endian.

use tensor::DType;

use super::{Codec, Rows};
use crate::float::first_bad;
use crate::lanes::Lanes;

pub(super) struct F32;

impl Codec for F32 {
    const DTYPE: DType = DType::F32;

    #[inline(always)]
    fn encode<V: Lanes>(rows: &Rows<'_>, out: &mut [u8]) {
        for (out, v) in out.as_chunks_mut::<4>().0.iter_mut().zip(rows.x) {
            *out = v.to_le_bytes();
        }
    }

    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        for (v, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *v = f32::from_le_bytes(*bytes);
        }
    }

    fn invalid_block(bytes: &[u8]) -> Option<usize> {
        first_bad(bytes.as_chunks::<4>().0, |v: [u8; 4]| u32::from_le_bytes(v) & 0x7f80_0000 == 0x7f80_0000)
    }
}
