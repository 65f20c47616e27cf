//! The scale of a group with the least squared error, weighted by column.
//!
//! One scale for a whole row has to serve its largest value and all others: with few codes, clipping the largest costs less than
//! rounding the others coarsely. Scales below the min-max scale are tried, first coarsely, then around the best. The scale
//! Σ w·x·q / Σ w·q², best for the codes q of the winner, is tried last.

/// The min-max scale has as many steps; a candidate has some of them.
const STEPS: u32 = 64;
/// The fewest steps of a candidate.
const FEWEST: u32 = 16;
/// Steps between the first candidates.
const COARSE: u32 = 4;
/// Refinements by the codes of the winner.
const REFINEMENTS: usize = 2;

/// Values that are summed side by side: the order of sums does not depend on the processor.
const LANES: usize = 16;

/// A group of values with the weights of their columns, and the range of the codes.
pub(super) struct Group<'a> {
    pub(super) x: &'a [f32],
    pub(super) weights: &'a [f32],
    pub(super) range: (f32, f32),
}

impl Group<'_> {
    /// The best scale. `min_max` is the first candidate, and wins ties; `stored` gives the scale as it can be stored.
    pub(super) fn scale(&self, min_max: f32, stored: impl Fn(f32) -> f32) -> f32 {
        let of_steps = |steps: u32| stored(min_max * (steps as f32 / STEPS as f32));
        let mut best = (self.error(of_steps(STEPS)), STEPS);
        let try_all = |best: &mut (f32, u32), candidates: &mut dyn Iterator<Item = u32>| {
            for steps in candidates {
                let error = self.error(of_steps(steps));
                if error < best.0 {
                    *best = (error, steps);
                }
            }
        };
        try_all(&mut best, &mut (FEWEST..STEPS).rev().filter(|steps| steps.is_multiple_of(COARSE)));
        let middle = best.1;
        let near = (middle.saturating_sub(COARSE - 1).max(FEWEST)..middle + COARSE).rev();
        try_all(&mut best, &mut near.filter(|steps| *steps != middle && *steps < STEPS));
        let (mut error, mut scale) = (best.0, of_steps(best.1));
        for _ in 0..REFINEMENTS {
            let refined = stored(self.refined(scale));
            let of_refined = self.error(refined);
            if !(refined > 0.0 && of_refined < error) {
                break;
            }
            (error, scale) = (of_refined, refined);
        }
        scale
    }

    /// Σ w·(x − q·scale)². Not a number for a scale of 0, which no comparison takes.
    fn error(&self, scale: f32) -> f32 {
        let range = self.range;
        self.sum(|x, weight| {
            let rest = x - code(x, scale, range) * scale;
            weight * (rest * rest)
        })
    }

    /// Σ w·x·q / Σ w·q² for the codes q of `scale`.
    fn refined(&self, scale: f32) -> f32 {
        let range = self.range;
        let products = self.sum(|x, weight| weight * (x * code(x, scale, range)));
        let squares = self.sum(|x, weight| {
            let code = code(x, scale, range);
            weight * (code * code)
        });
        products / squares
    }

    #[inline(always)]
    fn sum(&self, term: impl Fn(f32, f32) -> f32) -> f32 {
        let (x, rest) = self.x.as_chunks::<LANES>();
        let (weights, rest_weights) = self.weights.as_chunks::<LANES>();
        let mut sums = [0.0; LANES];
        for (x, weights) in x.iter().zip(weights) {
            for ((sum, x), weight) in sums.iter_mut().zip(x).zip(weights) {
                *sum += term(*x, *weight);
            }
        }
        for ((sum, x), weight) in sums.iter_mut().zip(rest).zip(rest_weights) {
            *sum += term(*x, *weight);
        }
        sums.iter().sum()
    }
}

/// The code of a value, as a float. [`nearest_int`](crate::float::nearest_int) of a value in the range of codes.
#[inline(always)]
fn code(x: f32, scale: f32, (least, most): (f32, f32)) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    ((x / scale).clamp(least, most) + MAGIC) - MAGIC
}
