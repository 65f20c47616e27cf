//! The scale searches that types share, and the importance weights of their error.
//!
//! Each search takes groups of `K` values, one group in each lane, and returns scales; the codes are computed from the
//! scales afterwards, in memory order. Source: the `make_*_quants` functions of ggml's `ggml-quants.c`.

mod affine;
mod positive;
mod symmetric;

pub(crate) use affine::{Affine, Steps, affine};
pub(crate) use positive::positive;
pub(crate) use symmetric::{Symmetric, descend, symmetric};

use crate::lanes::Lanes;

/// Σ x², in index order.
#[inline(always)]
pub(crate) fn sum_of_squares(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |sum, v| sum + v * v)
}

/// Σ of the vectors, in index order.
#[inline(always)]
pub(crate) fn sum<V: Lanes, const K: usize>(x: &[V; K]) -> V {
    let mut sum = V::splat(0.0);
    for &v in x {
        sum = sum + v;
    }
    sum
}

/// The square of each value.
#[inline(always)]
pub(crate) fn squares<V: Lanes, const K: usize>(x: &[V; K]) -> [V; K] {
    let mut w = *x;
    for w in &mut w {
        *w = *w * *w;
    }
    w
}

/// Importance times √(σ² + x²): the weights of most types in ggml.
#[inline(always)]
pub(crate) fn weigh<V: Lanes, const K: usize>(importance: &[V; K], sigma2: V, x: &[V; K]) -> [V; K] {
    let mut w = *importance;
    for (w, &x) in w.iter_mut().zip(x) {
        *w = *w * (sigma2 + x * x).sqrt();
    }
    w
}

/// The first value with the largest magnitude in each lane, with its sign, and that magnitude.
#[inline(always)]
pub(crate) fn extrema<V: Lanes, const K: usize>(x: &[V; K]) -> (V, V) {
    let zero = V::splat(0.0);
    let (mut largest, mut magnitude) = (zero, zero);
    for &v in x {
        let more = v.abs().gt(magnitude);
        largest = V::select(more, v, largest);
        magnitude = V::select(more, v.abs(), magnitude);
    }
    (largest, magnitude)
}
