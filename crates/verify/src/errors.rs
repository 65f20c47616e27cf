//! Step 2, weights: the error of each weight. Both sides are streamed in blocks of rows, in parallel. Sums are f64 and
//! added in row order, so they do not depend on the number of threads.
//!
//! `limits.rs` decides which errors are wrong values, `diagnose.rs` finds the cause.

use std::ops::Range;

use base::{Part, Sha256};
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
use crate::row_errors::RowErrors;
use crate::structure::comparable;
use crate::sums::Sums;
use crate::{Finding, Tensors, diagnose, summary};

/// Bytes of decoded weights per worker and side (at least a row).
const BLOCK: u64 = 1 << 20;
/// Weights per block in reports.
pub(crate) const GROUP: usize = 32;
/// The most weights of the tensors compared in one batch. Figures of each row are kept for the duration of a batch.
const BATCH: u64 = 1 << 27;

/// Compares all tensors that both have. `progress` gets numbers of weights.
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
    let stored = artifact.stored();
    let comparison = TensorComparison::new(artifact, &stored, base, expected, simd);
    comparison.judge(comparison.measure(Part::default(), progress)?)
}

/// The comparison of an artifact's weights with the expected ones: errors are measured tensor by tensor, and judged together.
pub struct TensorComparison<'a> {
    artifact: &'a dyn TensorSource,
    base: &'a dyn TensorSource,
    expected: &'a Expected,
    pairs: Vec<Pair<'a>>,
    reencode: Vec<Option<Reencode<'a>>>,
}

