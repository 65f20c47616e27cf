//! Q3_K: 16 groups of 16 values x = d·(scale − 32)·(code − 4). 32 bytes of third bits, 64 bytes of low bits,
//! twelve bytes of 6-bit scales, f16 d.

use tensor::DType;

use super::superblocks::{QK_K, pack_pairs_of_bits, round_symmetric, unpack_pairs_of_bits};
use super::{Codec, Rows, invalid_f16};
use crate::float::{extremum, f16_at, f16_to_f32, f32_to_f16, nearest_int};
use crate::lanes::Lanes;
use crate::search::{Symmetric, descend, sum, sum_of_squares, symmetric, weigh};

pub(super) struct Q3K;

const BYTES: usize = DType::Q3_K.block_bytes();

/// Number of groups, and of values in a group.
const G: usize = 16;

/// A super-block before packing.
struct Block {
    d: u16,
    scales: [u8; G],
    codes: [u8; QK_K],
}

/// Fits each group by coordinate descent over its codes; the group scales are quantized relative to the largest.
#[inline(always)]
fn fit<V: Lanes>(x: &[f32; QK_K]) -> Block {
    let groups = x.as_chunks::<G>().0;
    let mut scales = [0.0; G];
    let mut codes = [0; QK_K];
    for first in (0..G).step_by(V::N) {
        let (scale, found) = descend(4, &V::transpose(&groups[first..]));
        scale.store(&mut scales[first..]);
        for (i, found) in found.into_iter().enumerate() {
            let mut lanes = [0.0; G];
            found.store(&mut lanes);
            for lane in 0..V::N {
                codes[(first + lane) * G + i] = lanes[lane] as u8;
            }
        }
    }
    let largest = extremum(&scales);
    if largest == 0.0 {
        return Block { d: 0, scales: [0; G], codes };
    }
    let inverse = -32.0 / largest;
    let scales = scales.map(|scale| ((nearest_int(inverse * scale) as i8).clamp(-32, 31) + 32) as u8);
    Block { d: f32_to_f16(1.0 / inverse), scales, codes }
}

/// Fits each group by weighted search; a second search quantizes the group scales.
#[inline(always)]
fn fit_weighted<V: Lanes>(x: &[f32; QK_K], importance: &[f32; QK_K]) -> Block {
    let groups = x.as_chunks::<G>().0;
    let sigma2 = 2.0 * sum_of_squares(x) / QK_K as f32;
    let (mut scales, mut inverses, mut weights) = ([0.0; G], [0.0; G], [0.0; G]);
    for first in (0..G).step_by(V::N) {
        let x = V::transpose(&groups[first..]);
        let importance = V::transpose(&importance.as_chunks::<G>().0[first..]);
        let w = weigh(&importance, V::splat(sigma2), &x);
        sum(&w).store(&mut weights[first..]);
        let found = symmetric(4, &x, &w);
        found.scale.store(&mut scales[first..]);
        found.inverse.store(&mut inverses[first..]);
    }
    let mut codes = [0; QK_K];
    for (g, codes) in codes.as_chunks_mut::<G>().0.iter_mut().enumerate() {
        *codes = Symmetric::codes(inverses[g], 4, &groups[g]);
    }
    let found = symmetric::<f32, G>(32, &scales, &weights);
    Block { d: f32_to_f16(found.scale), scales: Symmetric::codes(found.inverse, 32, &scales), codes }
}

/// Rounds the values again with the stored scales, except where these are zero.
#[inline(always)]
fn round(block: &mut Block, x: &[f32; QK_K]) {
    let d = f16_to_f32(block.d);
    let groups = x.as_chunks::<G>().0.iter().zip(block.codes.as_chunks_mut::<G>().0);
    for ((x, codes), &scale) in groups.zip(&block.scales) {
        let scale = d * (f32::from(scale) - 32.0);
        if scale != 0.0 {
            *codes = round_symmetric(scale, 4, x);
        }
    }
}

#[inline(always)]
fn pack(block: &Block) -> [u8; BYTES] {
    let mut out = [0; BYTES];
    for (group, codes) in block.codes.as_chunks::<32>().0.iter().enumerate() {
        for (bits, code) in out[..32].iter_mut().zip(codes) {
            *bits |= (code >> 2) << group;
        }
    }
    out[32..96].copy_from_slice(&pack_pairs_of_bits(&block.codes));
    for (j, scale) in block.scales.iter().enumerate() {
        out[96 + j % 8] |= (scale & 15) << (4 * (j / 8));
        out[104 + j % 4] |= (scale >> 4) << (2 * (j / 4));
    }
    out[108..].copy_from_slice(&block.d.to_le_bytes());
    out
}

impl Codec for Q3K {
    const DTYPE: DType = DType::Q3_K;

    #[inline(always)]
    fn encode<V: Lanes>(rows: &Rows<'_>, out: &mut [u8]) {
        let mut out = out.as_chunks_mut::<BYTES>().0.iter_mut();
        for run in rows.runs() {
            let importance = run.importance.map(|w| w.as_chunks::<QK_K>().0);
            for (n, x) in run.x.as_chunks::<QK_K>().0.iter().enumerate() {
                let Some(out) = out.next() else { return };
                let mut block = match importance {
                    Some(importance) => fit_weighted::<V>(x, &importance[n]),
                    None => fit::<V>(x),
                };
                round(&mut block, x);
                *out = pack(&block);
            }
        }
    }

    #[inline(always)]
    fn decode(bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<QK_K>().0) {
            let d = f16_at(block, 108);
            let low = unpack_pairs_of_bits(&block[32..]);
            for (j, out) in out.as_chunks_mut::<G>().0.iter_mut().enumerate() {
                let scale = (block[96 + j % 8] >> (4 * (j / 8)) & 15)
                    | (block[104 + j % 4] >> (2 * (j / 4)) & 3) << 4;
                let scale = d * (f32::from(scale) - 32.0);
                let high = &block[16 * (j % 2)..][..16];
                for ((v, low), high) in out.iter_mut().zip(&low[j * G..]).zip(high) {
                    let code = low | (high >> (j / 2) & 1) << 2;
                    *v = scale * (f32::from(code) - 4.0);
                }
            }
        }
    }

    fn invalid_block(bytes: &[u8]) -> Option<usize> {
        invalid_f16::<BYTES>(bytes, &[108])
    }
}
