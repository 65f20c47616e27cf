//! The attention of the image tower: every patch sees every patch.
//!
//! `softmax(q·kᵀ) v`, scale 1. The memory of the scores is bounded: some queries of a head at a time.

use ndarray::{Axis, s};
use quant::Simd;
use rayon::prelude::*;
use tensor::Result;

use super::{Grid, VisionTower};
use crate::attention::{slice, with_scores};
use crate::gemm::general_mat_mul;
use crate::math::softmax;
use crate::norm::rms_in_place;
use crate::towers::weights::PartWeights;
use crate::{Matrix, rope};

/// Queries of the image tower in a block of the product with the keys; their scores are in memory, for each thread.
pub const TOWER_QUERIES: usize = 128;

impl VisionTower<'_> {
    /// The output of the attention of normalised states.
    pub(super) fn attention(&self, w: &PartWeights<'_>, grid: Grid, n: &Matrix) -> Result<Matrix> {
        let (eps, simd) = (self.config.norm_eps, w.compute().simd);
        let head_dim = self.config.head_dim as usize;
        let turned = |role, norm| -> Result<Matrix> {
            let mut x = w.clipped(role, n)?;
            rms_in_place(simd, &mut x, head_dim, Some(&w.vector(norm)?), eps);
            rope::rotate_axes(&mut x, |patch| grid.position(patch), &self.frequencies);
            Ok(x)
        };
        let (q, k) = (turned("attn_q", "attn_q_norm")?, turned("attn_k", "attn_k_norm")?);
        let mut v = w.clipped("attn_v", n)?;
        rms_in_place(simd, &mut v, head_dim, None, eps);
        w.clipped("attn_out", &attend(simd, &q, &k, &v, head_dim))
    }
}

/// Attention of all heads, which are side by side in a row.
fn attend(simd: Simd, q: &Matrix, k: &Matrix, v: &Matrix, head_dim: usize) -> Matrix {
    let mut out = Matrix::zeros(q.raw_dim());
    let mut blocks = Vec::new();
    for (head, out) in out.axis_chunks_iter_mut(Axis(1), head_dim).enumerate() {
        let columns = s![.., head * head_dim..(head + 1) * head_dim];
        let (q, k, v) = (q.slice(columns), k.slice(columns), v.slice(columns));
        let mut first = 0;
        let mut rest = out;
        while rest.nrows() > 0 {
            let count = rest.nrows().min(TOWER_QUERIES);
            let (block, others) = rest.split_at(Axis(0), count);
            blocks.push((q.slice_move(s![first..first + count, ..]), k, v, block));
            (first, rest) = (first + count, others);
        }
    }
    blocks.into_par_iter().for_each(|(q, k, v, out)| {
        with_scores((q.nrows(), k.nrows()), |mut scores| {
            general_mat_mul(1.0, q, k.reversed_axes(), 0.0, scores.view_mut());
            scores.outer_iter_mut().for_each(|scores| softmax(simd, slice(scores)));
            general_mat_mul(1.0, scores.view(), v, 0.0, out);
        });
    });
    out
}
