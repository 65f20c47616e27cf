//! Causal attention, with a sliding window in sliding layers.
//!
//! `softmax(q·kᵀ) v`. The scale is 1: it is part of the weights of the norms of q and k. Query heads share key heads (GQA).

use std::cell::RefCell;

use gemma::{Attention, Config};
use quant::DOT_VECTORS;
use rayon::prelude::*;
use tensor::Result;

use crate::batch::Batch;
use crate::cache::{LayerKv, donor, is_last_owner};
use crate::gemm::{Op, Shape, View, multiply};
use crate::math::softmax;
use crate::model::Model;
use crate::norm::{rms, rms_in_place};
use crate::{Matrix, rope};

/// Queries in a block of the product with the keys.
pub const QUERIES_AT_A_TIME: usize = 64;

impl Model<'_> {
    /// The attention of a layer before its residual connection: `x` is the layer's input.
    pub(crate) fn attention(&self, layer: usize, batch: &mut Batch) -> Result<Matrix> {
        let (config, w) = (self.config(), self.weights().layer(layer));
        let eps = config.norm_eps;
        let head_dim = config.head_dim_of(layer) as usize;
        let frequencies = self.frequencies(config.attention[layer]);

        let mut a = rms(&batch.hidden, Some(&w.vector("attn_norm")?), eps);
        if !config.shares_kv(layer) {
            let mut k = w.project("attn_k", &a)?;
            // without a value projection, the values are the keys before their norm
            let mut v = w.find("attn_v").map_or_else(|| Ok(k.clone()), |_| w.project("attn_v", &a))?;
            rms_in_place(&mut k, head_dim, Some(&w.vector("attn_k_norm")?), eps);
            rope::rotate(&mut k, &batch.positions, frequencies);
            rms_in_place(&mut v, head_dim, None, eps);
            let width = k.cols();
            for sequence in &mut batch.sequences {
                let span = sequence.rows.start * width..sequence.rows.end * width;
                sequence.cache.extend(layer, &k.data()[span.clone()], &v.data()[span]);
            }
            if is_last_owner(config, layer) {
                batch.drop_unwanted(&mut a);
            }
        }

        let mut q = w.project("attn_q", &a)?;
        rms_in_place(&mut q, head_dim, Some(&w.vector("attn_q_norm")?), eps);
        rope::rotate(&mut q, &batch.positions, frequencies);

        let heads = Heads::of(config, layer);
        let mut o = Matrix::zeros(q.rows(), q.cols());
        // chosen by the size of the batch, as in `project`: the bits of a row do not depend on other rows
        let few = q.rows() <= DOT_VECTORS;
        for sequence in &mut batch.sequences {
            let span = sequence.rows.start * q.cols()..sequence.rows.end * q.cols();
            let kv = sequence.cache.layer(donor(config, layer));
            let positions = &batch.positions[sequence.rows.clone()];
            let width = q.cols();
            let (q, o) = (&q.data()[span.clone()], &mut o.data_mut()[span]);
            if few {
                let rows = q.chunks_exact(width).zip(o.chunks_exact_mut(width));
                rows.zip(positions).for_each(|((q, o), &position)| heads.attend_alone(q, kv, position, o));
            } else {
                heads.attend(q, kv, positions, o);
            }
            sequence.cache.release(config, layer, sequence.end);
        }
        w.project("attn_output", &o)
    }
}

/// The heads of a layer and their attention window.
pub(crate) struct Heads {
    /// Query heads.
    count: usize,
    /// Key and value heads.
    kv: usize,
    dim: usize,
    /// A position attends to itself and the `window - 1` before it.
    window: usize,
}

thread_local! {
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Heads {
    pub(crate) fn of(config: &Config, layer: usize) -> Heads {
        Heads {
            count: config.heads as usize,
            kv: config.kv_heads_of(layer) as usize,
            dim: config.head_dim_of(layer) as usize,
            window: match config.attention[layer] {
                Attention::Sliding => config.window as usize,
                Attention::Full => usize::MAX,
            },
        }
    }

    /// Attention output of the queries of one sequence at these positions.
    fn attend(&self, mut q: &[f32], kv: &LayerKv, positions: &[usize], mut out: &mut [f32]) {
        let width = self.count * self.dim;
        // blocks begin at fixed positions, so the order of a query's sums does not depend on the batch
        let blocks: Vec<_> = positions
            .chunk_by(|a, b| a / QUERIES_AT_A_TIME == b / QUERIES_AT_A_TIME)
            .map(|positions| {
                let q = q.split_off(..positions.len() * width).unwrap_or_default();
                let out = out.split_off_mut(..positions.len() * width).unwrap_or_default();
                (q, positions, out)
            })
            .collect();
        blocks.into_par_iter().for_each(|(q, positions, out)| {
            for head in 0..self.count {
                self.attend_head(head, q, kv, positions, out);
            }
        });
    }

    /// Attention of a single query, as in token by token decoding: the heads that share keys are the rows of one product, so
    /// that keys and values are read once and not once a head. Queries of an assistant are at a position past the end of the
    /// KV cache.
    pub(crate) fn attend_alone(&self, q: &[f32], kv: &LayerKv, position: usize, out: &mut [f32]) {
        let (kv_width, group) = (self.kv * self.dim, self.count / self.kv);
        let first = self.oldest(position).max(kv.first);
        let keys = (position + 1).min(kv.end(kv_width)) - first;
        let start = (first - kv.first) * kv_width;
        let heads = out.par_chunks_mut(group * self.dim).zip(q.par_chunks(group * self.dim)).enumerate();
        heads.for_each(|(head, (out, q))| {
            SCORES.with_borrow_mut(|scores| {
                if scores.len() < group * keys {
                    scores.resize(group * keys, 0.0);
                }
                let scores = &mut scores[..group * keys];
                let offset = start + head * self.dim;
                multiply(
                    Shape { m: group, n: keys, k: self.dim },
                    View { data: q, row: self.dim, col: 1 },
                    View { data: &kv.keys[offset..], row: 1, col: kv_width },
                    Op::Set,
                    scores,
                    keys,
                );
                scores.chunks_exact_mut(keys).for_each(softmax);
                multiply(
                    Shape { m: group, n: self.dim, k: keys },
                    View { data: scores, row: keys, col: 1 },
                    View { data: &kv.values[offset..], row: kv_width, col: 1 },
                    Op::Set,
                    out,
                    self.dim,
                );
            });
        });
    }

    fn attend_head(&self, head: usize, q: &[f32], kv: &LayerKv, positions: &[usize], out: &mut [f32]) {
        let (q_width, kv_width) = (self.count * self.dim, self.kv * self.dim);
        let queries = positions.len();
        // the rows of the cache that any query of the block attends to
        let block = positions[0] / QUERIES_AT_A_TIME * QUERIES_AT_A_TIME;
        let first = self.oldest(block).max(kv.first);
        let keys = (block + QUERIES_AT_A_TIME).min(kv.end(kv_width)) - first;
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
                Op::Set,
                scores,
                keys,
            );
            for (scores, &position) in scores.chunks_exact_mut(keys).zip(positions) {
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
                Op::Set,
                &mut out[head * self.dim..],
                q_width,
            );
        });
    }

    /// The oldest position in the window of this one.
    fn oldest(&self, position: usize) -> usize {
        (position + 1).saturating_sub(self.window)
    }
}
