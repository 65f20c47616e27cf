//! A batch: independent sequences that are computed together.

use std::ops::Range;

use ndarray::Axis;

use crate::{KvCache, LayerPart, Matrix};

/// Sequences between two layers. Their hidden states are the rows of one matrix, one sequence after the other.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Token ids, a row each; of a soft token that of padding.
    pub(crate) tokens: Vec<u32>,
    /// The position of each row in its sequence.
    pub(crate) positions: Vec<usize>,
    /// For each row, the end of the positions that it attends to in sliding layers. In full layers that is the next position.
    pub(crate) ends: Vec<usize>,
    pub(crate) sequences: Vec<Sequence>,
    /// The hidden states: the residual stream.
    pub(crate) hidden: Matrix,
    /// `hidden` before the first layer, for models with per-layer embeddings; else empty.
    pub(crate) embedding: Matrix,
    /// Number of rows before the first layer.
    pub(crate) embedded: usize,
    /// Layers done, and the part of the next one that comes next.
    pub(crate) done: usize,
    pub(crate) next: LayerPart,
    /// The rows to keep to the end, until the others are dropped; `None` for all.
    pub(crate) wanted: Option<Vec<usize>>,
}

/// One sequence of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    /// Its rows.
    pub(crate) rows: Range<usize>,
    /// Positions so far, those of this batch included.
    pub(crate) end: usize,
    pub(crate) cache: KvCache,
}

impl Batch {
    /// Selects, before the first layer, the rows whose final hidden states are needed, in ascending order. Other rows are
    /// dropped after the last layer that computes keys and values of its own. The wanted hidden states stay the same, except
    /// for the rounding of sums where at most four rows are left.
    ///
    /// In E2B and E4B that is before half of the layers: the last ones read keys and values of earlier layers.
    ///
    /// # Panics
    /// When the rows do not ascend or do not exist, or after a layer has been computed.
    pub fn want(&mut self, rows: Vec<usize>) {
        assert!(self.done == 0, "wanted after a layer");
        assert!(rows.is_sorted_by(|a, b| a < b) && rows.last().is_none_or(|&row| row < self.tokens.len()));
        self.wanted = Some(rows);
    }

    /// Drops the unwanted rows of the batch and of `x`, which has the same rows.
    pub(crate) fn drop_unwanted(&mut self, x: &mut Matrix) {
        let Some(wanted) = self.wanted.take() else { return };
        for matrix in [x, &mut self.hidden, &mut self.embedding] {
            if !matrix.is_empty() {
                *matrix = matrix.select(Axis(0), &wanted);
            }
        }
        self.tokens = wanted.iter().map(|&row| self.tokens[row]).collect();
        self.positions = wanted.iter().map(|&row| self.positions[row]).collect();
        self.ends = wanted.iter().map(|&row| self.ends[row]).collect();
        let before = |row: usize| wanted.partition_point(|&wanted| wanted < row);
        for sequence in &mut self.sequences {
            sequence.rows = before(sequence.rows.start)..before(sequence.rows.end);
        }
    }

    /// Tokens of all sequences, including dropped rows.
    pub fn embedded(&self) -> usize {
        self.embedded
    }

    /// Hidden states, one row a token; after the last layer, of the tokens that are [wanted](Batch::want).
    pub fn hidden(&self) -> &Matrix {
        &self.hidden
    }

    /// The rows of each sequence, without dropped ones.
    pub fn sequences(&self) -> impl ExactSizeIterator<Item = Range<usize>> {
        self.sequences.iter().map(|sequence| sequence.rows.clone())
    }
}
