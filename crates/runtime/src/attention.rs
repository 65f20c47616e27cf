//! Causal attention, with a sliding window in sliding layers. There the soft tokens of an image may attend to later ones of it, see
//! `segments.rs`; the window limits only what came before.
//!
//! `softmax(q·kᵀ) v`. The scale is 1: it is part of the weights of the norms of q and k. Query heads share key heads (GQA).

use std::cell::RefCell;

use gemma::{Attention, Config};
use ndarray::{ArrayView1, ArrayView2, ArrayViewMut1, ArrayViewMut2, Axis, s};
use quant::{DOT_VECTORS, Simd};
use rayon::prelude::*;
use tensor::Result;

use crate::batch::Batch;
use crate::cache::{LayerKv, donor, is_last_owner};
use crate::gemm::general_mat_mul;
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

        let mut a = rms(self.simd(), &batch.hidden, Some(&w.vector("attn_norm")?), eps);
        if !config.shares_kv(layer) {
            let mut k = w.project("attn_k", &a)?;
            // without a value projection, the values are the keys before their norm
            let mut v = w.find("attn_v").map_or_else(|| Ok(k.clone()), |_| w.project("attn_v", &a))?;
            rms_in_place(self.simd(), &mut k, head_dim, Some(&w.vector("attn_k_norm")?), eps);
            rope::rotate(&mut k, &batch.positions, frequencies);
            rms_in_place(self.simd(), &mut v, head_dim, None, eps);
            for sequence in &mut batch.sequences {
                let rows = s![sequence.rows.clone(), ..];
                sequence.cache.extend(layer, k.slice(rows), v.slice(rows));
            }
            if is_last_owner(config, layer) {
                batch.drop_unwanted(&mut a);
            }
        }

        let mut q = w.project("attn_q", &a)?;
        rms_in_place(self.simd(), &mut q, head_dim, Some(&w.vector("attn_q_norm")?), eps);
        rope::rotate(&mut q, &batch.positions, frequencies);

        let heads = Heads::of(config, layer, self.simd());
        let mut o = Matrix::zeros(q.raw_dim());
        // chosen by the size of the batch, as in `project`: the bits of a row do not depend on other rows
        let few = q.nrows() <= DOT_VECTORS;
        for sequence in &mut batch.sequences {
            let kv = sequence.cache.layer(donor(config, layer));
            let at = |row: usize| At {
                position: batch.positions[row],
                end: heads.end(batch.positions[row], batch.ends[row]),
            };
            let queries: Vec<At> = sequence.rows.clone().map(at).collect();
            let rows = s![sequence.rows.clone(), ..];
            let (q, mut o) = (q.slice(rows), o.slice_mut(rows));
            if few {
                let rows = q.outer_iter().zip(o.outer_iter_mut()).zip(queries);
                rows.for_each(|((q, o), at)| heads.attend_alone(q, kv, at, o));
            } else {
                heads.attend(q, kv, &queries, o);
            }
            sequence.cache.release(config, layer, sequence.end);
        }
        w.project("attn_output", &o)
    }
}

/// The heads of a layer and their attention window.
pub(crate) struct Heads {
    simd: Simd,
    /// Query heads.
    count: usize,
    /// Key and value heads.
    kv: usize,
    dim: usize,
    /// A position attends to itself and the `window - 1` before it.
    window: usize,
    /// Whether a position may attend to later ones.
    ahead: bool,
}

/// The place of a query.
#[derive(Clone, Copy)]
pub(crate) struct At {
    position: usize,
    /// The position after the last one that it attends to.
    end: usize,
}

impl At {
    /// A query that attends to nothing behind its position.
    pub(crate) fn causal(position: usize) -> At {
        At { position, end: position + 1 }
    }
}

