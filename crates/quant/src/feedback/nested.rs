//! Super-blocks of 256: the type's ordinary search on the initial targets of the super-block gives the 16-bit scales;
//! the small scale of each group is then chosen again, when the targets of the group are known.

use tensor::DType;

use super::group::{Grid, Levels, Moving};
use super::{PANEL, Panel};
use crate::Simd;
use crate::float::f16_at;
use crate::lanes::Lanes;
use crate::types::superblocks::{Block, unpack_scales};
use crate::types::{q4_k, q5_k, q6_k};

/// A type with super-blocks.
pub(super) enum Nested {
    /// Eight groups of 32 with a six-bit scale and minimum each; `pack` writes the block.
    Minima { dtype: DType, top: f32, pack: fn(&Block, &mut [u8]) },
    /// Q6_K: sixteen groups of 16 with a signed scale each.
    Q6,
}

static TABLE: [Nested; 3] = [
    Nested::Minima { dtype: DType::Q4_K, top: 15.0, pack: |b, out| out.copy_from_slice(&q4_k::pack(b)) },
    Nested::Minima { dtype: DType::Q5_K, top: 31.0, pack: |b, out| out.copy_from_slice(&q5_k::pack(b)) },
    Nested::Q6,
];

/// Number of scales and minima tried below those of the search, and in total.
const BELOW: (i32, i32) = (3, 3);
const TRIES: (i32, i32) = (8, 8);

impl Nested {
    pub(super) fn of(dtype: DType) -> Option<&'static Nested> {
        TABLE.iter().find(|nested| nested.dtype() == dtype)
    }

    fn dtype(&self) -> DType {
        match self {
            Nested::Minima { dtype, .. } => *dtype,
            Nested::Q6 => DType::Q6_K,
        }
    }

    #[inline(always)]
    pub(super) fn round<V: Lanes>(&self, simd: Simd, panel: &Panel<'_>, out: &mut [u8], values: &mut [f32]) {
        let mut moving = Moving::new(panel);
        // the scales of the ordinary search are the starting point
        crate::encode(simd, self.dtype(), PANEL, moving.rest(0), Some(moving.importance(0)), out);
        match self {
            Nested::Minima { top, pack, .. } => minima::<V>(&mut moving, *top, *pack, out, values),
            Nested::Q6 => q6::<V>(&mut moving, out, values),
        }
    }
}

#[inline(always)]
fn minima<V: Lanes>(
    moving: &mut Moving<'_>,
    top: f32,
    pack: fn(&Block, &mut [u8]),
    out: &mut [u8],
    values: &mut [f32],
) {
    const K: usize = 32;
    let (d, dmin) = (f16_at(out, 0), f16_at(out, 2));
    let found = unpack_scales(&out[4..]);
    let bits = |at: usize| u16::from_le_bytes([out[at], out[at + 1]]);
    let mut block = Block { d: bits(0), dmin: bits(2), scales: [0; 16], mins: [0; 16], codes: [0; PANEL] };
    for (g, (scale, min)) in found.into_iter().enumerate() {
        let mut tried = [(0, 0); (TRIES.0 * TRIES.1) as usize];
        for (n, tried) in tried.iter_mut().enumerate() {
            let (i, j) = (n as i32 / TRIES.1 - BELOW.0, n as i32 % TRIES.1 - BELOW.1);
            *tried = ((i32::from(scale) + i).clamp(0, 63), (i32::from(min) + j).clamp(0, 63));
        }
        let grids = tried.map(|(s, m)| Grid { scale: d * s as f32, offset: -(dmin * m as f32) });
        let best = moving.best::<V, K>(g * K, Levels::Whole(0.0, top), &grids);
        (block.scales[g], block.mins[g]) = (tried[best.index].0 as u8, tried[best.index].1 as u8);
        block.codes[g * K..][..K].copy_from_slice(&best.levels.map(|level| level as u8));
        moving.settle(g * K, &best.values, values);
    }
    pack(&block, out);
}

#[inline(always)]
fn q6<V: Lanes>(moving: &mut Moving<'_>, out: &mut [u8], values: &mut [f32]) {
    const K: usize = 16;
    let d = f16_at(out, 208);
    let mut codes = [0; PANEL];
    for g in 0..PANEL / K {
        let scale = i32::from(out[192 + g] as i8);
        let mut tried = [0; 16];
        for (tried, step) in tried.iter_mut().zip(-8..) {
            *tried = (scale + step).clamp(-128, 127);
        }
        let grids = tried.map(|s| Grid { scale: d * s as f32, offset: 0.0 });
        let best = moving.best::<V, K>(g * K, Levels::Whole(-32.0, 31.0), &grids);
        out[192 + g] = tried[best.index] as i8 as u8;
        codes[g * K..][..K].copy_from_slice(&best.levels.map(|level| (level + 32.0) as u8));
        moving.settle(g * K, &best.values, values);
    }
    q6_k::pack(&codes, out);
}
