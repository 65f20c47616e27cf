//! IQ4_XS: 8 groups of 32 values `x = d·(scale − 32)·table[code]`. F16 d, 16 high and 32 low bits of 6-bit scales,
//! 128 bytes of nibbles.

use tensor::DType;

use super::blocks::{QK, from_nibbles, nibbles};
use super::iq4::{VALUES, codes, scale};
use super::superblocks::QK_K;
use super::{Codec, Rows, invalid_f16};
use crate::float::{extremum, f16_at, f32_to_f16, nearest_int};
use crate::lanes::{Lanes, MAX_LANES};
use crate::search::{squares, sum_of_squares, weigh};

pub(super) struct Iq4Xs;

const BYTES: usize = DType::IQ4_XS.block_bytes();

/// Number of groups in a super-block.
const G: usize = QK_K / QK;

/// The group scales of two super-blocks: as many groups as the widest vector has lanes.
#[inline(always)]
fn scales<V: Lanes>(x: &[f32], importance: Option<&[f32]>) -> [f32; MAX_LANES] {
    let mut sigma2 = [0.0; MAX_LANES];
    for (sigma2, x) in sigma2.chunks_mut(G).zip(x.as_chunks::<QK_K>().0) {
        sigma2.fill(sum_of_squares(x) * (2.0 / QK_K as f32));
    }
    let groups = x.as_chunks::<QK>().0;
    let mut scales = [0.0; MAX_LANES];
    for first in (0..groups.len()).step_by(V::N) {
        let x = V::transpose(&groups[first..]);
        let w = match importance {
            Some(importance) => {
                let importance = V::transpose(&importance.as_chunks::<QK>().0[first..]);
                weigh(&importance, V::load(&sigma2[first..]), &x)
            }
            None => squares(&x),
        };
        scale(&x, &w).store(&mut scales[first..]);
    }
    scales
}

#[inline(always)]
fn pack(x: &[f32; QK_K], scales: &[f32; G]) -> [u8; BYTES] {
    let d = -extremum(scales) / 32.0;
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    let mut out = [0; BYTES];
    let mut high = 0u16;
    for (g, (x, scale)) in x.as_chunks::<QK>().0.iter().zip(scales).enumerate() {
        let scale = nearest_int(inverse * scale).clamp(-32, 31);
        let stored = d * scale as f32;
        let inverse = if stored != 0.0 { 1.0 / stored } else { 0.0 };
        let bits = (scale + 32) as u8;
        out[4 + g / 2] |= (bits & 15) << (4 * (g % 2));
        high |= u16::from(bits >> 4) << (2 * g);
        out[8 + 16 * g..][..16].copy_from_slice(&nibbles(&codes(inverse, x)));
    }
    out[..2].copy_from_slice(&f32_to_f16(d).to_le_bytes());
    out[2..4].copy_from_slice(&high.to_le_bytes());
    out
}

impl Codec for Iq4Xs {
    const DTYPE: DType = DType::IQ4_XS;

    #[inline(always)]
    fn encode<V: Lanes>(rows: &Rows<'_>, out: &mut [u8]) {
        let mut out = out.as_chunks_mut::<BYTES>().0.iter_mut();
        for run in rows.runs() {
            for (n, x) in run.x.chunks(2 * QK_K).enumerate() {
                let importance = run.importance.map(|w| &w[n * 2 * QK_K..][..x.len()]);
                let scales = scales::<V>(x, importance);
                for (x, scales) in x.as_chunks::<QK_K>().0.iter().zip(scales.as_chunks::<G>().0) {
                    let Some(out) = out.next() else { return };
                    *out = pack(x, scales);
                }
            }
        }
    }

    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<QK_K>().0) {
            let d = f16_at(block, 0);
            let high = u16::from_le_bytes([block[2], block[3]]);
            for (g, out) in out.as_chunks_mut::<QK>().0.iter_mut().enumerate() {
                let scale = (block[4 + g / 2] >> (4 * (g % 2)) & 15) | ((high >> (2 * g) & 3) << 4) as u8;
                let scale = d * (f32::from(scale) - 32.0);
                for (v, code) in out.iter_mut().zip(from_nibbles(&block[8 + 16 * g..])) {
                    *v = scale * f32::from(VALUES[usize::from(code)]);
                }
            }
        }
    }

    fn invalid_block(bytes: &[u8]) -> Option<usize> {
        invalid_f16::<BYTES>(bytes, &[0])
    }
}
