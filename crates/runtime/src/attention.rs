//! Attention: each position's queries against the keys it may see.
//!
//! `softmax(q·kᵀ) v` with a scale of 1: the norms of q and k have learnt it. Several query heads share a key head.

use std::cell::RefCell;

use gemma::Attention;
use rayon::prelude::*;
use tensor::Result;

use crate::batch::Batch;
use crate::cache::{LayerKv, donor};
use crate::math::softmax;
use crate::matmul::{Shape, View, multiply};
use crate::model::Model;
use crate::norm::{rms, rms_in_place};
use crate::{Matrix, rope};

/// Queries that are multiplied with keys at a time.
const QUERIES: usize = 64;

impl Model<'_> {
    /// The attention of a layer before its residual connection: `x` is the layer's input.
    pub(crate) fn attention(&self, layer: usize, batch: &mut Batch) -> Result<Matrix> {
        let (config, w) = (self.config(), self.weights().layer(layer));
        let eps = config.norm_eps;
        let head_dim = config.head_dim_of(layer) as usize;
        let frequencies = self.frequencies(config.attention[layer]);

        let a = rms(&batch.hidden, Some(&w.vector("attn_norm")?), eps);
        let mut q = w.project("attn_q", &a)?;
        rms_in_place(&mut q, head_dim, Some(&w.vector("attn_q_norm")?), eps);
        rope::rotate(&mut q, &batch.positions, frequencies);

        if !config.shares_kv(layer) {
            let mut k = w.project("attn_k", &a)?;
            // without a value projection, the keys as they are before their norm
            let mut v = w.find("attn_v").map_or_else(|| Ok(k.clone()), |_| w.project("attn_v", &a))?;
            rms_in_place(&mut k, head_dim, Some(&w.vector("attn_k_norm")?), eps);
            rope::rotate(&mut k, &batch.positions, frequencies);
            rms_in_place(&mut v, head_dim, None, eps);
            let width = k.cols();
            for sequence in &mut batch.sequences {
                let span = sequence.rows.start * width..sequence.rows.end * width;
                sequence.cache.extend(layer, &k.data()[span.clone()], &v.data()[span]);
            }
        }

        let heads = Heads {
            count: config.heads as usize,
            kv: config.kv_heads_of(layer) as usize,
            dim: head_dim,
            window: match config.attention[layer] {
                Attention::Sliding => config.window as usize,
                Attention::Full => usize::MAX,
            },
        };
        let mut o = Matrix::zeros(q.rows(), q.cols());
        for sequence in &mut batch.sequences {
            let span = sequence.rows.start * q.cols()..sequence.rows.end * q.cols();
            let kv = sequence.cache.layer(donor(config, layer));
            heads.attend(&q.data()[span.clone()], kv, sequence.start, &mut o.data_mut()[span]);
            let end = sequence.start + sequence.rows.len();
            sequence.cache.release(config, layer, end);
        }
        w.project("attn_output", &o)
    }
}

/// The heads of a layer and what they see.
struct Heads {
    /// Query heads.
    count: usize,
    /// Key and value heads.
    kv: usize,
    dim: usize,
    /// A position sees itself and the `window - 1` before it.
    window: usize,
}

thread_local! {
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Heads {
    /// The values that the queries of one sequence, from position `start` on, find.
    fn attend(&self, q: &[f32], kv: &LayerKv, start: usize, out: &mut [f32]) {
        let width = self.count * self.dim;
        let blocks = q.par_chunks(QUERIES * width).zip(out.par_chunks_mut(QUERIES * width));
        blocks.enumerate().for_each(|(block, (q, out))| {
            for head in 0..self.count {
                self.attend_head(head, q, kv, start + block * QUERIES, out);
            }
        });
    }

    fn attend_head(&self, head: usize, q: &[f32], kv: &LayerKv, start: usize, out: &mut [f32]) {
        let (q_width, kv_width) = (self.count * self.dim, self.kv * self.dim);
        let queries = q.len() / q_width;
        // what any of these queries sees, as rows of the cache
        let first = self.oldest(start).max(kv.first);
        let keys = start + queries - first;
        let offset = (first - kv.first) * kv_width + head / (self.count / self.kv) * self.dim;

        SCORES.with_borrow_mut(|scores| {
            if scores.len() < queries * keys {
                scores.resize(queries * keys, 0.0);
            }
            let scores = &mut scores[..queries * keys];
            multiply(
                Shape { m: queries, n: keys, k: self.dim },
                View { data: &q[head * self.dim..], row: q_width, col: 1 },
                View { data: &kv.keys[offset..], row: 1, col: kv_width },
                scores,
                keys,
            );
            for (n, scores) in scores.chunks_exact_mut(keys).enumerate() {
                let position = start + n;
                let (past, rest) = scores.split_at_mut(self.oldest(position).max(first) - first);
                let (seen, future) = rest.split_at_mut(position + 1 - first - past.len());
                softmax(seen);
                past.fill(0.0);
                future.fill(0.0);
            }
            multiply(
                Shape { m: queries, n: self.dim, k: keys },
                View { data: scores, row: keys, col: 1 },
                View { data: &kv.values[offset..], row: kv_width, col: 1 },
                &mut out[head * self.dim..],
                q_width,
            );
        });
    }

    /// The oldest position that this one sees.
    fn oldest(&self, position: usize) -> usize {
        (position + 1).saturating_sub(self.window)
    }
}
