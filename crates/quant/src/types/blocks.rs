//! Common parts of the types with 32 values a block: packing of nibbles and fifth bits, and the weighted encoders.

use super::{Rows, Run};
use crate::float::f32_to_f16;
use crate::lanes::{Lanes, MAX_LANES};
use crate::search::{Affine, Steps, Symmetric, affine, sum_of_squares, symmetric, weigh};

/// Number of values in a block.
pub(super) const QK: usize = 32;

/// Packs code `j` into the low nibble of byte `j`, code `j + 16` into the high one. Higher bits are dropped.
#[inline(always)]
pub(super) fn nibbles(codes: &[u8; QK]) -> [u8; 16] {
    let mut out = [0; 16];
    for (j, out) in out.iter_mut().enumerate() {
        *out = (codes[j] & 15) | (codes[j + 16] << 4);
    }
    out
}

/// The inverse of [`nibbles`], from the first 16 bytes.
#[inline(always)]
pub(super) fn from_nibbles(bytes: &[u8]) -> [u8; QK] {
    let bytes = &bytes[..16];
    let mut codes = [0; QK];
    for (j, byte) in bytes.iter().enumerate() {
        codes[j] = byte & 15;
        codes[j + 16] = byte >> 4;
    }
    codes
}

/// Packs the fifth bit of code `j` into bit `j`.
#[inline(always)]
pub(super) fn fifth_bits(codes: &[u8; QK]) -> [u8; 4] {
    let mut bits = 0;
    for (j, code) in codes.iter().enumerate() {
        bits |= u32::from((code >> 4) & 1) << j;
    }
    bits.to_le_bytes()
}

/// [`from_nibbles`] plus the fifth bits from the first 4 bytes of `high`.
#[inline(always)]
pub(super) fn with_fifth_bits(high: &[u8], low: &[u8]) -> [u8; QK] {
    let bits = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    let mut codes = from_nibbles(low);
    for (j, code) in codes.iter_mut().enumerate() {
        *code |= (((bits >> j) & 1) << 4) as u8;
    }
    codes
}

/// Smallest and largest value of a block.
#[inline(always)]
pub(super) fn range(x: &[f32; QK]) -> (f32, f32) {
    x.iter().fold((f32::MAX, f32::MIN), |(min, max), &v| {
        (if v < min { v } else { min }, if v > max { v } else { max })
    })
}

/// Values and weights of up to `V::N` blocks of a row, from block `first` on.
#[inline(always)]
fn lanes_of_row<V: Lanes>(run: &Run<'_>, first: usize, sigma2: f32) -> ([V; QK], [V; QK]) {
    let x = V::transpose(&run.x.as_chunks::<QK>().0[first..]);
    let importance = V::transpose(&run.importance.unwrap_or_default().as_chunks::<QK>().0[first..]);
    (x, weigh(&importance, V::splat(sigma2), &x))
}

/// Encodes rows with importance by symmetric search; `pack` gets scale and codes.
#[inline(always)]
pub(super) fn weighted_symmetric<V: Lanes, const BYTES: usize>(
    rows: &Rows<'_>,
    nmax: i32,
    out: &mut [u8],
    pack: impl Fn(u16, &[u8; QK]) -> [u8; BYTES],
) {
    let mut out = out.as_chunks_mut::<BYTES>().0.iter_mut();
    for run in rows.runs() {
        let sigma2 = sum_of_squares(run.x) / run.x.len() as f32;
        let blocks = run.x.as_chunks::<QK>().0;
        for first in (0..blocks.len()).step_by(V::N) {
            let (x, w) = lanes_of_row::<V>(&run, first, sigma2);
            let found = symmetric(nmax, &x, &w);
            let (mut scale, mut inverse) = ([0.0; MAX_LANES], [0.0; MAX_LANES]);
            found.scale.store(&mut scale);
            found.inverse.store(&mut inverse);
            for (lane, x) in blocks[first..].iter().take(V::N).enumerate() {
                let Some(out) = out.next() else { return };
                *out = pack(f32_to_f16(scale[lane]), &Symmetric::codes(inverse[lane], nmax, x));
            }
        }
    }
}

/// Encodes rows with importance by affine search; `pack` gets scale, minimum and codes.
#[inline(always)]
pub(super) fn weighted_affine<V: Lanes, const BYTES: usize>(
    rows: &Rows<'_>,
    nmax: i32,
    out: &mut [u8],
    pack: impl Fn(u16, u16, &[u8; QK]) -> [u8; BYTES],
) {
    let mut out = out.as_chunks_mut::<BYTES>().0.iter_mut();
    for run in rows.runs() {
        let sigma2 = sum_of_squares(run.x) / run.x.len() as f32;
        let blocks = run.x.as_chunks::<QK>().0;
        for first in (0..blocks.len()).step_by(V::N) {
            let (x, w) = lanes_of_row::<V>(&run, first, sigma2);
            let found = affine(nmax, Steps::WEIGHTED, &x, &w);
            let (mut scale, mut min) = ([0.0; MAX_LANES], [0.0; MAX_LANES]);
            let (mut inverse, mut base) = ([0.0; MAX_LANES], [0.0; MAX_LANES]);
            found.scale.store(&mut scale);
            found.min.store(&mut min);
            found.inverse.store(&mut inverse);
            found.base.store(&mut base);
            for (lane, x) in blocks[first..].iter().take(V::N).enumerate() {
                let Some(out) = out.next() else { return };
                let codes = Affine::codes(inverse[lane], base[lane], nmax, x);
                *out = pack(f32_to_f16(scale[lane]), f32_to_f16(-min[lane]), &codes);
            }
        }
    }
}
