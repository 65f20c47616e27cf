//! The attention of the audio tower: a query sees its own position and the `window − 1` before it.
//!
//! `score(i, j) = cap · tanh((q_i · k_j + q_i · R[i − j]) / cap)`, with `R` a projection of the sines and cosines of the distance.
//! transformers computes chunks of 12 positions with the 12 before; the same scores are left after its mask.

use rayon::prelude::*;
use tensor::Result;

use super::AudioTower;
use crate::math::{dot, softcap, softmax};
use crate::sin_cos::sin_cos;
use crate::towers::weights::PartWeights;
use crate::{Matrix, RowMajor};

/// Sines, then cosines of the distances 0 to `window` − 1 at `width / 2` frequencies from 1 to 1/10000: `[window, width]`.
/// `Gemma4AudioRelPositionalEncoding`.
pub(super) fn distances(window: usize, width: usize) -> Matrix {
    let half = width / 2;
    let step = 10_000f64.ln() / half.saturating_sub(1).max(1) as f64;
    Matrix::from_shape_fn((window, width), |(distance, column)| {
        let frequency = (-step * (column % half) as f64).exp() as f32;
        let (sin, cos) = sin_cos(distance as f32 * frequency);
        if column < half { sin } else { cos }
    })
}

impl AudioTower<'_> {
    /// The output of the attention of normalised states.
    pub(super) fn attention(&self, w: &PartWeights<'_>, n: &Matrix) -> Result<Matrix> {
        let scale = w.per_dim_scale()?;
        let head_dim = scale.len();
        // constants of Gemma4AudioAttention
        let of_q = 1.0 / (head_dim as f64).sqrt() / std::f64::consts::LN_2;
        let of_k = std::f64::consts::E.ln_1p() / std::f64::consts::LN_2;
        let mut q = w.clipped("attn_q", n)?;
        for head in q.values_mut().chunks_exact_mut(head_dim) {
            head.iter_mut().zip(&scale).for_each(|(q, scale)| *q = *q * of_q as f32 * scale);
        }
        let mut k = w.clipped("attn_k", n)?;
        k *= of_k as f32;
        let v = w.clipped("attn_v", n)?;
        let relative = w.linear("attn_k_rel", &self.distances)?;

        let (simd, cap, width) = (w.compute().simd, self.config.softcap, q.ncols());
        let mut out = Matrix::zeros(q.raw_dim());
        out.values_mut().par_chunks_mut(width).enumerate().with_min_len(8).for_each_init(
            || vec![0.0; relative.nrows()],
            |scores, (position, out)| {
                let scores = &mut scores[..relative.nrows().min(position + 1)];
                for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
                    let columns = head * head_dim..(head + 1) * head_dim;
                    let q = &q.row_values(position)[columns.clone()];
                    for (distance, score) in scores.iter_mut().enumerate() {
                        let key = &k.row_values(position - distance)[columns.clone()];
                        *score = dot(q, key) + dot(q, &relative.row_values(distance)[columns.clone()]);
                    }
                    softcap(simd, scores, cap);
                    softmax(simd, scores);
                    for (distance, score) in scores.iter().enumerate() {
                        let value = &v.row_values(position - distance)[columns.clone()];
                        out.iter_mut().zip(value).for_each(|(out, v)| *out += score * v);
                    }
                }
            },
        );
        w.clipped("attn_out", &out)
    }
}
