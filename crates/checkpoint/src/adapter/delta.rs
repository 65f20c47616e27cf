//! The change of a tensor's rows: a product of low rank is added, in the arithmetic of the program that trained it.
//!
//! Everything is f32. Sums over the rank run in ascending order without fused multiply-add, so that the values do not
//! depend on the processor. PEFT's matrix products may sum in another order, which changes the last bit of a few f32
//! sums, and seldom the rounded weight.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use quant::Simd;
use tensor::{DType, Result, TensorDesc};

use crate::Checkpoint;
use crate::adapter::part::{Factor, Kind, LowRank, Order, Stored};
use crate::open::Location;
use crate::round::round;

/// Rows whose products are computed together.
const ROWS: usize = 4;
/// Number of tensors whose factors are kept: workers that read in order need those of one or two.
const KEPT: usize = 2;

/// A step in the change of a tensor's rows.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Rounds to the type of the base: the replacement is stored in a wider one.
    Round(DType),
    /// Adds a product of low rank.
    Add(Arc<Delta>),
}

/// A product of low rank for a tensor of the base.
#[derive(Debug)]
pub(crate) struct Delta {
    /// Index of the adapter's file among the shards.
    pub(crate) shard: usize,
    pub(crate) product: LowRank,
    /// Factor of the product, with that of the user.
    pub(crate) scale: f64,
    /// Number of matrices in the tensor, and rows of each.
    pub(crate) matrices: u64,
    pub(crate) rows: u64,
    /// The rows of each matrix that change.
    pub(crate) window: Range<u64>,
    /// The type to which results are rounded.
    pub(crate) dtype: DType,
}

/// The factors of a product in f32, matrix after matrix and row after row.
#[derive(Debug)]
struct Factors {
    left: Vec<f32>,
    right: Vec<f32>,
    /// Magnitudes of the rows (DoRA).
    magnitude: Option<Vec<f32>>,
}

/// The factors that were used last.
#[derive(Debug, Default)]
pub(crate) struct FactorCache(Mutex<VecDeque<(Arc<Delta>, Arc<Factors>)>>);

impl Checkpoint {
    /// Whether adapters change tensor `index`.
    pub fn is_adapted(&self, index: usize) -> bool {
        self.entries.get(index).is_some_and(|entry| !entry.changes.is_empty())
    }

    /// Merges the adapters into `rows`: whole rows of tensor `index` from row `first` on, as they are stored. Without an
    /// adapter for the tensor the rows stay as they are.
    ///
    /// # Errors
    /// Those of [`read_at`](Self::read_at) for the adapter's file.
    pub fn merge_rows(&self, index: usize, first: u64, rows: &mut [u8]) -> Result<()> {
        let Some(entry) =
            self.entries.get(index).filter(|entry| !entry.changes.is_empty() && !rows.is_empty())
        else {
            return Ok(());
        };
        let (dtype, cols) = (entry.desc.dtype, entry.desc.cols() as usize);
        let mut values = vec![0.0; rows.len() / dtype.block_bytes()];
        quant::decode(self.simd, dtype, rows, &mut values);
        for change in &entry.changes {
            match change {
                Change::Round(dtype) => round(self.simd, *dtype, &mut values, &mut Vec::new()),
                Change::Add(delta) => {
                    let factors = self.factors.get(delta, || delta.load(self))?;
                    delta.add_to(&factors, self.simd, first, cols, &mut values);
                }
            }
        }
        quant::encode(self.simd, dtype, cols, &values, None, rows);
        Ok(())
    }

    /// A stored tensor of shard `shard`, in f32.
    fn read_floats(&self, shard: usize, stored: &Stored) -> Result<Vec<f32>> {
        self.floats_at(Location { shard, offset: stored.offset }, &stored.desc)
    }

    /// A tensor at a place in a file, in f32.
    pub(crate) fn floats_at(&self, place: Location, desc: &TensorDesc) -> Result<Vec<f32>> {
        let mut bytes = vec![0; desc.byte_len() as usize];
        self.read_at(place.shard, place.offset, &mut bytes)?;
        let mut values = vec![0.0; desc.elements() as usize];
        quant::decode(self.simd, desc.dtype, &bytes, &mut values);
        Ok(values)
    }
}

