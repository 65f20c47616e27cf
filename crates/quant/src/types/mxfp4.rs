//! MXFP4: 32 values of FP4 (E2M1) with a shared power of two as scale (E8M0), from OCP Microscaling. The exponent byte,
//! then 16 bytes of nibbles. Importance has no effect, as in ggml.

use tensor::DType;

use super::blocks::{QK, from_nibbles, nibbles};
use super::{Codec, Rows};
use crate::float::{extremum, first_bad};
use crate::lanes::Lanes;

pub(super) struct Mxfp4;

const BYTES: usize = DType::MXFP4.block_bytes();

/// Twice the values of E2M1; [`half_scale`] compensates.
const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Half of 2^(exponent − 127).
#[inline(always)]
fn half_scale(exponent: u8) -> f32 {
    f32::from_bits(if exponent < 2 { 0x0020_0000 << exponent } else { u32::from(exponent - 1) << 23 })
}

/// The exponent byte: the exponent of the block's largest magnitude minus two, because the largest value of E2M1 is 6,
/// with exponent 2.
#[inline(always)]
fn exponent(magnitude: f32) -> u8 {
    if magnitude == 0.0 {
        return 0;
    }
    // Rounded to f32 like C's `log2f`, which gives an integer for arguments slightly below a power of two.
    let log2 = f64::from(magnitude).log2() as f32;
    (log2.floor() - 2.0 + 127.0) as i32 as u8
}

impl Codec for Mxfp4 {
    const DTYPE: DType = DType::MXFP4;

    #[inline(always)]
    fn encode<V: Lanes>(rows: &Rows<'_>, out: &mut [u8]) {
        for (out, x) in out.as_chunks_mut::<BYTES>().0.iter_mut().zip(rows.x.as_chunks::<QK>().0) {
            let exponent = exponent(extremum(x).abs());
            let d = half_scale(exponent);
            let mut codes = [0; QK];
            for (code, v) in codes.iter_mut().zip(x) {
                let mut least = v.abs();
                for (candidate, &value) in VALUES.iter().enumerate() {
                    let error = (f32::from(value) * d - v).abs();
                    *code = if error < least { candidate as u8 } else { *code };
                    least = if error < least { error } else { least };
                }
            }
            out[0] = exponent;
            out[1..].copy_from_slice(&nibbles(&codes));
        }
    }

    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<QK>().0) {
            let d = half_scale(block[0]);
            for (v, code) in out.iter_mut().zip(from_nibbles(&block[1..])) {
                *v = f32::from(VALUES[usize::from(code)]) * d;
            }
        }
    }

    /// E8M0 has one NaN, 255, and no infinity.
    fn invalid_block(bytes: &[u8]) -> Option<usize> {
        first_bad(bytes.as_chunks::<BYTES>().0, |block: [u8; BYTES]| block[0] == 0xff)
    }
}
