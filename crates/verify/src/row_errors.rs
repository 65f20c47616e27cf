//! Errors of the rows of a tensor, added up: what a comparison measures, and what the verdict is drawn from.

use serde::{Deserialize, Serialize};

use crate::WorstBlock;
use crate::errors::GROUP;
use crate::outliers::{self, Group, Row};
use crate::reencode::Bytes;
use crate::sums::Sums;

/// The most bad rows recorded per block of rows.
const REMEMBERED: usize = 4;

/// Errors of some rows of a tensor, or of all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RowErrors {
    pub(crate) sums: Sums,
    pub(crate) worst: WorstBlock,
    /// Σxy and Σx² of the groups that are not all zeros in the artifact, as an importance of zero makes them.
    pub(crate) shown: (f64, f64),
    /// Number of values of the artifact that are not finite, and the first (row, column). The sums exclude them.
    pub(crate) not_finite: u64,
    pub(crate) first_not_finite: Option<(u64, usize)>,
    /// Number of rows with wrong values, and the first wrong place (row, column).
    pub(crate) bad_rows: u64,
    pub(crate) first_bad: Option<(u64, usize)>,
    /// Some of the bad rows, in order.
    pub(crate) some_bad: Vec<u64>,
    pub(crate) last_bad: u64,
    /// All blocks are those that the checkpoint gives, so no limit applies. Known once all tensors are there.
    #[serde(skip)]
    pub(crate) exact: bool,
    /// Comparison of the bytes with those that the checkpoint gives.
    pub(crate) bytes: Bytes,
    /// Scales of rows whose bytes are not known to be right. Empty once all rows are there.
    #[serde(skip)]
    pub(crate) rows: Vec<Row>,
    /// Numbers of the outlier rows.
    outliers: Vec<u64>,
    /// Outlier groups among those of one block of rows.
    pub(crate) groups: Vec<Group>,
}

impl RowErrors {
    /// Finds the outlier rows, once all rows are added.
    pub(crate) fn settle(&mut self) {
        self.outliers = outliers::outliers(&std::mem::take(&mut self.rows));
    }

    /// Counts outlier rows and groups as wrong rows.
    pub(crate) fn count_outliers(&mut self) {
        let rows = std::mem::take(&mut self.outliers).into_iter().map(|row| (row, 0));
        let groups = std::mem::take(&mut self.groups).into_iter().map(|group| (group.row, group.column));
        let mut found: Vec<(u64, usize)> = groups.chain(rows).collect();
        found.sort_unstable();
        found.dedup_by_key(|(row, _)| *row);
        for (row, column) in found {
            if self.bad_rows == 0 || self.last_bad < row {
                self.bad_row(row, column);
            } else if !self.some_bad.contains(&row) {
                self.bad_rows += 1;
            }
        }
    }

    pub(crate) fn add(&mut self, other: RowErrors) {
        self.sums = self.sums.plus(other.sums);
        self.shown = (self.shown.0 + other.shown.0, self.shown.1 + other.shown.1);
        if other.worst.relative > self.worst.relative {
            self.worst = other.worst;
        }
        self.not_finite += other.not_finite;
        self.first_not_finite = self.first_not_finite.or(other.first_not_finite);
        if other.bad_rows > 0 {
            self.last_bad = other.last_bad;
        }
        self.bad_rows += other.bad_rows;
        self.first_bad = self.first_bad.or(other.first_bad);
        self.some_bad.extend(other.some_bad);
        self.bytes.add(&other.bytes);
        self.rows.extend(other.rows);
        self.groups.extend(other.groups);
    }

    /// Counts values that are not finite and zeroes them on both sides.
    pub(crate) fn drop_not_finite(&mut self, first: u64, cols: usize, x: &mut [f32], y: &mut [f32]) {
        if quant::first_beyond(y, f32::MAX).is_none() {
            return;
        }
        for (at, (x, y)) in x.iter_mut().zip(y).enumerate().filter(|(_, (_, y))| !y.is_finite()) {
            (*x, *y) = (0.0, 0.0);
            self.not_finite += 1;
            self.first_not_finite.get_or_insert((first + (at / cols) as u64, at % cols));
        }
    }

    /// The least-squares factor from the base to the artifact; 0 for an artifact of zeros.
    pub(crate) fn scale(&self) -> f64 {
        match self.shown {
            (xy, xx) if xx > 0.0 => xy / xx,
            _ if self.sums.xx > 0.0 => 0.0,
            _ => 1.0,
        }
    }

    pub(crate) fn add_row(&mut self, row: u64, blocks: &[Sums]) -> Sums {
        let mut total = Sums::default();
        for (number, block) in blocks.iter().enumerate() {
            total = total.plus(*block);
            if block.yy > 0.0 {
                self.shown = (self.shown.0 + block.xy, self.shown.1 + block.xx);
            }
            if block.xx > 0.0 && block.relative() > self.worst.relative {
                let column = (number * GROUP) as u64;
                self.worst = WorstBlock { row, column, relative: block.relative() };
            }
        }
        self.sums = self.sums.plus(total);
        total
    }

    pub(crate) fn bad_row(&mut self, row: u64, column: usize) {
        self.bad_rows += 1;
        self.first_bad.get_or_insert((row, column));
        self.last_bad = row;
        if self.some_bad.len() < REMEMBERED {
            self.some_bad.push(row);
        }
    }
}
