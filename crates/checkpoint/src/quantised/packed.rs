//! A weight that is stored as codes with scales: its rows are decoded on demand, from the ranges of the files that hold
//! them.

use tensor::{DType, Error, Result};

use super::codes::Codes;
use super::grid::Grid;
use super::parts::StoredPart;
use crate::Checkpoint;
use crate::round::round;

/// How codes become values. Every operation is f32; the result is rounded to the type of the weight once more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rule {
    /// (code − offset) · scale
    ZeroPoint,
    /// code · scale, rounded to the type, + offset: MLX on the CPU
    Affine,
    /// code · scale + offset
    Sum,
    /// code · scale · factor
    Factor(f32),
}

/// The scales that belong to a column.
#[derive(Clone, Debug)]
pub(crate) enum Groups {
    /// Groups of so many columns; the last one may be shorter.
    Even(u64),
    /// Blocks of so many values of the whole tensor, which may reach over the end of a row.
    Flat(u64),
    /// A number of a group for each column (I32).
    Listed(StoredPart),
}

/// A packed weight.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    /// Name of the decoded tensor.
    pub(crate) name: String,
    /// The type of the values: that which the library decodes to.
    pub(crate) dtype: DType,
    /// Shape of the decoded tensor.
    pub(crate) shape: Vec<u64>,
    /// Kind of quantisation, for people.
    pub(crate) kind: String,
    pub(crate) codes: Codes,
    pub(crate) scales: Grid,
    pub(crate) offsets: Option<Grid>,
    pub(crate) groups: Groups,
    pub(crate) rule: Rule,
}

impl Packed {
    /// Decodes the rows from `first` on into `out`, in the type of the weight.
    ///
    /// # Errors
    /// `Malformed` for a number of a group that does not exist and for values that are not finite; those of
    /// [`Checkpoint::read_at`].
    pub(crate) fn read(&self, checkpoint: &Checkpoint, first: u64, out: &mut [u8]) -> Result<()> {
        let shard = self.codes.part.location.shard;
        let within = |e: Error| {
            e.within(format!("{}: tensor {}", checkpoint.shards()[shard].path.display(), self.name))
        };
        let cols = self.codes.cols as usize;
        let rows = (out.len() / self.dtype.block_bytes() / cols) as u64;
        let values = self.values(checkpoint, first, rows).map_err(within)?;
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            let place = format!("row {}, column {}", first + (at / cols) as u64, at % cols);
            return Err(within(
                Error::malformed(place, "not a finite value").expected("a finite number", values[at]),
            ));
        }
        match self.dtype {
            DType::F32 => {
                out.as_chunks_mut::<4>().0.iter_mut().zip(&values).for_each(|(o, v)| *o = v.to_le_bytes());
            }
            dtype => quant::encode(checkpoint.simd, dtype, cols, &values, None, out),
        }
        Ok(())
    }

    fn values(&self, checkpoint: &Checkpoint, first: u64, rows: u64) -> Result<Vec<f32>> {
        let cols = self.codes.cols;
        let mut values = self.codes.read(checkpoint, first, rows)?;
        let (start, count) = match self.groups {
            Groups::Flat(size) => {
                let start = first * cols / size;
                (start, ((first + rows) * cols).div_ceil(size) - start)
            }
            Groups::Even(_) | Groups::Listed(_) => (first, rows),
        };
        let scales = self.scales.read(checkpoint, start, count)?;
        let offsets = self.offsets.as_ref().map(|grid| grid.read(checkpoint, start, count)).transpose()?;
        let listed = self.listed(checkpoint)?;
        let runs = Runs { packed: self, first, start, listed: &listed };
        match (self.rule, &offsets) {
            (Rule::ZeroPoint, Some(offsets)) => runs.apply(&mut values, |run, at| {
                run.iter_mut().for_each(|value| *value = (*value - offsets[at]) * scales[at]);
            }),
            (Rule::Factor(factor), _) => runs.apply(&mut values, |run, at| {
                run.iter_mut().for_each(|value| *value = *value * scales[at] * factor);
            }),
            (Rule::ZeroPoint | Rule::Affine | Rule::Sum, _) => {
                runs.apply(&mut values, |run, at| run.iter_mut().for_each(|value| *value *= scales[at]));
            }
        }
        if let (Rule::Affine | Rule::Sum, Some(offsets)) = (self.rule, &offsets) {
            if self.rule == Rule::Affine {
                round(checkpoint.simd, self.dtype, &mut values, &mut Vec::new());
            }
            runs.apply(&mut values, |run, at| run.iter_mut().for_each(|value| *value += offsets[at]));
        }
        Ok(values)
    }

    /// The group of each column, if the groups are listed.
    fn listed(&self, checkpoint: &Checkpoint) -> Result<Vec<usize>> {
        let Groups::Listed(part) = &self.groups else { return Ok(Vec::new()) };
        let bytes = part.read(checkpoint, 0, self.codes.cols * 4)?;
        let groups = self.scales.groups;
        let group = |(col, word): (usize, &[u8; 4])| {
            let group = i32::from_le_bytes(*word);
            u64::try_from(group).ok().filter(|group| *group < groups).map(|group| group as usize).ok_or_else(
                || {
                    Error::malformed(format!("tensor {}, column {col}", part.desc.name), "no such group")
                        .expected(format!("0 to {}", groups - 1), group)
                },
            )
        };
        bytes.as_chunks::<4>().0.iter().enumerate().map(group).collect()
    }
}

/// The values that share a scale, in rows from `first` on.
struct Runs<'a> {
    packed: &'a Packed,
    first: u64,
    /// The first block of the scales that were read, of flat groups.
    start: u64,
    listed: &'a [usize],
}

impl Runs<'_> {
    /// Calls `f` for each run of values with the index of its scale.
    fn apply(&self, values: &mut [f32], mut f: impl FnMut(&mut [f32], usize)) {
        let (cols, per_row) = (self.packed.codes.cols, self.packed.scales.groups as usize);
        for (row, mut rest) in values.chunks_exact_mut(cols as usize).enumerate() {
            let mut col = 0;
            while !rest.is_empty() {
                let (at, len) = match self.packed.groups {
                    Groups::Even(size) => (row * per_row + (col / size) as usize, size - col % size),
                    Groups::Flat(size) => {
                        let element = (self.first + row as u64) * cols + col;
                        ((element / size - self.start) as usize, size - element % size)
                    }
                    Groups::Listed(_) => (row * per_row + self.listed[col as usize], 1),
                };
                let run;
                (run, rest) = rest.split_at_mut((len as usize).min(rest.len()));
                col += run.len() as u64;
                f(run, at);
            }
        }
    }
}