impl<'a> TensorComparison<'a> {
    /// The tensors that both have. `stored` are [`Artifact::stored`] of the artifact.
    pub fn new(
        artifact: Artifact<'a>,
        stored: &'a [Stored],
        base: &'a dyn TensorSource,
        expected: &'a Expected,
        simd: Simd,
    ) -> TensorComparison<'a> {
        let folder = match artifact {
            Artifact::Folder(folder) => Some(folder),
            Artifact::Gguf(_) => None,
        };
        TensorComparison::of((artifact.source(), folder), stored, base, expected, simd)
    }

    /// [`new`](Self::new) of any source; `folder` is the source's folder, if it is one. `stored` has an item for each tensor.
    pub(crate) fn of(
        (artifact, folder): (&'a dyn TensorSource, Option<&'a Checkpoint>),
        stored: &'a [Stored],
        base: &'a dyn TensorSource,
        expected: &'a Expected,
        simd: Simd,
    ) -> TensorComparison<'a> {
        let code = |index| folder.and_then(|folder| Some((folder, folder.encoding(index)?)));
        let pairs: Vec<Pair<'_>> = comparable(artifact.tensors(), expected)
            .into_iter()
            .map(|(index, tensor)| {
                let (stored, code) = (&stored[index], code(index));
                let (quantised, rounded) = (expected.quantised, expected.lenient);
                Pair { artifact, base, index, stored, code, tensor, quantised, rounded, simd }
            })
            .collect();
        let reencode = pairs.iter().map(|pair| Reencode::of(pair, expected)).collect();
        TensorComparison { artifact, base, expected, pairs, reencode }
    }

    /// The tensors of a part: whole ones, because the rows of a tensor are judged together.
    fn tensors_of(&self, part: Part) -> Range<usize> {
        part.units(&self.pairs.iter().map(|pair| pair.tensor.desc.elements()).collect::<Vec<_>>())
    }

    /// A digest of the tensors and of how each is quantized again. Errors that were measured with another digest do not belong together.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (pair, reencode) in self.pairs.iter().zip(&self.reencode) {
            let ways = reencode.as_ref().map(Reencode::description);
            hash.update(format!("{} {} {:?} {ways:?}\n", pair.name(), pair.dtype(), pair.tensor.rounding));
        }
        base::hex(&hash.finish())
    }

    /// The number of weights in a part.
    pub fn weights(&self, part: Part) -> u64 {
        self.pairs[self.tensors_of(part)].iter().map(|pair| pair.tensor.desc.elements()).sum()
    }

    /// Measures the errors of the tensors of a part. `progress` gets numbers of weights; see [`weights`](Self::weights).
    ///
    /// # Errors
    /// `Io`; `Malformed` if the base has values that are not finite.
    pub fn measure(&self, part: Part, progress: &(dyn Fn(u64) + Sync)) -> Result<Vec<RowErrors>> {
        let tensors = self.tensors_of(part);
        let (pairs, reencode) = (&self.pairs[tensors.clone()], &self.reencode[tensors]);
        let mut errors = Vec::with_capacity(pairs.len());
        while errors.len() < pairs.len() {
            let first = errors.len();
            let mut weights = 0;
            let fits = |pair: &&Pair<'_>| {
                weights += pair.tensor.desc.elements();
                weights <= BATCH
            };
            let count = pairs[first..].iter().take_while(fits).count().max(1);
            let blocks: Vec<(usize, u64, u64)> = (first..first + count)
                .flat_map(|number| pairs[number].blocks().map(move |(first, rows)| (number, first, rows)))
                .collect();
            let compared =
                blocks.into_par_iter().map_init(Buffers::default, |buffers, (number, first, rows)| {
                    let of_block = pairs[number].compare(first, rows, reencode[number].as_ref(), buffers)?;
                    progress(rows * pairs[number].cols() as u64);
                    Ok((number, of_block))
                });
            errors.resize(first + count, RowErrors::default());
            for (number, of_block) in compared.collect::<Result<Vec<_>>>()? {
                errors[number].add(of_block);
            }
            errors[first..].iter_mut().for_each(RowErrors::settle);
        }
        Ok(errors)
    }

    /// The figures of the weights, and the findings. `errors` are those of all tensors: of all parts, in order.
    ///
    /// # Errors
    /// `Malformed` for the errors of fewer or more tensors; `Io`.
    pub fn judge(&self, mut errors: Vec<RowErrors>) -> Result<(Tensors, Vec<Finding>)> {
        let TensorComparison { artifact, base, expected, pairs, reencode } = self;
        if errors.len() != pairs.len() {
            return Err(Error::malformed("parts", "the errors of other tensors than those of the artifact")
                .expected(format!("{} tensors", pairs.len()), errors.len()));
        }
        let bytes: Vec<Bytes> = errors.iter_mut().map(|errors| std::mem::take(&mut errors.bytes)).collect();
        let verdicts = reencode::verdicts(pairs, reencode, &bytes, expected.lenient);
        for (errors, verdict) in errors.iter_mut().zip(&verdicts) {
            match verdict {
                Verdict::Exact => errors.exact = true,
                Verdict::Fault => {}
                Verdict::Otherwise => errors.count_outliers(),
            }
        }
        let mut findings = diagnose::findings(pairs, &errors, expected)?;
        let told = |number: usize| {
            errors[number].not_finite > 0 || diagnose::is_wrong(&pairs[number], &errors[number])
        };
        findings.extend(reencode::findings(pairs, reencode, &bytes, &verdicts, told));
        findings.extend(integers(*artifact, *base, expected)?);
        Ok((summary::tensors(pairs, &errors, &bytes, &verdicts), findings))
    }
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

    /// First rows and row counts of blocks of rows. No block spans two slices.
    fn blocks(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
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
    ) -> Result<RowErrors> {
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
        let mut errors = RowErrors::default();
        if let Some(reencode) = reencode.filter(|_| self.is_encodable(x)) {
            errors.bytes = reencode.compare(self, first, (&*x, &*y), kept)?;
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
        errors.drop_not_finite(first, cols, x, y);
        let judge = self.judge();
        let mut groups = Vec::new();
        for (row, (x, y)) in (first..).zip(x.chunks_exact(cols).zip(y.chunks_exact(cols))) {
            blocks.clear();
            blocks.extend(x.chunks(GROUP).zip(y.chunks(GROUP)).map(|(x, y)| Sums::of(x, y)));
            let total = errors.add_row(row, blocks);
            // only rows whose bytes are not known to be right; adjusted weights may differ
            if let Judge::Blocks(limits) = &judge
                && (errors.bytes.differing > 0 || reencode.is_none())
                && !self.tensor.fitted
            {
                errors.rows.push(Row::of(row, blocks, limits.beneath(cols)));
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
                Judge::Blocks(_) if errors.bytes.blocks > 0 && errors.bytes.differing == 0 => None,
                Judge::Blocks(limits) => limits.first_wrong(blocks, cols, total),
            };
            if let Some(column) = bad {
                errors.bad_row(row, column);
            }
        }
        errors.groups = outliers::groups_far_off(&groups);
        Ok(errors)
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
