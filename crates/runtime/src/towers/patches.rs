//! The patches of an image.

use rayon::prelude::*;
use tensor::{Error, Result};

use super::TowerForm;
use crate::{Matrix, RowMajor};

/// Colour channels.
const CHANNELS: usize = 3;

/// An image, resized and cut into square patches.
#[derive(Clone, Debug)]
pub struct ImagePatches {
    /// Patches side by side.
    pub columns: usize,
    /// Patches one below the other.
    pub rows: usize,
    /// A row a patch, the grid row by row; values of 0 to 1, in the order pixel row, pixel column, channel.
    pub values: Matrix,
}

impl ImagePatches {
    /// Checks that the patches are a grid of patches of this side, in whole groups of `pooling` along each axis, with positions
    /// in a table of `positions` rows.
    pub(super) fn check(&self, side: u64, pooling: u64, positions: u64) -> Result<()> {
        let width = side * side * CHANNELS as u64;
        let count = self.columns.checked_mul(self.rows);
        if count == Some(0) || count != Some(self.values.nrows()) || self.values.ncols() as u64 != width {
            let found = format!(
                "{} × {} for a grid of {} × {}",
                self.values.nrows(),
                self.values.ncols(),
                self.columns,
                self.rows
            );
            return Err(Error::malformed("image", "not a grid of patches")
                .expected(format!("a row of {width} values a patch"), found));
        }
        for (axis, length) in [("columns", self.columns as u64), ("rows", self.rows as u64)] {
            if !length.is_multiple_of(pooling) {
                return Err(Error::malformed(
                    "image",
                    format!("its {axis} of patches are no whole soft tokens"),
                )
                .expected(format!("a multiple of {pooling}"), length));
            }
            if length > positions {
                return Err(Error::limit(
                    "image",
                    format!("more {axis} of patches than the model has positions"),
                )
                .expected(format!("at most {positions}"), length));
            }
        }
        Ok(())
    }

    /// The values in the order of the columns of a weight: (row, column, channel) in a checkpoint, (channel, row, column) in an mmproj
    /// file; `f` changes each.
    pub(super) fn in_order(&self, form: TowerForm, f: impl Fn(f32) -> f32 + Sync) -> Matrix {
        let mut out = Matrix::zeros(self.values.raw_dim());
        let (cols, pixels) = (self.values.ncols(), self.values.ncols() / CHANNELS);
        let rows = out.values_mut().par_chunks_mut(cols).zip(self.values.values().par_chunks(cols));
        rows.for_each(|(out, patch)| match form {
            TowerForm::Checkpoint => out.iter_mut().zip(patch).for_each(|(out, &x)| *out = f(x)),
            TowerForm::Mmproj => {
                for (channel, out) in out.chunks_exact_mut(pixels).enumerate() {
                    let values = patch[channel..].iter().step_by(CHANNELS);
                    out.iter_mut().zip(values).for_each(|(out, &x)| *out = f(x));
                }
            }
        });
        out
    }
}
