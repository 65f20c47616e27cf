//! Search for scale and minimum, with codes from 0 to nmax. ggml: `make_qkx2_quants` and `make_qkx3_quants`.

use crate::float::nearest_int;
use crate::lanes::Lanes;

/// Candidates of [`affine`], and its error measure.
#[derive(Clone, Copy)]
pub(crate) struct Steps {
    /// Candidate `i` of `0..=count` maps the range to `nmax + first + delta·i`.
    pub(crate) first: f32,
    pub(crate) delta: f32,
    pub(crate) count: i32,
    /// Measure absolute instead of squared errors.
    pub(crate) absolute: bool,
}

impl Steps {
    /// The candidates of every type with importance weights.
    pub(crate) const WEIGHTED: Steps = Steps { first: -0.9, delta: 0.05, count: 36, absolute: false };
}

/// Result of [`affine`] for a group (or, with vectors, for a lane of groups): x ≈ scale·code − min.
#[derive(Clone, Copy)]
pub(crate) struct Affine<V> {
    pub(crate) scale: V,
    /// The negated minimum, ≥ 0.
    pub(crate) min: V,
    /// The codes of the fit are round((x − base)·inverse); both numbers are 0 for a flat group.
    pub(crate) inverse: V,
    pub(crate) base: V,
}

impl Affine<f32> {
    /// The codes of a group, from 0 to nmax.
    #[inline(always)]
    pub(crate) fn codes<const K: usize>(inverse: f32, base: f32, nmax: i32, x: &[f32; K]) -> [u8; K] {
        let mut codes = [0; K];
        for (code, v) in codes.iter_mut().zip(x) {
            *code = nearest_int(inverse * (v - base)).min(nmax).max(0) as u8;
        }
        codes
    }
}

/// Fits scale and minimum to the codes of each candidate range, and keeps the fit with the least weighted error.
///
/// The minimum of the best fit so far is the base of later candidates, so the order of the steps matters.
#[inline(always)]
pub(crate) fn affine<V: Lanes, const K: usize>(nmax: i32, steps: Steps, x: &[V; K], w: &[V; K]) -> Affine<V> {
    let zero = V::splat(0.0);
    let nmax = nmax as f32;
    let (mut min, mut max) = (x[0], x[0]);
    let mut sum_w = w[0];
    let mut sum_x = w[0] * x[0];
    for i in 1..K {
        min = x[i].min(min);
        max = x[i].max(max);
        sum_w = sum_w + w[i];
        sum_x = sum_x + w[i] * x[i];
    }
    min = V::select(min.gt(zero), zero, min);
    let flat = max.eq(min);
    let flat_min = min;

    let mut inverse = V::splat(nmax) / (max - min);
    let mut base = min;
    let mut scale = V::splat(1.0) / inverse;
    let mut least = error(steps.absolute, scale, min, &codes(nmax, inverse, min, x), x, w);
    for step in 0..=steps.count {
        let candidate = V::splat(steps.first + steps.delta * step as f32 + nmax) / (max - min);
        let l = codes(nmax, candidate, min, x);
        let (mut sum_l, mut sum_l2, mut sum_lx) = (zero, zero, zero);
        for i in 0..K {
            let wl = w[i] * l[i];
            sum_l = sum_l + wl;
            sum_l2 = sum_l2 + wl * l[i];
            sum_lx = sum_lx + wl * x[i];
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        let fitted_min = (sum_l2 * sum_x - sum_l * sum_lx) / determinant;
        let fitted_scale = (sum_w * sum_lx - sum_x * sum_l) / determinant;
        let above = fitted_min.gt(zero);
        let fitted_min = V::select(above, zero, fitted_min);
        let fitted_scale = V::select(above, sum_lx / sum_l2, fitted_scale);
        let e = error(steps.absolute, fitted_scale, fitted_min, &l, x, w);
        let better = determinant.gt(zero) & least.gt(e);
        least = V::select(better, e, least);
        scale = V::select(better, fitted_scale, scale);
        inverse = V::select(better, candidate, inverse);
        base = V::select(better, min, base);
        min = V::select(better, fitted_min, min);
    }
    Affine {
        scale: V::select(flat, zero, scale),
        min: V::splat(-0.0) - V::select(flat, flat_min, min),
        inverse: V::select(flat, zero, inverse),
        base: V::select(flat, zero, base),
    }
}

#[inline(always)]
fn codes<V: Lanes, const K: usize>(nmax: f32, inverse: V, min: V, x: &[V; K]) -> [V; K] {
    let mut l = *x;
    for l in &mut l {
        *l = (inverse * (*l - min)).nearest_int().min(V::splat(nmax)).max(V::splat(0.0));
    }
    l
}

/// Σ w·|scale·l + min − x|, or the sum of the squares.
#[inline(always)]
fn error<V: Lanes, const K: usize>(
    absolute: bool,
    scale: V,
    min: V,
    l: &[V; K],
    x: &[V; K],
    w: &[V; K],
) -> V {
    let mut sum = V::splat(0.0);
    for i in 0..K {
        let difference = scale * l[i] + min - x[i];
        let e = if absolute { difference.abs() } else { difference * difference };
        sum = sum + w[i] * e;
    }
    sum
}
