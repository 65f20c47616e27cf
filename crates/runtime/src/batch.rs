//! Independent sequences that go through the layers together.

use std::ops::Range;

use crate::{KvCache, Matrix};

/// Sequences between two layers. Their tokens are the rows of one matrix, one sequence after the other.
#[derive(Debug)]
pub struct Batch {
    /// Token ids, a row each.
    pub(crate) tokens: Vec<u32>,
    /// The position of each row in its sequence.
    pub(crate) positions: Vec<usize>,
    pub(crate) sequences: Vec<Sequence>,
    /// The hidden states: the residual stream.
    pub(crate) hidden: Matrix,
    /// What `hidden` was before the first layer, for the models with per-layer embeddings; else empty.
    pub(crate) embedding: Matrix,
    /// Layers done.
    pub(crate) done: usize,
}

/// One sequence of a batch.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// Its rows.
    pub(crate) rows: Range<usize>,
    /// The position of its first row.
    pub(crate) start: usize,
    pub(crate) cache: KvCache,
}

impl Batch {
    /// Hidden states, one row a token.
    pub fn hidden(&self) -> &Matrix {
        &self.hidden
    }

    /// The rows of each sequence.
    pub fn sequences(&self) -> impl ExactSizeIterator<Item = Range<usize>> {
        self.sequences.iter().map(|sequence| sequence.rows.clone())
    }
}
