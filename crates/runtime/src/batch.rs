//! Independent sequences that go through the layers together.

use std::ops::Range;

use crate::{KvCache, LayerPart, Matrix};

/// Sequences between two layers. Their tokens are the rows of one matrix, one sequence after the other.
#[derive(Clone, Debug)]
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
    /// Tokens before the first layer: the rows that were there before the unwanted ones left.
    pub(crate) embedded: usize,
    /// Layers done, and the part of the next one that comes next.
    pub(crate) done: usize,
    pub(crate) next: LayerPart,
    /// The rows that will be asked for, if not all, until the others have left.
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
    /// Says, before the first layer, which rows will be asked for after the last: `rows` ascend. The others leave the
    /// batch as soon as no layer looks at them any more, and what is wanted stays the same, but for the rounding of
    /// sums where no more than four rows are left.
    ///
    /// In E2B and E4B that is before half of the layers, because those at the end read keys and values of earlier ones.
    ///
    /// # Panics
    /// When the rows do not ascend or are not there, or a layer has been done.
    pub fn want(&mut self, rows: Vec<usize>) {
        assert!(self.done == 0, "wanted after a layer");
        assert!(rows.is_sorted_by(|a, b| a < b) && rows.last().is_none_or(|&row| row < self.tokens.len()));
        self.wanted = Some(rows);
    }

    /// Lets go of the rows that nobody wants, here and in `x`, which has the same rows.
    pub(crate) fn drop_unwanted(&mut self, x: &mut Matrix) {
        let Some(wanted) = self.wanted.take() else { return };
        for matrix in [x, &mut self.hidden, &mut self.embedding] {
            *matrix = matrix.select(wanted.iter().copied());
        }
        self.tokens = wanted.iter().map(|&row| self.tokens[row]).collect();
        self.positions = wanted.iter().map(|&row| self.positions[row]).collect();
        let before = |row: usize| wanted.partition_point(|&wanted| wanted < row);
        for sequence in &mut self.sequences {
            sequence.rows = before(sequence.rows.start)..before(sequence.rows.end);
        }
    }

    /// Tokens of all sequences, those included whose rows have left the batch.
    pub fn embedded(&self) -> usize {
        self.embedded
    }

    /// Hidden states, one row a token; after the last layer, of the tokens that are [wanted](Batch::want).
    pub fn hidden(&self) -> &Matrix {
        &self.hidden
    }

    /// The rows of each sequence that are there.
    pub fn sequences(&self) -> impl ExactSizeIterator<Item = Range<usize>> {
        self.sequences.iter().map(|sequence| sequence.rows.clone())
    }
}
