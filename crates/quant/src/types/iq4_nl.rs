//! IQ4_NL: 32 values `x = d·table[code]`. F16 scale, 16 bytes of nibbles.

use tensor::DType;

use super::blocks::{QK, from_nibbles, nibbles};
use super::iq4::{VALUES, code, codes, scale};
use super::{Codec, Rows, invalid_f16};
use crate::float::{f16_at, f32_to_f16};
use crate::lanes::{Lanes, MAX_LANES};
use crate::search::{squares, sum, weigh};

pub(super) struct Iq4Nl;

const BYTES: usize = DType::IQ4_NL.block_bytes();

/// Packs a block of table values.
pub(crate) fn pack(scale: u16, levels: &[f32; QK], out: &mut [u8]) {
    let (head, bytes) = out.split_at_mut(2);
    head.copy_from_slice(&scale.to_le_bytes());
    bytes.copy_from_slice(&nibbles(&levels.map(code)));
}

impl Codec for Iq4Nl {
    const DTYPE: DType = DType::IQ4_NL;

    #[inline(always)]
    fn encode<V: Lanes>(rows: &Rows<'_>, out: &mut [u8]) {
        let mut out = out.as_chunks_mut::<BYTES>().0.iter_mut();
        for run in rows.runs() {
            let blocks = run.x.as_chunks::<QK>().0;
            for first in (0..blocks.len()).step_by(V::N) {
                let x = V::transpose(&blocks[first..]);
                let w = match run.importance {
                    Some(importance) => {
                        let sigma2 = sum(&squares(&x)) * V::splat(2.0 / QK as f32);
                        weigh(&V::transpose(&importance.as_chunks::<QK>().0[first..]), sigma2, &x)
                    }
                    None => squares(&x),
                };
                let mut scales = [0.0; MAX_LANES];
                scale(&x, &w).store(&mut scales);
                for (x, d) in blocks[first..].iter().zip(scales).take(V::N) {
                    let Some(out) = out.next() else { return };
                    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
                    out[..2].copy_from_slice(&f32_to_f16(d).to_le_bytes());
                    out[2..].copy_from_slice(&nibbles(&codes(inverse, x)));
                }
            }
        }
    }

    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<QK>().0) {
            let d = f16_at(block, 0);
            for (v, code) in out.iter_mut().zip(from_nibbles(&block[2..])) {
                *v = d * f32::from(VALUES[usize::from(code)]);
            }
        }
    }

    fn invalid_block(bytes: &[u8]) -> Option<usize> {
        invalid_f16::<BYTES>(bytes, &[0])
    }
}
