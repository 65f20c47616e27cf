//! Q6_K: 16 groups of 16 values x = d·scale·(code − 32). 128 bytes of low nibbles, 64 bytes of high bits,
//! sixteen signed 8-bit scales, f16 d.

use tensor::DType;

use super::superblocks::{QK_K, round_symmetric};
use super::{Codec, Rows, invalid_f16};
use crate::float::{GROUP_MAX_EPS, extremum, f16_at, f16_to_f32, f32_to_f16, nearest_int};
use crate::lanes::Lanes;
use crate::search::{Symmetric, squares, symmetric};

pub(super) struct Q6K;

const BYTES: usize = DType::Q6_K.block_bytes();

/// Number of groups, and of values in a group: a super-block is square, and fills sixteen lanes exactly.
const G: usize = 16;

#[inline(always)]
fn encode_block<V: Lanes>(x: &[f32; QK_K], importance: Option<&[f32; QK_K]>) -> [u8; BYTES] {
    let groups = x.as_chunks::<G>().0;
    let (mut scales, mut inverses) = ([0.0; G], [0.0; G]);
    for first in (0..G).step_by(V::N) {
        let x = V::transpose(&groups[first..]);
        let w = match importance {
            Some(importance) => V::transpose(&importance.as_chunks::<G>().0[first..]),
            None => squares(&x),
        };
        let found = symmetric(32, &x, &w);
        found.scale.store(&mut scales[first..]);
        found.inverse.store(&mut inverses[first..]);
    }

    let mut out = [0; BYTES];
    let largest = extremum(&scales);
    if largest.abs() < GROUP_MAX_EPS {
        return out;
    }
    let inverse = -128.0 / largest;
    let d = f32_to_f16(1.0 / inverse);
    let scales = scales.map(|scale| nearest_int(inverse * scale).min(127) as i8);
    let mut codes = [0; QK_K];
    for (g, codes) in codes.as_chunks_mut::<G>().0.iter_mut().enumerate() {
        let scale = f16_to_f32(d) * f32::from(scales[g]);
        *codes = match scale {
            // ggml keeps the codes of the search.
            0.0 => Symmetric::codes(inverses[g], 32, &groups[g]),
            scale => round_symmetric(scale, 32, &groups[g]),
        };
    }

    pack(&codes, &mut out);
    out[192..208].copy_from_slice(&scales.map(|scale| scale as u8));
    out[208..].copy_from_slice(&d.to_le_bytes());
    out
}

/// Packs codes `l`, `l + 32`, `l + 64` and `l + 96` of a half: their low nibbles into two bytes, their high bits into
/// one.
#[inline(always)]
pub(crate) fn pack(codes: &[u8; QK_K], out: &mut [u8]) {
    for (half, codes) in codes.as_chunks::<128>().0.iter().enumerate() {
        for l in 0..32 {
            let [a, b, c, d] = [codes[l], codes[l + 32], codes[l + 64], codes[l + 96]];
            out[64 * half + l] = (a & 15) | c << 4;
            out[64 * half + l + 32] = (b & 15) | d << 4;
            out[128 + 32 * half + l] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6;
        }
    }
}

#[inline(always)]
pub(crate) fn unpack(block: &[u8; BYTES]) -> [u8; QK_K] {
    let mut codes = [0; QK_K];
    for (half, codes) in codes.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        for l in 0..32 {
            let (ac, bd) = (block[64 * half + l], block[64 * half + l + 32]);
            let high = block[128 + 32 * half + l];
            codes[l] = (ac & 15) | (high & 3) << 4;
            codes[l + 32] = (bd & 15) | (high >> 2 & 3) << 4;
            codes[l + 64] = ac >> 4 | (high >> 4 & 3) << 4;
            codes[l + 96] = bd >> 4 | high >> 6 << 4;
        }
    }
    codes
}

impl Codec for Q6K {
    const DTYPE: DType = DType::Q6_K;

    #[inline(always)]
    fn encode<V: Lanes>(rows: &Rows<'_>, out: &mut [u8]) {
        let mut out = out.as_chunks_mut::<BYTES>().0.iter_mut();
        for run in rows.runs() {
            let importance = run.importance.map(|w| w.as_chunks::<QK_K>().0);
            for (n, x) in run.x.as_chunks::<QK_K>().0.iter().enumerate() {
                let Some(out) = out.next() else { return };
                *out = encode_block::<V>(x, importance.map(|w| &w[n]));
            }
        }
    }

    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<QK_K>().0) {
            let d = f16_at(block, 208);
            let codes = unpack(block);
            let groups = out.as_chunks_mut::<G>().0.iter_mut().zip(codes.as_chunks::<G>().0);
            for ((out, codes), &scale) in groups.zip(&block[192..208]) {
                let scale = d * f32::from(scale as i8);
                for (v, &code) in out.iter_mut().zip(codes) {
                    *v = scale * f32::from(code as i8 - 32);
                }
            }
        }
    }

    fn invalid_block(bytes: &[u8]) -> Option<usize> {
        invalid_f16::<BYTES>(bytes, &[208])
    }
}
