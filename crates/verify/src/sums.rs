//! Sums over two lists of values: their relative difference, and the angle between them.

use serde::{Deserialize, Serialize};

/// Sums over values `x` of the base and `y` of the artifact.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sums {
    pub(crate) xx: f64,
    pub(crate) yy: f64,
    pub(crate) xy: f64,
    pub(crate) ee: f64,
}

impl Sums {
    pub(crate) fn of(x: &[f32], y: &[f32]) -> Sums {
        // eight parallel sums, added at the end: the same order on every machine
        const LANES: usize = 8;
        let mut lanes = [[0f64; LANES]; 4];
        let mut add = |lane: usize, x: f32, y: f32| {
            let (x, y) = (f64::from(x), f64::from(y));
            lanes[0][lane] += x * x;
            lanes[1][lane] += y * y;
            lanes[2][lane] += x * y;
            lanes[3][lane] += (y - x) * (y - x);
        };
        let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
        for (lane, (&x, &y)) in xs.remainder().iter().zip(ys.remainder()).enumerate() {
            add(lane, x, y);
        }
        for (x, y) in xs.zip(ys) {
            for lane in 0..LANES {
                add(lane, x[lane], y[lane]);
            }
        }
        let [xx, yy, xy, ee] = lanes.map(|lanes| lanes.iter().sum());
        Sums { xx, yy, xy, ee }
    }

    pub(crate) fn plus(self, other: Sums) -> Sums {
        Sums {
            xx: self.xx + other.xx,
            yy: self.yy + other.yy,
            xy: self.xy + other.xy,
            ee: self.ee + other.ee,
        }
    }

    /// `√(Σ(y − x)² / Σx²)`; 1 if all x are zero and some y are not.
    pub(crate) fn relative(&self) -> f64 {
        match (self.ee > 0.0, self.xx > 0.0) {
            (false, _) => 0.0,
            (true, true) => (self.ee / self.xx).sqrt(),
            (true, false) => 1.0,
        }
    }

    /// `Σxy / √(Σx² Σy²)`; 0 if only one side is zero.
    pub(crate) fn cosine(&self) -> f64 {
        if self.ee == 0.0 {
            return 1.0;
        }
        let norms = (self.xx * self.yy).sqrt();
        if norms > 0.0 { self.xy / norms } else { 0.0 }
    }
}
