//! Common parts of the types with 256 values a block: the encoder of the types with minima (Q2_K, Q4_K, Q5_K), rounding
//! with the stored scales, and the packing of scales and of 2-bit codes.

use super::Rows;
use crate::float::{f16_to_f32, f32_to_f16, nearest_int};
use crate::lanes::{Lanes, MAX_LANES};
use crate::search::{Affine, Steps, affine, positive, squares, sum, sum_of_squares, weigh};

/// Number of values in a super-block.
pub(super) const QK_K: usize = 256;

/// Number of values searched together: two super-blocks have as many groups of 32 as the widest vector has lanes.
const TOGETHER: usize = 2 * QK_K;
const _: () = assert!(TOGETHER / 32 == MAX_LANES);

/// Number of groups in [`TOGETHER`] values, for groups of 16.
const GROUPS: usize = TOGETHER / 16;

/// Parameters of a type with scales and minima.
pub(super) struct Minima {
    /// The largest code.
    pub(super) nmax: i32,
    /// The largest code of a scale or minimum.
    pub(super) top: i32,
    /// Limit of the scale codes. Larger ones cannot occur, except where ggml casts negative codes.
    pub(super) cut: u8,
    /// Candidates of the search without importance.
    pub(super) steps: Steps,
    /// Without importance the weight of a value is its magnitude; this adds the root mean square of the group.
    pub(super) plus_mean: bool,
    /// With importance: σ² is this factor times the mean of x².
    pub(super) sigma2: f32,
}

/// A super-block before packing.
pub(crate) struct Block {
    /// Bits of the f16 scale of the scales, and of the scale of the minima.
    pub(crate) d: u16,
    pub(crate) dmin: u16,
    /// Codes of the scales and minima; a type with eight groups uses the first eight.
    pub(crate) scales: [u8; 16],
    pub(crate) mins: [u8; 16],
    pub(crate) codes: [u8; QK_K],
}

/// Encodes super-blocks of `G` groups of `K` values.
#[inline(always)]
pub(super) fn encode_minima<V: Lanes, const G: usize, const K: usize, const BYTES: usize>(
    shape: &Minima,
    rows: &Rows<'_>,
    out: &mut [u8],
    pack: impl Fn(&Block) -> [u8; BYTES],
) {
    let mut out = out.as_chunks_mut::<BYTES>().0.iter_mut();
    for run in rows.runs() {
        for (n, x) in run.x.chunks(TOGETHER).enumerate() {
            let importance = run.importance.map(|w| &w[n * TOGETHER..][..x.len()]);
            let found = Found::search::<V, G, K>(shape, x, importance);
            for (s, x) in x.as_chunks::<QK_K>().0.iter().enumerate() {
                let Some(out) = out.next() else { return };
                *out = pack(&found.block::<G, K>(shape, s, x, importance.is_some()));
            }
        }
    }
}

/// Results of the search for each group.
struct Found {
    scale: [f32; GROUPS],
    min: [f32; GROUPS],
    inverse: [f32; GROUPS],
    base: [f32; GROUPS],
    /// Sum of the weights of the group.
    weight: [f32; GROUPS],
}

impl Found {
    #[inline(always)]
    fn search<V: Lanes, const G: usize, const K: usize>(
        shape: &Minima,
        x: &[f32],
        importance: Option<&[f32]>,
    ) -> Found {
        let none = [0.0; GROUPS];
        let mut found = Found { scale: none, min: none, inverse: none, base: none, weight: none };
        let groups = x.as_chunks::<K>().0;
        let sigma2 = if importance.is_some() { sigma2::<G>(shape.sigma2, x) } else { none };
        for first in (0..groups.len()).step_by(V::N) {
            let x = V::transpose(&groups[first..]);
            let (w, steps) = match importance {
                Some(importance) => {
                    let importance = V::transpose(&importance.as_chunks::<K>().0[first..]);
                    (weigh(&importance, V::load(&sigma2[first..]), &x), Steps::WEIGHTED)
                }
                None => (plain_weights(shape.plus_mean, &x), shape.steps),
            };
            sum(&w).store(&mut found.weight[first..]);
            let fit = affine(shape.nmax, steps, &x, &w);
            fit.scale.store(&mut found.scale[first..]);
            fit.min.store(&mut found.min[first..]);
            fit.inverse.store(&mut found.inverse[first..]);
            fit.base.store(&mut found.base[first..]);
        }
        found
    }

    /// Quantizes the scales and minima of super-block `s`, then rounds its values with them.
    #[inline(always)]
    fn block<const G: usize, const K: usize>(
        &self,
        shape: &Minima,
        s: usize,
        x: &[f32; QK_K],
        weighted: bool,
    ) -> Block {
        let of = |all: &[f32; GROUPS]| -> [f32; G] { std::array::from_fn(|g| all[s * G + g]) };
        let code = |values: &[f32; G]| match weighted {
            true => positive(shape.top, values, &of(&self.weight)),
            false => code_by_largest(shape, values),
        };
        let (d, scales) = code(&of(&self.scale));
        let (dmin, mins) = code(&of(&self.min));
        let (d, dmin) = (f32_to_f16(d), f32_to_f16(dmin));
        let mut block = Block { d, dmin, scales: [0; 16], mins: [0; 16], codes: [0; QK_K] };
        block.scales[..G].copy_from_slice(&scales);
        block.mins[..G].copy_from_slice(&mins);

        let (d, dmin) = (f16_to_f32(d), f16_to_f32(dmin));
        let groups = x.as_chunks::<K>().0.iter().zip(block.codes.as_chunks_mut::<K>().0);
        for (g, (x, codes)) in groups.enumerate() {
            let (scale, min) = (d * f32::from(scales[g]), dmin * f32::from(mins[g]));
            if scale == 0.0 {
                // ggml keeps the codes of the search.
                *codes = Affine::codes(self.inverse[s * G + g], self.base[s * G + g], shape.nmax, x);
                continue;
            }
            for (code, v) in codes.iter_mut().zip(x) {
                *code = nearest_int((v + min) / scale).min(shape.nmax).max(0) as u8;
            }
        }
        block
    }
}

