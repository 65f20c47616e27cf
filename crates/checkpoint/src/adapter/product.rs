//! What adapters do to a tensor, without its rows: for adapters in other containers.

use tensor::Result;

use crate::Checkpoint;
use crate::adapter::delta::{Change, Delta};

/// What adapters do to a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Adaptation {
    /// They replace it.
    Replacement,
    /// They add a product and scale the rows to trained magnitudes (DoRA).
    Magnitudes,
    /// They add a product of low rank.
    Product(LowRankProduct),
}

/// The sum of the products of low rank for a tensor, as one product: for each matrix, `scale` times a left factor
/// [rows, rank] times a right factor [rank, cols].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LowRankProduct {
    /// Number of matrices of a stack; `None` for a tensor that is one matrix.
    pub stack: Option<u64>,
    /// Rows of each matrix.
    pub rows: u64,
    /// Columns of each matrix.
    pub cols: u64,
    /// Sum of the ranks.
    pub rank: u64,
    /// Factor of the product.
    pub scale: f64,
    /// Position of the first factor in the adapter's file.
    pub offset: u64,
}

/// The factors of a [`LowRankProduct`], matrix after matrix and row after row.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRankFactors {
    /// [rows, rank] of each matrix.
    pub left: Vec<f32>,
    /// [rank, cols] of each matrix.
    pub right: Vec<f32>,
}

impl Checkpoint {
    /// What adapters do to tensor `index`; `None` if they leave it as it is.
    pub fn adaptation(&self, index: usize) -> Option<Adaptation> {
        let entry = self.entries.get(index)?;
        if self.shards.get(entry.shard()).is_some_and(|shard| shard.is_adapter) {
            return Some(Adaptation::Replacement);
        }
        let deltas: Vec<_> = self.deltas(index).collect();
        let first = deltas.first()?;
        if deltas.iter().any(|delta| delta.product.magnitude.is_some()) {
            return Some(Adaptation::Magnitudes);
        }
        let offset = |delta: &&Delta| {
            let (left, right) = (&delta.product.left.stored, &delta.product.right.stored);
            left.offset.min(right.offset)
        };
        Some(Adaptation::Product(LowRankProduct {
            stack: (entry.desc.shape.len() == 3).then_some(first.matrices),
            rows: first.rows,
            cols: entry.desc.cols(),
            rank: deltas.iter().map(|delta| delta.product.rank).sum(),
            scale: largest_scale(&deltas),
            offset: deltas.iter().map(offset).min()?,
        }))
    }

    /// The factors of the product that adapters add to tensor `index`, in f32; `None` if they do something else.
    ///
    /// # Errors
    /// Those of [`read_at`](Self::read_at) for the adapter's file.
    pub fn low_rank_factors(&self, index: usize) -> Result<Option<LowRankFactors>> {
        let Some(Adaptation::Product(product)) = self.adaptation(index) else { return Ok(None) };
        let (matrices, rows, cols) =
            (product.stack.unwrap_or(1) as usize, product.rows, product.cols as usize);
        let (rows, rank) = (rows as usize, product.rank as usize);
        let mut factors = LowRankFactors {
            left: vec![0.0; matrices * rows * rank],
            right: vec![0.0; matrices * rank * cols],
        };
        // the place of a product in the rank of the sum
        let mut at = 0;
        for delta in self.deltas(index) {
            let (left, right) = delta.stored_factors(self)?;
            let own = delta.product.rank as usize;
            let relative = (delta.scale / product.scale) as f32;
            let height = (delta.window.end - delta.window.start) as usize;
            for (number, values) in left.chunks_exact(own).enumerate() {
                let row = number / height * rows + delta.window.start as usize + number % height;
                let target = &mut factors.left[row * rank + at..][..own];
                let scaled =
                    |value: &f32| if delta.scale == product.scale { *value } else { value * relative };
                target.iter_mut().zip(values).for_each(|(target, value)| *target = scaled(value));
            }
            for (matrix, values) in right.chunks_exact(own * cols).enumerate() {
                factors.right[(matrix * rank + at) * cols..][..own * cols].copy_from_slice(values);
            }
            at += own;
        }
        Ok(Some(factors))
    }

    fn deltas(&self, index: usize) -> impl Iterator<Item = &Delta> {
        let changes = self.entries.get(index).map_or(&[][..], |entry| &entry.changes);
        changes.iter().filter_map(|change| match change {
            Change::Add(delta) => Some(&**delta),
            Change::Round(_) => None,
        })
    }
}

/// The scale of the largest magnitude: the others are multiples of it.
fn largest_scale(deltas: &[&Delta]) -> f64 {
    deltas.iter().map(|delta| delta.scale).max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(0.0)
}
