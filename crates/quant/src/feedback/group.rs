//! Quantizes a group of values with one grid: tries all candidate grids at once, each in its own lane.

use super::{PANEL, Panel};
use crate::lanes::{Lanes, MAX_LANES};
use crate::types::iq4;

/// The values of the codes, before scale and offset.
#[derive(Clone, Copy, Debug)]
pub(super) enum Levels {
    /// Integers, both ends included.
    Whole(f32, f32),
    /// The table of the IQ4 types.
    Iq4,
}

/// A candidate grid: values are `scale · level + offset`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Grid {
    pub(super) scale: f32,
    pub(super) offset: f32,
}

/// Result of the best candidate for a group of `K` values.
pub(super) struct Best<const K: usize> {
    /// Index of the candidate.
    pub(super) index: usize,
    /// Σ Dᵢ·(ŵᵢ − tᵢ)².
    pub(super) loss: f32,
    /// Level of each value.
    pub(super) levels: [f32; K],
    /// Quantized values ŵᵢ.
    pub(super) values: [f32; K],
}

/// The targets of a panel, updated after each group.
pub(super) struct Moving<'a> {
    panel: &'a Panel<'a>,
    targets: [f32; PANEL],
}

impl<'a> Moving<'a> {
    #[inline(always)]
    pub(super) fn new(panel: &'a Panel<'a>) -> Moving<'a> {
        let mut targets = [0.0; PANEL];
        targets[..panel.targets.len()].copy_from_slice(panel.targets);
        Moving { panel, targets }
    }

    /// The targets of the group at `first`, given the errors of all groups before it.
    #[inline(always)]
    pub(super) fn targets<const K: usize>(&self, first: usize) -> &[f32; K] {
        fixed(&self.targets, first)
    }

    /// The current targets of all values from `first` on.
    #[inline(always)]
    pub(super) fn rest(&self, first: usize) -> &[f32] {
        &self.targets[first..self.panel.targets.len()]
    }

    /// Tries candidates on the group at `first`; the first of equally good ones wins.
    #[inline(always)]
    pub(super) fn best<V: Lanes, const K: usize>(
        &self,
        first: usize,
        levels: Levels,
        grids: &[Grid],
    ) -> Best<K> {
        let weights: &[f32; K] = fixed(self.panel.weights, first);
        let importance: &[f32; K] = fixed(self.panel.importance, first);
        let targets: &[f32; K] = self.targets(first);
        let mut best = Best { index: 0, loss: f32::INFINITY, levels: [0.0; K], values: [0.0; K] };
        for (n, some) in grids.chunks(V::N).enumerate() {
            let mut lanes = [[0.0; MAX_LANES]; 3];
            for (lane, grid) in some.iter().enumerate() {
                let inverse = if grid.scale != 0.0 { 1.0 / grid.scale } else { 0.0 };
                [lanes[0][lane], lanes[1][lane], lanes[2][lane]] = [grid.scale, grid.offset, inverse];
            }
            let [scale, offset, inverse] = [V::load(&lanes[0]), V::load(&lanes[1]), V::load(&lanes[2])];
            let mut moving = [V::splat(0.0); K];
            for (moving, &target) in moving.iter_mut().zip(targets) {
                *moving = V::splat(target);
            }
            let (mut level, mut value) = ([V::splat(0.0); K], [V::splat(0.0); K]);
            let mut loss = V::splat(0.0);
            for i in 0..K {
                let target = moving[i];
                level[i] = nearest(levels, (target - offset) * inverse);
                value[i] = scale * level[i] + offset;
                let miss = value[i] - target;
                loss = loss + V::splat(importance[i]) * (miss * miss);
                let error = value[i] - V::splat(weights[i]);
                let feedback = &self.panel.feedback[PANEL * (first + i) + first..][..K];
                for j in i + 1..K {
                    moving[j] = moving[j] - error * V::splat(feedback[j]);
                }
            }
            let mut losses = [0.0; MAX_LANES];
            loss.store(&mut losses);
            for (lane, &loss) in losses[..some.len()].iter().enumerate() {
                if loss < best.loss {
                    best.index = n * V::N + lane;
                    best.loss = loss;
                    best.levels = column(&level, lane);
                    best.values = column(&value, lane);
                }
            }
        }
        best
    }

    /// Stores the values of the group at `first` and moves the later targets by their errors.
    #[inline(always)]
    pub(super) fn settle<const K: usize>(&mut self, first: usize, found: &[f32; K], values: &mut [f32]) {
        let weights: &[f32; K] = fixed(self.panel.weights, first);
        let end = self.panel.targets.len();
        for i in 0..K {
            let error = found[i] - weights[i];
            let feedback = &self.panel.feedback[PANEL * (first + i)..][first + K..end];
            for (target, m) in self.targets[first + K..end].iter_mut().zip(feedback) {
                *target -= error * m;
            }
        }
        values[first..first + K].copy_from_slice(found);
    }

    /// The scale to try on a block, if there is one.
    #[inline(always)]
    pub(super) fn scale(&self, block: usize) -> Option<f32> {
        self.panel.scales.get(block).copied()
    }

    /// The weights D from `first` on.
    #[inline(always)]
    pub(super) fn importance(&self, first: usize) -> &[f32] {
        &self.panel.importance[first..]
    }
}

#[inline(always)]
fn nearest<V: Lanes>(levels: Levels, x: V) -> V {
    match levels {
        // clamped first: `nearest_int` is wrong for large numbers
        Levels::Whole(low, high) => x.max(V::splat(low)).min(V::splat(high)).nearest_int(),
        Levels::Iq4 => iq4::value(x),
    }
}

/// An array of the `K` values from `first` on.
#[inline(always)]
pub(super) fn fixed<const K: usize>(values: &[f32], first: usize) -> &[f32; K] {
    match values[first..].first_chunk() {
        Some(values) => values,
        None => panic!("{K} values from {first} on of {}", values.len()),
    }
}

#[inline(always)]
fn column<V: Lanes, const K: usize>(vectors: &[V; K], lane: usize) -> [f32; K] {
    let mut out = [0.0; K];
    for (out, vector) in out.iter_mut().zip(vectors) {
        let mut lanes = [0.0; MAX_LANES];
        vector.store(&mut lanes);
        *out = lanes[lane];
    }
    out
}
