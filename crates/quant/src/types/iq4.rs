//! Common parts of IQ4_NL and IQ4_XS: the table of values and the scale search of a group. ggml:
//! `quantize_row_iq4_nl_impl` with fifteen tries, as `llama-quantize` always calls it.

use crate::float::GROUP_MAX_EPS;
use crate::lanes::Lanes;
use crate::search::extrema;

/// The value of each code.
pub(super) const VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Boundaries between neighbouring values: ggml rounds a value halfway between two to the higher one.
const BOUNDS: [f32; 15] = {
    let mut bounds = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        bounds[i] = (VALUES[i] as f32 + VALUES[i + 1] as f32) / 2.0;
        i += 1;
    }
    bounds
};

/// The code of the value nearest to `v`.
#[inline(always)]
pub(crate) fn code(v: f32) -> u8 {
    let mut code = 15;
    for bound in BOUNDS {
        code -= u8::from(v < bound);
    }
    code
}

/// The codes of 32 values, for the inverse of their scale.
#[inline(always)]
pub(super) fn codes(inverse: f32, x: &[f32; 32]) -> [u8; 32] {
    x.map(|v| code(inverse * v))
}

/// Rounds each lane to the nearest value of the table.
#[inline(always)]
pub(crate) fn value<V: Lanes>(v: V) -> V {
    let mut value = V::splat(f32::from(VALUES[15]));
    for i in (0..15).rev() {
        value = V::select(V::splat(BOUNDS[i]).gt(v), V::splat(f32::from(VALUES[i])), value);
    }
    value
}

/// The scale with the least weighted squared error among sixteen; 0 for a zero group.
#[inline(always)]
pub(super) fn scale<V: Lanes>(x: &[V; 32], w: &[V; 32]) -> V {
    let zero = V::splat(0.0);
    let (largest, magnitude) = extrema(x);
    let lowest = f32::from(VALUES[0]);
    // ggml computes −x / −127 here and inverts it: not the same bits as −127 / x, which is used below.
    let (sum_qx, sum_q2) = moments(V::splat(1.0) / ((V::splat(-0.0) - largest) / V::splat(lowest)), x, w);
    let mut scale = V::select(sum_q2.gt(zero), sum_qx / sum_q2, zero);
    let mut best = scale * sum_qx;
    for step in -7..=7 {
        let (sum_qx, sum_q2) = moments(V::splat(step as f32 + lowest) / largest, x, w);
        let better = sum_q2.gt(zero) & (sum_qx * sum_qx).gt(best * sum_q2);
        let fitted = sum_qx / sum_q2;
        scale = V::select(better, fitted, scale);
        best = V::select(better, fitted * sum_qx, best);
    }
    V::select(V::splat(GROUP_MAX_EPS).gt(magnitude), zero, scale)
}

/// Σ w·q·x and Σ w·q² for the table values q that `inverse` gives.
#[inline(always)]
fn moments<V: Lanes>(inverse: V, x: &[V; 32], w: &[V; 32]) -> (V, V) {
    let (mut sum_qx, mut sum_q2) = (V::splat(0.0), V::splat(0.0));
    for i in 0..32 {
        let q = value(inverse * x[i]);
        let wq = w[i] * q;
        sum_qx = sum_qx + wq * x[i];
        sum_q2 = sum_q2 + wq * q;
    }
    (sum_qx, sum_q2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `best_index_int8` of ggml.
    fn by_bisection(x: f32) -> u8 {
        let value = |i: usize| f32::from(VALUES[i]);
        if x <= value(0) {
            return 0;
        }
        if x >= value(15) {
            return 15;
        }
        let (mut low, mut high) = (0, 15);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if x < value(middle) { high = middle } else { low = middle }
        }
        (if x - value(high - 1) < value(high) - x { high - 1 } else { high }) as u8
    }

    #[test]
    fn bounds_decide_as_ggml_does() {
        let around =
            |v: f32| [v.next_down().next_down(), v.next_down(), v, v.next_up(), v.next_up().next_up()];
        let points = BOUNDS.into_iter().chain(VALUES.map(f32::from)).flat_map(around);
        for v in points.chain((-1400..1400).map(|i| i as f32 * 0.1)).chain([0.0, -0.0, f32::INFINITY]) {
            assert_eq!(code(v), by_bisection(v), "{v}");
            assert_eq!(value(v), f32::from(VALUES[usize::from(code(v))]), "{v}");
        }
    }
}