/// The σ² of the super-block of each group.
#[inline(always)]
fn sigma2<const G: usize>(factor: f32, x: &[f32]) -> [f32; GROUPS] {
    let mut out = [0.0; GROUPS];
    for (out, x) in out.chunks_mut(G).zip(x.as_chunks::<QK_K>().0) {
        out.fill(factor * sum_of_squares(x) / QK_K as f32);
    }
    out
}

/// Weights of the values without importance.
#[inline(always)]
fn plain_weights<V: Lanes, const K: usize>(plus_mean: bool, x: &[V; K]) -> [V; K] {
    let mut w = *x;
    if plus_mean {
        let mean = (sum(&squares(x)) / V::splat(K as f32)).sqrt();
        for w in &mut w {
            *w = mean + w.abs();
        }
    } else {
        for w in &mut w {
            *w = w.abs();
        }
    }
    w
}

/// Quantizes values so that the largest one gets the largest code.
#[inline(always)]
fn code_by_largest<const G: usize>(shape: &Minima, values: &[f32; G]) -> (f32, [u8; G]) {
    let top = shape.top as f32;
    let largest = values.iter().fold(0.0, |most, &v| if v > most { v } else { most });
    let inverse = if largest > 0.0 { top / largest } else { 0.0 };
    (largest / top, values.map(|v| (nearest_int(inverse * v) as u8).min(shape.cut)))
}

/// Packs eight scales and eight minima of six bits into twelve bytes (Q4_K, Q5_K).
#[inline(always)]
pub(super) fn pack_scales(scales: &[u8; 16], mins: &[u8; 16]) -> [u8; 12] {
    let mut out = [0; 12];
    for j in 0..4 {
        out[j] = scales[j] | (scales[j + 4] >> 4) << 6;
        out[j + 4] = mins[j] | (mins[j + 4] >> 4) << 6;
        out[j + 8] = (scales[j + 4] & 15) | (mins[j + 4] & 15) << 4;
    }
    out
}

/// The inverse of [`pack_scales`], from the first 12 bytes: `(scale, minimum)` of each group.
#[inline(always)]
pub(crate) fn unpack_scales(packed: &[u8]) -> [(u8, u8); 8] {
    let packed = &packed[..12];
    let mut out = [(0, 0); 8];
    for j in 0..4 {
        out[j] = (packed[j] & 63, packed[j + 4] & 63);
        let low = packed[j + 8];
        out[j + 4] = ((low & 15) | (packed[j] >> 6) << 4, (low >> 4) | (packed[j + 4] >> 6) << 4);
    }
    out
}

/// Packs the low two bits: byte `32·h + l` holds codes `l`, `l + 32`, `l + 64` and `l + 96` of half `h` (Q2_K, Q3_K).
#[inline(always)]
pub(super) fn pack_pairs_of_bits(codes: &[u8; QK_K]) -> [u8; 64] {
    let mut out = [0; 64];
    for (out, codes) in out.as_chunks_mut::<32>().0.iter_mut().zip(codes.as_chunks::<128>().0) {
        for l in 0..32 {
            let bits = |quarter: usize| (codes[l + 32 * quarter] & 3) << (2 * quarter);
            out[l] = bits(0) | bits(1) | bits(2) | bits(3);
        }
    }
    out
}

/// The inverse of [`pack_pairs_of_bits`], from the first 64 bytes.
#[inline(always)]
pub(super) fn unpack_pairs_of_bits(packed: &[u8]) -> [u8; QK_K] {
    let mut codes = [0; QK_K];
    for (i, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (half, quarter) = (i / 4, i % 4);
        for (code, byte) in codes.iter_mut().zip(&packed[32 * half..][..32]) {
            *code = (byte >> (2 * quarter)) & 3;
        }
    }
    codes
}

/// Packs the low four bits: byte `32·p + l` holds codes `64·p + l` and `64·p + l + 32` (Q4_K, Q5_K).
#[inline(always)]
pub(super) fn pack_nibbles(codes: &[u8; QK_K]) -> [u8; 128] {
    let mut out = [0; 128];
    for (out, codes) in out.as_chunks_mut::<32>().0.iter_mut().zip(codes.as_chunks::<64>().0) {
        for l in 0..32 {
            out[l] = (codes[l] & 15) | codes[l + 32] << 4;
        }
    }
    out
}

/// The inverse of [`pack_nibbles`], from the first 128 bytes.
#[inline(always)]
pub(super) fn unpack_nibbles(packed: &[u8]) -> [u8; QK_K] {
    let mut codes = [0; QK_K];
    for (codes, packed) in codes.as_chunks_mut::<64>().0.iter_mut().zip(packed[..128].as_chunks::<32>().0) {
        for l in 0..32 {
            codes[l] = packed[l] & 15;
            codes[l + 32] = packed[l] >> 4;
        }
    }
    codes
}

/// Rounds a group of 16 values with its stored scale: codes from −nmax to nmax − 1, plus nmax (Q3_K, Q6_K).
#[inline(always)]
pub(super) fn round_symmetric(scale: f32, nmax: i32, x: &[f32; 16]) -> [u8; 16] {
    let mut codes = [0; 16];
    for (code, v) in codes.iter_mut().zip(x) {
        *code = (nearest_int(v / scale).min(nmax - 1).max(-nmax) + nmax) as u8;
    }
    codes
}