impl FactorCache {
    fn get(&self, delta: &Arc<Delta>, load: impl FnOnce() -> Result<Factors>) -> Result<Arc<Factors>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, factors)) = kept.iter().find(|(kept, _)| Arc::ptr_eq(kept, delta)) {
            return Ok(factors.clone());
        }
        kept.truncate(KEPT - 1);
        let factors = Arc::new(load()?);
        kept.push_front((delta.clone(), factors.clone()));
        Ok(factors)
    }
}

impl Delta {
    /// Left and right factor in f32, matrix after matrix and row after row.
    pub(crate) fn stored_factors(&self, checkpoint: &Checkpoint) -> Result<(Vec<f32>, Vec<f32>)> {
        let read = |factor: &Factor, rows: u64| -> Result<Vec<f32>> {
            let values = checkpoint.read_floats(self.shard, &factor.stored)?;
            Ok(in_rows(values, factor.order, self.matrices as usize, rows as usize))
        };
        let LowRank { rank, left, right, .. } = &self.product;
        Ok((read(left, self.window.end - self.window.start)?, read(right, *rank)?))
    }

    fn load(&self, checkpoint: &Checkpoint) -> Result<Factors> {
        let (mut left, right) = self.stored_factors(checkpoint)?;
        if matches!(self.product.kind, Kind::Mlx(_)) {
            let scale = self.scale as f32;
            left.iter_mut().for_each(|value| *value *= scale);
        }
        let magnitude = self.product.magnitude.as_ref();
        let magnitude = magnitude.map(|stored| checkpoint.read_floats(self.shard, stored)).transpose()?;
        Ok(Factors { left, right, magnitude })
    }

    /// Adds the product to the rows from `first` on, of `cols` values each, and rounds them.
    fn add_to(&self, factors: &Factors, simd: Simd, first: u64, cols: usize, values: &mut [f32]) {
        let rank = self.product.rank as usize;
        let height = self.window.end - self.window.start;
        let (mut delta, mut bytes) = (vec![0.0; ROWS * cols], Vec::new());
        let (mut row, mut rest) = (first, values);
        while !rest.is_empty() {
            let (matrix, at) = (row / self.rows, row % self.rows);
            let end = [self.window.start, self.window.end, self.rows].into_iter().find(|end| at < *end);
            let count = (end.unwrap_or(self.rows) - at).min((rest.len() / cols) as u64);
            let (rows, after) = rest.split_at_mut(count as usize * cols);
            (row, rest) = (row + count, after);
            if !self.window.contains(&at) {
                continue;
            }
            let at = (matrix * height + at - self.window.start) as usize;
            let left = &factors.left[at * rank..(at + count as usize) * rank];
            let right = &factors.right[matrix as usize * rank * cols..][..rank * cols];
            let magnitudes = factors.magnitude.as_ref().map(|all| &all[at..at + count as usize]);
            for (number, (rows, left)) in
                rows.chunks_mut(ROWS * cols).zip(left.chunks(ROWS * rank)).enumerate()
            {
                let delta = &mut delta[..rows.len()];
                for (left, delta) in left.chunks_exact(rank).zip(delta.chunks_exact_mut(cols)) {
                    product(left, right, delta);
                }
                let magnitudes = magnitudes.map(|all| &all[number * ROWS..]);
                self.finish(simd, (rows, delta), magnitudes, cols, &mut bytes);
            }
        }
    }