thread_local! {
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Heads {
    pub(crate) fn of(config: &Config, layer: usize, simd: Simd) -> Heads {
        Heads {
            simd,
            count: config.heads as usize,
            kv: config.kv_heads_of(layer) as usize,
            dim: config.head_dim_of(layer) as usize,
            window: match config.attention[layer] {
                Attention::Sliding => config.window as usize,
                Attention::Full => usize::MAX,
            },
            ahead: config.attention[layer] == Attention::Sliding,
        }
    }

    /// The end of what a position attends to, given that of sliding layers.
    fn end(&self, position: usize, of_sliding: usize) -> usize {
        if self.ahead { of_sliding } else { position + 1 }
    }

    /// Attention output of the queries of one sequence at these places: a row of all heads each.
    fn attend(
        &self,
        mut q: ArrayView2<'_, f32>,
        kv: &LayerKv,
        queries: &[At],
        mut out: ArrayViewMut2<'_, f32>,
    ) {
        // blocks begin at fixed positions, so the order of a query's sums does not depend on the batch
        let mut blocks = Vec::new();
        let block = |at: &At| at.position / QUERIES_AT_A_TIME;
        for queries in queries.chunk_by(|a, b| block(a) == block(b)) {
            let (block, rest) = q.split_at(Axis(0), queries.len());
            let (out_block, out_rest) = out.split_at(Axis(0), queries.len());
            blocks.push((block, queries, out_block));
            (q, out) = (rest, out_rest);
        }
        blocks.into_par_iter().for_each(|(q, queries, mut out)| {
            for head in 0..self.count {
                self.attend_head(head, q, kv, queries, out.view_mut());
            }
        });
    }

    /// Attention of a single query, as in token by token decoding: the heads that share keys are the rows of one product, so
    /// that keys and values are read once and not once a head. Queries of an assistant are at a position past the end of the
    /// KV cache.
    pub(crate) fn attend_alone(
        &self,
        q: ArrayView1<'_, f32>,
        kv: &LayerKv,
        at: At,
        out: ArrayViewMut1<'_, f32>,
    ) {
        let (kv_width, group) = (self.kv * self.dim, self.count / self.kv);
        let first = self.oldest(at.position).max(kv.first);
        let count = at.end.min(kv.end(kv_width)) - first;
        let (keys, values) =
            (kv.keys(first - kv.first, count, kv_width), kv.values(first - kv.first, count, kv_width));
        // a row a head
        let heads = (self.count, self.dim);
        let q = q.into_shape_with_order(heads).expect("all heads of a query");
        let mut out = out.into_shape_with_order(heads).expect("all heads of an output");
        let groups = out.axis_chunks_iter_mut(Axis(0), group).into_par_iter();
        groups.zip(q.axis_chunks_iter(Axis(0), group)).enumerate().for_each(|(head, (out, q))| {
            let columns = s![.., head * self.dim..(head + 1) * self.dim];
            with_scores((group, count), |mut scores| {
                general_mat_mul(1.0, q, keys.slice(columns).reversed_axes(), 0.0, scores.view_mut());
                scores.outer_iter_mut().for_each(|scores| softmax(self.simd, slice(scores)));
                general_mat_mul(1.0, scores.view(), values.slice(columns), 0.0, out);
            });
        });
    }

    fn attend_head(
        &self,
        head: usize,
        q: ArrayView2<'_, f32>,
        kv: &LayerKv,
        queries: &[At],
        mut out: ArrayViewMut2<'_, f32>,
    ) {
        let kv_width = self.kv * self.dim;
        // the rows of the cache that any query of the block attends to
        let block = queries[0].position / QUERIES_AT_A_TIME * QUERIES_AT_A_TIME;
        let first = self.oldest(block).max(kv.first);
        let end = queries.iter().fold(block + QUERIES_AT_A_TIME, |end, at| end.max(at.end));
        let count = end.min(kv.end(kv_width)) - first;
        let columns = |head: usize| s![.., head * self.dim..(head + 1) * self.dim];
        let shared = columns(head / (self.count / self.kv));
        let (keys, values) =
            (kv.keys(first - kv.first, count, kv_width), kv.values(first - kv.first, count, kv_width));

        with_scores((queries.len(), count), |mut scores| {
            let q = q.slice(columns(head));
            general_mat_mul(1.0, q, keys.slice(shared).reversed_axes(), 0.0, scores.view_mut());
            for (scores, at) in scores.outer_iter_mut().zip(queries) {
                let (past, rest) = slice(scores).split_at_mut(self.oldest(at.position).max(first) - first);
                let (seen, future) = rest.split_at_mut(at.end - first - past.len());
                softmax(self.simd, seen);
                past.fill(0.0);
                future.fill(0.0);
            }
            general_mat_mul(1.0, scores.view(), values.slice(shared), 0.0, out.slice_mut(columns(head)));
        });
    }

    /// The oldest position in the window of this one.
    fn oldest(&self, position: usize) -> usize {
        (position + 1).saturating_sub(self.window)
    }
}

/// Calls `work` with a matrix of scores of unspecified values.
pub(crate) fn with_scores(shape: (usize, usize), work: impl FnOnce(ArrayViewMut2<'_, f32>)) {
    let len = shape.0 * shape.1;
    SCORES.with_borrow_mut(|scores| {
        if scores.len() < len {
            scores.resize(len, 0.0);
        }
        work(ArrayViewMut2::from_shape(shape, &mut scores[..len]).expect("rows and columns"));
    });
}

/// A row of scores as a slice.
pub(crate) fn slice(row: ArrayViewMut1<'_, f32>) -> &mut [f32] {
    row.into_slice().expect("scores in row-major order")
}
