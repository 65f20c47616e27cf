//! Blocks of 32 values with their own scales.

use tensor::DType;

use super::Panel;
use super::group::{Best, Grid, Levels, Moving};
use crate::Simd;
use crate::float::{extremum, f16_at, f16_to_f32, f32_to_f16};
use crate::lanes::Lanes;
use crate::types::{iq4_nl, q4_0, q4_1, q5_0, q5_1, q8_0};

const K: usize = 32;

/// Bytes of the largest block, that of Q8_0.
const MOST_BYTES: usize = 34;

/// Number of candidates in a stage.
const TRIES: usize = 32;

/// A type with 32 values a block.
pub(super) struct Plain {
    dtype: DType,
    levels: Levels,
    search: Search,
    /// Writes a block from f16 scale, f16 offset and levels.
    pack: fn(u16, u16, &[f32; K], &mut [u8]),
}

/// Candidate grids of the first stage.
#[derive(Clone, Copy)]
enum Search {
    /// The extremum maps to ± a level between `from` and `to`. One sign suffices where the levels are symmetric about
    /// zero.
    Scale { from: f32, to: f32, signs: usize },
    /// The range of the targets, shrunk at either end.
    Range,
}

static TABLE: [Plain; 6] = [
    Plain {
        dtype: DType::Q4_0,
        levels: Levels::Whole(-8.0, 7.0),
        search: Search::Scale { from: 5.5, to: 9.25, signs: 2 },
        pack: |scale, _, levels, out| out.copy_from_slice(&q4_0::pack(scale, &codes(levels, 8.0))),
    },
    Plain {
        dtype: DType::Q5_0,
        levels: Levels::Whole(-16.0, 15.0),
        search: Search::Scale { from: 12.25, to: 17.5, signs: 2 },
        pack: |scale, _, levels, out| out.copy_from_slice(&q5_0::pack(scale, &codes(levels, 16.0))),
    },
    Plain {
        dtype: DType::Q8_0,
        levels: Levels::Whole(-127.0, 127.0),
        search: Search::Scale { from: 119.0, to: 128.0, signs: 1 },
        pack: |scale, _, levels, out| q8_0::pack(scale, levels, out),
    },
    Plain {
        dtype: DType::Q4_1,
        levels: Levels::Whole(0.0, 15.0),
        search: Search::Range,
        pack: |scale, min, levels, out| out.copy_from_slice(&q4_1::pack(scale, min, &codes(levels, 0.0))),
    },
    Plain {
        dtype: DType::Q5_1,
        levels: Levels::Whole(0.0, 31.0),
        search: Search::Range,
        pack: |scale, min, levels, out| out.copy_from_slice(&q5_1::pack(scale, min, &codes(levels, 0.0))),
    },
    Plain {
        dtype: DType::IQ4_NL,
        levels: Levels::Iq4,
        search: Search::Scale { from: 95.0, to: 150.0, signs: 2 },
        pack: |scale, _, levels, out| iq4_nl::pack(scale, levels, out),
    },
];

#[inline(always)]
fn codes(levels: &[f32; K], plus: f32) -> [u8; K] {
    levels.map(|level| (level + plus) as u8)
}