    /// Adds `delta` to `rows`. PEFT rounds the result once for linears; for embeddings and experts it rounds the product
    /// too, and mlx-lm does so for every layer.
    fn finish(
        &self,
        simd: Simd,
        (rows, delta): (&mut [f32], &mut [f32]),
        magnitudes: Option<&[f32]>,
        cols: usize,
        bytes: &mut Vec<u8>,
    ) {
        if !matches!(self.product.kind, Kind::Mlx(_)) {
            let scale = self.scale as f32;
            delta.iter_mut().for_each(|value| *value *= scale);
        }
        if self.product.kind != Kind::Linear {
            round(simd, self.dtype, delta, bytes);
        }
        rows.iter_mut().zip(delta.iter()).for_each(|(value, delta)| *value += delta);
        for (row, magnitude) in rows.chunks_exact_mut(cols).zip(magnitudes.into_iter().flatten()) {
            let factor = magnitude / norm(row);
            row.iter_mut().for_each(|value| *value *= factor);
        }
        round(simd, self.dtype, rows, bytes);
    }
}

/// The 2-norm of a row, summed in eight lanes and then over the lanes, as PyTorch does with AVX2.
fn norm(row: &[f32]) -> f32 {
    let (eights, rest) = row.as_chunks::<8>();
    let mut lanes = [0.0f32; 8];
    for eight in eights {
        lanes.iter_mut().zip(eight).for_each(|(sum, value)| *sum += value * value);
    }
    let sum: f32 = lanes.iter().sum();
    rest.iter().fold(sum, |sum, value| sum + value * value).sqrt()
}

/// A row of a product: Σ left[k] · right[k], k ascending. Four steps at a time keep the sums in registers.
fn product(left: &[f32], right: &[f32], out: &mut [f32]) {
    let cols = out.len();
    out.fill(0.0);
    let (fours, rest) = left.as_chunks::<4>();
    for ([a, b, c, d], rows) in fours.iter().zip(right.chunks_exact(4 * cols)) {
        let (ra, rows) = rows.split_at(cols);
        let (rb, rows) = rows.split_at(cols);
        let (rc, rd) = rows.split_at(cols);
        for ((((out, wa), wb), wc), wd) in out.iter_mut().zip(ra).zip(rb).zip(rc).zip(rd) {
            *out = (((*out + a * wa) + b * wb) + c * wc) + d * wd;
        }
    }
    for (a, row) in rest.iter().zip(right[fours.len() * 4 * cols..].chunks_exact(cols)) {
        out.iter_mut().zip(row).for_each(|(out, value)| *out += a * value);
    }
}

/// Brings the elements of a factor with `rows` rows into the order matrix, row, column.
fn in_rows(values: Vec<f32>, order: Order, matrices: usize, rows: usize) -> Vec<f32> {
    let cols = values.len() / (matrices * rows).max(1);
    match order {
        Order::Rows => values,
        Order::Columns => {
            (0..rows).flat_map(|row| values.iter().skip(row).step_by(rows.max(1)).copied()).collect()
        }
        Order::MatrixFast => (0..matrices)
            .flat_map(|matrix| (0..rows).map(move |row| row * cols * matrices + matrix))
            .flat_map(|start| values[start..].iter().step_by(matrices).take(cols).copied())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_of_stored_factors() {
        let values = |n: usize| (0..n).map(|i| i as f32).collect::<Vec<_>>();
        assert_eq!(in_rows(values(6), Order::Rows, 1, 2), values(6));
        // [cols 2, rows 3]
        assert_eq!(in_rows(values(6), Order::Columns, 1, 3), [0., 3., 1., 4., 2., 5.]);
        // two rows, rank 3, two matrices: row 0 is (k0m0 k0m1 k1m0 k1m1 k2m0 k2m1)
        let expected = [0., 2., 4., 6., 8., 10., 1., 3., 5., 7., 9., 11.];
        assert_eq!(in_rows(values(12), Order::MatrixFast, 2, 2), expected);
    }

    #[test]
    fn a_product_sums_over_every_rank() {
        for rank in [1, 3, 4, 9] {
            let left: Vec<f32> = (0..rank).map(|k| k as f32 + 1.0).collect();
            let right: Vec<f32> = (0..rank * 2).map(|i| i as f32).collect();
            let mut out = [7.0; 2];
            product(&left, &right, &mut out);
            let sum = |col: usize| (0..rank).map(|k| left[k] * right[k * 2 + col]).sum::<f32>();
            assert_eq!(out, [sum(0), sum(1)], "{rank}");
        }
    }
}
