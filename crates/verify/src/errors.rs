//! Step 2, weights: the error of each weight. Both sides are streamed in blocks of rows, in parallel. Sums are f64 and
//! added in row order, so they do not depend on the number of threads.
//!
//! `limits.rs` decides which errors are wrong values, `diagnose.rs` finds the cause.

use checkpoint::{Checkpoint, StoredEncoding};
use gemma::towers::is_bound;
use quant::Simd;
use rayon::prelude::*;
use tensor::{DType, Error, Result, TensorSource};

use crate::artifact::{Artifact, Stored};
use crate::expected::{Expected, ExpectedTensor, Values};
use crate::integers::integers;
use crate::limits::Judge;
use crate::outliers::{self, Group, Row};
use crate::reencode::{self, Bytes, Kept, Reencode, Trust, Verdict};
use crate::structure::comparable;
use crate::sums::Sums;
use crate::{Finding, Tensors, WorstBlock, diagnose, summary};

/// Bytes of decoded weights per worker and side (at least a row).
const BLOCK: u64 = 1 << 20;
/// Weights per block in reports.
pub(crate) const GROUP: usize = 32;
/// The most weights of the tensors compared in one batch. Figures of each row are kept for the duration of a batch.
const BATCH: u64 = 1 << 27;
/// The most bad rows recorded per block of rows.
const REMEMBERED: usize = 4;

/// Compares all tensors that both have. `progress` gets numbers of weights; see [`weights`].
///
/// # Errors
/// `Io`; `Malformed` if the base has values that are not finite.
pub fn tensor_errors<'a>(
    artifact: impl Into<Artifact<'a>>,
    base: &dyn TensorSource,
    expected: &Expected,
    simd: Simd,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(Tensors, Vec<Finding>)> {
    let artifact = artifact.into();
    let folder = match artifact {
        Artifact::Folder(folder) => Some(folder),
        Artifact::Gguf(_) => None,
    };
    compare((artifact.source(), folder), &artifact.stored(), base, expected, simd, progress)
}

/// [`tensor_errors`] of any source; `folder` is the source's folder, if it is one. `stored` has an item for each
/// tensor.
pub(crate) fn compare(
    (artifact, folder): (&dyn TensorSource, Option<&Checkpoint>),
    stored: &[Stored],
    base: &dyn TensorSource,
    expected: &Expected,
    simd: Simd,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(Tensors, Vec<Finding>)> {
    let code = |index| folder.and_then(|folder| Some((folder, folder.encoding(index)?)));
    let pairs: Vec<Pair<'_>> = comparable(artifact.tensors(), expected)
        .into_iter()
        .map(|(index, tensor)| {
            let (stored, code) = (&stored[index], code(index));
            let (quantised, rounded) = (expected.quantised, expected.lenient);
            Pair { artifact, base, index, stored, code, tensor, quantised, rounded, simd }
        })
        .collect();
    let reencode: Vec<Option<Reencode<'_>>> = pairs.iter().map(|pair| Reencode::of(pair, expected)).collect();
    let mut errors = Vec::with_capacity(pairs.len());
    while errors.len() < pairs.len() {
        let first = errors.len();
        let mut weights = 0;
        let fits = |pair: &&Pair<'_>| {
            weights += pair.tensor.desc.elements();
            weights <= BATCH
        };
        let count = pairs[first..].iter().take_while(fits).count().max(1);
        let parts: Vec<(usize, u64, u64)> = (first..first + count)
            .flat_map(|number| pairs[number].parts().map(move |(first, rows)| (number, first, rows)))
            .collect();
        let compared = parts.into_par_iter().map_init(Buffers::default, |buffers, (number, first, rows)| {
            let part = pairs[number].compare(first, rows, reencode[number].as_ref(), buffers)?;
            progress(rows * pairs[number].cols() as u64);
            Ok((number, part))
        });
        errors.resize(first + count, Part::default());
        for (number, part) in compared.collect::<Result<Vec<_>>>()? {
            errors[number].add(part);
        }
        errors[first..].iter_mut().for_each(Part::settle);
    }
    let bytes: Vec<Bytes> = errors.iter_mut().map(|part| std::mem::take(&mut part.bytes)).collect();
    let verdicts = reencode::verdicts(&pairs, &reencode, &bytes, expected.lenient);
    for (part, verdict) in errors.iter_mut().zip(&verdicts) {
        match verdict {
            Verdict::Exact => part.exact = true,
            Verdict::Fault => {}
            Verdict::Otherwise => part.count_outliers(),
        }
    }
    let mut findings = diagnose::findings(&pairs, &errors, expected)?;
    let told =
        |number: usize| errors[number].not_finite > 0 || diagnose::is_wrong(&pairs[number], &errors[number]);
    findings.extend(reencode::findings(&pairs, &reencode, &bytes, &verdicts, told));
    findings.extend(integers(artifact, base, expected)?);
    Ok((summary::tensors(&pairs, &errors, &bytes, &verdicts), findings))
}