impl Plain {
    pub(super) fn of(dtype: DType) -> Option<&'static Plain> {
        TABLE.iter().find(|plain| plain.dtype == dtype)
    }

    #[inline(always)]
    pub(super) fn round<V: Lanes>(&self, simd: Simd, panel: &Panel<'_>, out: &mut [u8], values: &mut [f32]) {
        let mut moving = Moving::new(panel);
        for (n, out) in out.chunks_exact_mut(self.dtype.block_bytes()).enumerate() {
            let first = n * K;
            let (grid, best) = self.block::<V>(simd, &moving, first);
            (self.pack)(f32_to_f16(grid.scale), f32_to_f16(grid.offset), &best.levels, out);
            moving.settle(first, &best.values, values);
        }
    }

    /// The best grid of a coarse search and of a finer one around its result.
    #[inline(always)]
    fn block<V: Lanes>(&self, simd: Simd, moving: &Moving<'_>, first: usize) -> (Grid, Best<K>) {
        let mut coarse = self.coarse(moving.targets(first));
        coarse[TRIES - 1] = self.ordinary(simd, moving, first);
        if let (Search::Scale { .. }, Some(scale)) = (self.search, moving.scale(first / K)) {
            (coarse[TRIES - 2], coarse[TRIES - 3]) = (stored(scale, 0.0), stored(-scale, 0.0));
        }
        let best = moving.best::<V, K>(first, self.levels, &coarse);
        let grid = coarse[best.index];
        let fine = self.fine(grid, &coarse);
        let finer = moving.best::<V, K>(first, self.levels, &fine);
        if finer.loss < best.loss { (fine[finer.index], finer) } else { (grid, best) }
    }

    /// The grid of the type's ordinary search.
    #[inline(always)]
    fn ordinary(&self, simd: Simd, moving: &Moving<'_>, first: usize) -> Grid {
        let mut block = [0; MOST_BYTES];
        let block = &mut block[..self.dtype.block_bytes()];
        let importance = &moving.importance(first)[..K];
        crate::encode(simd, self.dtype, K, moving.targets::<K>(first), Some(importance), block);
        let offset = if matches!(self.search, Search::Range) { f16_at(block, 2) } else { 0.0 };
        Grid { scale: f16_at(block, 0), offset }
    }

    #[inline(always)]
    fn coarse(&self, targets: &[f32; K]) -> [Grid; TRIES] {
        let mut grids = [Grid::default(); TRIES];
        match self.search {
            Search::Scale { from, to, signs } => {
                let each = TRIES / signs;
                let extremum = extremum(targets);
                for (n, grid) in grids.iter_mut().enumerate() {
                    let level = from + (to - from) * (n % each) as f32 / (each - 1) as f32;
                    let sign = if n < each { -1.0 } else { 1.0 };
                    let sign = if signs == 1 { extremum.signum() } else { sign };
                    *grid = stored(sign * extremum / level, 0.0);
                }
            }
            Search::Range => {
                let (low, high) = targets.iter().fold((0.0f32, 0.0f32), |(l, h), &t| (l.min(t), h.max(t)));
                let steps = self.steps();
                for (n, grid) in grids.iter_mut().enumerate() {
                    let (at_low, at_high) = ((n % 4) as f32 - 0.5, (n / 4) as f32 / 2.0 - 1.0);
                    let step = (high - low) / steps;
                    let (low, high) = (low + at_low * step * 0.6, high - at_high * step * 0.6);
                    *grid = stored((high - low) / steps, low);
                }
            }
        }
        grids
    }

    /// Distance between the lowest and the highest level.
    #[inline(always)]
    fn steps(&self) -> f32 {
        match self.levels {
            Levels::Whole(low, high) => high - low,
            Levels::Iq4 => 240.0,
        }
    }

    /// Candidate grids between `best` and its neighbours.
    #[inline(always)]
    fn fine(&self, best: Grid, coarse: &[Grid; TRIES]) -> [Grid; TRIES] {
        let mut grids = [Grid::default(); TRIES];
        match self.search {
            Search::Scale { from, to, signs } => {
                let gap = (to - from) / (TRIES / signs - 1) as f32 / from;
                for (n, grid) in grids.iter_mut().enumerate() {
                    let part = (n as f32 - 15.5) / 16.0;
                    *grid = stored(best.scale * (1.0 + gap * part), 0.0);
                }
            }
            Search::Range => {
                let gap = (coarse[1].offset - coarse[0].offset).abs();
                for (n, grid) in grids.iter_mut().enumerate() {
                    let (a, b) = ((n % 4) as f32 - 1.5, (n / 4) as f32 - 3.5);
                    let scale = best.scale * (1.0 + 0.01 * b);
                    *grid = stored(scale, best.offset + a * 0.25 * gap);
                }
            }
        }
        grids
    }
}

/// A grid with its numbers rounded to f16.
#[inline(always)]
fn stored(scale: f32, offset: f32) -> Grid {
    let f16 = |x: f32| f16_to_f32(f32_to_f16(x));
    Grid { scale: f16(scale), offset: f16(offset) }
}
