//! Search for a scale without minimum, with codes from −nmax to nmax − 1. ggml: `make_qx_quants` and `make_q3_quants`.

use super::{extrema, squares};
use crate::float::{GROUP_MAX_EPS, nearest_int};
use crate::lanes::Lanes;

/// Result of [`symmetric`] for a group (or, with vectors, for a lane of groups).
#[derive(Clone, Copy)]
pub(crate) struct Symmetric<V> {
    /// The scale, of either sign; 0 for a zero group.
    pub(crate) scale: V,
    /// The factor from values to the codes to which the scale was fitted; infinite for a zero group.
    pub(crate) inverse: V,
}

impl Symmetric<f32> {
    /// The codes of a group, plus nmax. A zero group has codes 0, not nmax.
    #[inline(always)]
    pub(crate) fn codes<const K: usize>(inverse: f32, nmax: i32, x: &[f32; K]) -> [u8; K] {
        let mut codes = [0; K];
        if inverse.is_finite() {
            for (code, v) in codes.iter_mut().zip(x) {
                *code = (nearest_int(inverse * v).min(nmax - 1).max(-nmax) + nmax) as u8;
            }
        }
        codes
    }
}

/// Tries nineteen scales that map the extremum to around −nmax, and keeps the one with the least weighted squared
/// error.
#[inline(always)]
pub(crate) fn symmetric<V: Lanes, const K: usize>(nmax: i32, x: &[V; K], w: &[V; K]) -> Symmetric<V> {
    let zero = V::splat(0.0);
    let (largest, magnitude) = extrema(x);
    let mut wx = *w;
    for (wx, &x) in wx.iter_mut().zip(x) {
        *wx = *wx * x;
    }

    let mut inverse = V::splat(-nmax as f32) / largest;
    let (sum_lx, sum_l2) = moments(nmax, inverse, x, w, &wx);
    let mut scale = V::select(sum_l2.eq(zero), zero, sum_lx / sum_l2);
    let mut best = scale * sum_lx;
    for step in -9..=9 {
        if step == 0 {
            continue;
        }
        let candidate = V::splat(-(nmax as f32 + 0.1 * step as f32)) / largest;
        let (sum_lx, sum_l2) = moments(nmax, candidate, x, w, &wx);
        let better = sum_l2.gt(zero) & (sum_lx * sum_lx).gt(best * sum_l2);
        let fitted = sum_lx / sum_l2;
        scale = V::select(better, fitted, scale);
        best = V::select(better, fitted * sum_lx, best);
        inverse = V::select(better, candidate, inverse);
    }
    let empty = V::splat(GROUP_MAX_EPS).gt(magnitude);
    Symmetric {
        scale: V::select(empty, zero, scale),
        inverse: V::select(empty, V::splat(f32::INFINITY), inverse),
    }
}

/// Σ w·x·l and Σ w·l² for the codes l that `inverse` gives.
#[inline(always)]
fn moments<V: Lanes, const K: usize>(nmax: i32, inverse: V, x: &[V; K], w: &[V; K], wx: &[V; K]) -> (V, V) {
    let (low, high) = (V::splat(-nmax as f32), V::splat((nmax - 1) as f32));
    let (mut sum_lx, mut sum_l2) = (V::splat(0.0), V::splat(0.0));
    for i in 0..K {
        let l = (inverse * x[i]).nearest_int().min(high).max(low);
        sum_lx = sum_lx + wx[i] * l;
        sum_l2 = sum_l2 + w[i] * l * l;
    }
    (sum_lx, sum_l2)
}

/// Coordinate descent: starts with the extremum at −nmax and improves the codes one by one, in up to five passes, by
/// squared error weighted with x². Returns the scales and the codes, plus nmax; a zero group has codes 0.
#[inline(always)]
pub(crate) fn descend<V: Lanes, const K: usize>(nmax: i32, x: &[V; K]) -> (V, [V; K]) {
    let zero = V::splat(0.0);
    let (low, high) = (V::splat(-nmax as f32), V::splat((nmax - 1) as f32));
    let (largest, magnitude) = extrema(x);
    let w = squares(x);
    let inverse = low / largest;
    let mut codes = *x;
    let (mut sum_lx, mut sum_l2) = (zero, zero);
    for i in 0..K {
        codes[i] = (inverse * x[i]).nearest_int().min(high).max(low);
        sum_lx = sum_lx + w[i] * x[i] * codes[i];
        sum_l2 = sum_l2 + w[i] * codes[i] * codes[i];
    }
    for _ in 0..5 {
        let mut changed = false;
        for i in 0..K {
            // The fit of the other values without value i, and the code that it gives value i.
            let lx = sum_lx - w[i] * x[i] * codes[i];
            let l2 = sum_l2 - w[i] * codes[i] * codes[i];
            let code = (x[i] * l2 / lx).nearest_int().min(high).max(low);
            let new_lx = lx + w[i] * x[i] * code;
            let new_l2 = l2 + w[i] * code * code;
            let better = (new_lx * new_lx * sum_l2).gt(sum_lx * sum_lx * new_l2);
            // An unchanged code must not touch the sums: subtracting and adding it again need not be exact.
            let moved = (code - codes[i]).abs().gt(zero);
            let accept = lx.gt(zero) & moved & new_l2.gt(zero) & better;
            codes[i] = V::select(accept, code, codes[i]);
            sum_lx = V::select(accept, new_lx, sum_lx);
            sum_l2 = V::select(accept, new_l2, sum_l2);
            changed |= V::any(accept);
        }
        if !changed {
            break;
        }
    }
    let empty = V::splat(GROUP_MAX_EPS).gt(magnitude);
    for code in &mut codes {
        *code = V::select(empty, zero, *code - low);
    }
    let fits = sum_l2.gt(zero);
    let scale = V::select(fits, sum_lx / sum_l2, zero);
    (V::select(empty, zero, scale), codes)
}