/// The number of weights that [`tensor_errors`] compares.
pub fn weights<'a>(artifact: impl Into<Artifact<'a>>, expected: &Expected) -> u64 {
    comparable(artifact.into().source().tensors(), expected)
        .iter()
        .map(|(_, tensor)| tensor.desc.elements())
        .sum()
}

/// A tensor of the artifact with the expected one.
#[derive(Clone, Copy)]
pub(crate) struct Pair<'a> {
    pub(crate) artifact: &'a dyn TensorSource,
    pub(crate) base: &'a dyn TensorSource,
    /// Index in the artifact.
    pub(crate) index: usize,
    pub(crate) stored: &'a Stored,
    /// The folder and encoding of a tensor with separate scales.
    pub(crate) code: Option<(&'a Checkpoint, StoredEncoding)>,
    pub(crate) tensor: &'a ExpectedTensor,
    /// The artifact has a quantized type, and may have been made from a BF16 file.
    pub(crate) quantised: bool,
    /// The base may itself be rounded from the artifact's original.
    pub(crate) rounded: bool,
    /// Vector instructions of codecs.
    pub(crate) simd: Simd,
}

/// Decoded rows of both sides.
#[derive(Default)]
struct Buffers {
    bytes: Vec<u8>,
    x: Vec<f32>,
    y: Vec<f32>,
    blocks: Vec<Sums>,
    reencode: Kept,
}

/// The role whose values are `softplus` of the checkpoint's. torch's depends on its code for the processor, by 1 ulp: another machine's
/// file of llama.cpp's converter is as good.
const SOFTPLUS: &str = "per_dim_scale";

/// Takes the artifact's value for a value of the base that is 1 ulp beside it.
fn take_neighbours(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        if x.to_bits().abs_diff(y.to_bits()) == 1 {
            *x = *y;
        }
    }
}

impl Pair<'_> {
    pub(crate) fn name(&self) -> &str {
        &self.tensor.desc.name
    }

    pub(crate) fn cols(&self) -> usize {
        self.tensor.desc.cols() as usize
    }

    pub(crate) fn rows(&self) -> u64 {
        self.tensor.desc.rows()
    }

    /// The type in the artifact.
    pub(crate) fn dtype(&self) -> DType {
        self.stored.desc.dtype
    }

    /// The type in the base.
    pub(crate) fn base_dtype(&self) -> DType {
        match self.tensor.from {
            Values::Base(index) => self.base.tensors()[index].dtype,
            Values::Generated(_) => DType::F32,
        }
    }

    pub(crate) fn judge(&self) -> Judge {
        match self.tensor.fitted {
            true => Judge::FITTED,
            false => {
                let via =
                    self.tensor.rounding.via.is_some() || self.quantised && self.tensor.desc.shape.len() > 1;
                Judge::of(self.base_dtype(), self.dtype(), self.stored.scale, via, self.rounded)
            }
        }
    }

    /// Rows per slice along the first of three dimensions (an expert); otherwise all rows.
    pub(crate) fn slice_rows(&self) -> u64 {
        match self.tensor.desc.shape.as_slice() {
            [_, rows, _] => *rows,
            _ => self.rows(),
        }
    }

    /// First rows and row counts. No part spans two slices.
    fn parts(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        let slice = self.slice_rows().max(1);
        let step = (BLOCK / (4 * self.cols().max(1)) as u64).clamp(1, slice);
        let rows = self.rows();
        (0..rows).step_by(slice as usize).flat_map(move |start| {
            let end = start + slice;
            (start..end).step_by(step as usize).map(move |first| (first, step.min(end - first)))
        })
    }

    /// Whether values of the base can be encoded. Values that are not finite are reported elsewhere; a tower's limits
    /// are copied.
    fn is_encodable(&self, x: &[f32]) -> bool {
        !self.dtype().is_quantized() || quant::first_beyond(x, f32::MAX).is_none()
    }

    /// Reads rows of the artifact from `first` on into `out`.
    pub(crate) fn read(&self, first: u64, bytes: &mut Vec<u8>, out: &mut [f32]) -> Result<()> {
        read(self.simd, self.artifact, self.index, first, bytes, out)
    }

    /// Reads the expected values of rows from `first` on into `out`.
    pub(crate) fn read_base(&self, first: u64, bytes: &mut Vec<u8>, out: &mut [f32]) -> Result<()> {
        match &self.tensor.from {
            Values::Base(index) => read(self.simd, self.base, *index, first, bytes, out),
            Values::Generated(values) => {
                let start = first as usize * self.cols();
                out.copy_from_slice(&values[start..start + out.len()]);
                Ok(())
            }
        }
    }

    fn compare(
        &self,
        first: u64,
        rows: u64,
        reencode: Option<&Reencode<'_>>,
        buffers: &mut Buffers,
    ) -> Result<Part> {
        let Buffers { bytes, x, y, blocks, reencode: kept } = buffers;
        let (cols, count) = (self.cols(), rows as usize * self.cols());
        for values in [&mut *x, &mut *y] {
            values.resize(count.max(values.len()), 0.0);
        }
        let (x, y) = (&mut x[..count], &mut y[..count]);
        self.read_base(first, bytes, x)?;
        self.read(first, bytes, y)?;
        if self.tensor.role == SOFTPLUS {
            take_neighbours(x, y);
        }
        let mut part = Part::default();
        if let Some(reencode) = reencode.filter(|_| self.is_encodable(x)) {
            part.bytes = reencode.compare(self, first, (&*x, &*y), kept)?;
        }
        if self.tensor.role == plan::OTHER || is_bound(self.tensor.role) {
            drop_equal(x, y);
        }
        if let Some(at) = quant::first_beyond(x, f32::MAX) {
            let place = format!("row {}, column {}", first + (at / cols) as u64, at % cols);
            return Err(Error::malformed(
                format!("tensor {}", self.name()),
                "the base holds values that are not finite",
            )
            .expected("finite weights", format!("{} in {place}", x[at])));
        }
        part.drop_not_finite(first, cols, x, y);
        let judge = self.judge();
        let mut groups = Vec::new();
        for (row, (x, y)) in (first..).zip(x.chunks_exact(cols).zip(y.chunks_exact(cols))) {
            blocks.clear();
            blocks.extend(x.chunks(GROUP).zip(y.chunks(GROUP)).map(|(x, y)| Sums::of(x, y)));
            let total = part.add_row(row, blocks);
            // only rows whose bytes are not known to be right; adjusted weights may differ
            if let Judge::Blocks(limits) = &judge
                && (part.bytes.differing > 0 || reencode.is_none())
                && !self.tensor.fitted
            {
                part.rows.push(Row::of(row, blocks, limits.beneath(cols)));
                // error feedback moves errors between blocks; importance weights alone do not
                let by_block = reencode.is_some_and(|reencode| reencode.trust == Trust::Importance);
                let unit = if by_block { limits.block_len() } else { cols };
                let largest: Vec<f32> = x.chunks(unit).map(quant::max_abs).collect();
                let of_row = blocks.iter().enumerate().filter_map(|(at, sums)| {
                    let column = at * GROUP;
                    Group::of(row, column, largest[column / unit], sums, limits.beneath(GROUP))
                });
                groups.extend(of_row);
            }
            let bad = match judge {
                Judge::Values { relative, absolute } => {
                    let beyond = |(x, y): (&f32, &f32)| {
                        let (x, y) = (f64::from(*x), f64::from(*y));
                        (y - x).abs() > relative * x.abs() + absolute
                    };
                    x.iter().zip(y).position(beyond)
                }
                // every block is one that the checkpoint gives
                Judge::Blocks(_) if part.bytes.blocks > 0 && part.bytes.differing == 0 => None,
                Judge::Blocks(limits) => limits.first_wrong(blocks, cols, total),
            };
            if let Some(column) = bad {
                part.bad_row(row, column);
            }
        }
        part.groups = outliers::groups_far_off(&groups);
        Ok(part)
    }
}

/// Zeroes values that are not finite and equal on both sides: towers may have clamps at infinity.
fn drop_equal(x: &mut [f32], y: &mut [f32]) {
    let same = |(x, y): &(&mut f32, &mut f32)| !x.is_finite() && x.to_bits() == y.to_bits();
    x.iter_mut().zip(y).filter(same).for_each(|(x, y)| (*x, *y) = (0.0, 0.0));
}

pub(crate) fn read(
    simd: Simd,
    source: &dyn TensorSource,
    index: usize,
    first: u64,
    bytes: &mut Vec<u8>,
    out: &mut [f32],
) -> Result<()> {
    let desc = &source.tensors()[index];
    let len = out.len() / desc.dtype.block_len() * desc.dtype.block_bytes();
    bytes.resize(len.max(bytes.len()), 0);
    source.read_rows(index, first, &mut bytes[..len])?;
    quant::decode(simd, desc.dtype, &bytes[..len], out);
    Ok(())
}

/// Result for some rows of a tensor.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part {
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
    /// All blocks are those that the checkpoint gives, so no limit applies.
    pub(crate) exact: bool,
    /// Comparison of the bytes with those that the checkpoint gives.
    pub(crate) bytes: Bytes,
    /// Scales of rows whose bytes are not known to be right.
    pub(crate) rows: Vec<Row>,
    /// Numbers of the outlier rows.
    outliers: Vec<u64>,
    /// Outlier groups among those of one block of rows.
    groups: Vec<Group>,
}

impl Part {
    /// Finds the outlier rows, once all rows are added.
    fn settle(&mut self) {
        self.outliers = outliers::outliers(&std::mem::take(&mut self.rows));
    }

    /// Counts outlier rows and groups as wrong rows.
    fn count_outliers(&mut self) {
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

    pub(crate) fn add(&mut self, other: Part) {
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
    fn drop_not_finite(&mut self, first: u64, cols: usize, x: &mut [f32], y: &mut [f32]) {
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

    fn bad_row(&mut self, row: u64, column: usize) {
        self.bad_rows += 1;
        self.first_bad.get_or_insert((row, column));
        self.last_bad = row;
        if self.some_bad.len() < REMEMBERED {
            self.some_bad.push(row);
        }
    }
}
