//! The tensors that together store one quantised weight.

use std::collections::HashMap;

use serde_json::Value;
use tensor::{DType, Error, Result, TensorDesc};

use crate::Checkpoint;
use crate::open::Location;
use crate::pieces::Entry;
use crate::table::PackedRow;

/// A tensor as a file stores it.
#[derive(Clone, Debug)]
pub(crate) struct StoredPart {
    pub(crate) desc: TensorDesc,
    pub(crate) location: Location,
}

impl StoredPart {
    /// Reads `bytes` from byte `at` of the tensor on.
    ///
    /// # Errors
    /// Those of [`Checkpoint::read_at`].
    pub(crate) fn read(&self, checkpoint: &Checkpoint, at: u64, bytes: u64) -> Result<Vec<u8>> {
        let mut out = vec![0; bytes as usize];
        self.read_into(checkpoint, at, &mut out)?;
        Ok(out)
    }

    /// As [`read`](Self::read), until `out` is full.
    pub(crate) fn read_into(&self, checkpoint: &Checkpoint, at: u64, out: &mut [u8]) -> Result<()> {
        checkpoint.read_at(self.location.shard, self.location.offset + at, out)
    }

    /// Reads the whole tensor, of floats.
    pub(crate) fn floats(&self, checkpoint: &Checkpoint) -> Result<Vec<f32>> {
        checkpoint.floats_at(self.location, &self.desc)
    }

    /// The error for a tensor with another type or shape.
    pub(crate) fn wrong(&self, problem: &str, expected: impl std::fmt::Display) -> Error {
        Error::malformed(format!("tensor {}", self.desc.name), problem)
            .expected(expected, format!("{} {:?}", self.desc.dtype, self.desc.shape))
    }

    /// Checks the type.
    ///
    /// # Errors
    /// `Malformed`.
    pub(crate) fn typed(self, dtypes: &[DType]) -> Result<StoredPart> {
        if dtypes.contains(&self.desc.dtype) {
            return Ok(self);
        }
        let names: Vec<_> = dtypes.iter().map(|dtype| dtype.name()).collect();
        Err(self.wrong("wrong type for a part of a quantised weight", names.join(" or ")))
    }

    /// Checks that there are elements: then the file bounds all lengths.
    ///
    /// # Errors
    /// `Malformed`.
    pub(crate) fn filled(self) -> Result<StoredPart> {
        if self.desc.elements() > 0 {
            return Ok(self);
        }
        Err(self.wrong("a part of a quantised weight is empty", "elements"))
    }

    /// Checks the shape.
    ///
    /// # Errors
    /// `Malformed`.
    pub(crate) fn shaped(self, shape: &[u64]) -> Result<StoredPart> {
        if self.desc.shape == shape {
            return Ok(self);
        }
        Err(self.wrong("wrong shape for a part of a quantised weight", format!("{shape:?}")))
    }
}

/// Float types of scales.
pub(crate) const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// One weight's tensors, and what `config.json` says about it.
pub(crate) struct Parts<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) entries: &'a [Entry],
    pub(crate) numbers: &'a HashMap<String, usize>,
    pub(crate) row: &'a PackedRow,
    /// Index of the codes.
    pub(crate) number: usize,
    /// The quantisation entry of `config.json`.
    pub(crate) config: &'a Value,
}

impl Parts<'_> {
    fn stored(&self, number: usize) -> StoredPart {
        let entry = &self.entries[number];
        StoredPart { desc: entry.desc.clone(), location: entry.pieces[0].location }
    }

    fn stem(&self) -> &str {
        let name = self.entries[self.number].desc.name.as_str();
        name.strip_suffix(self.row.codes.as_str()).unwrap_or(name)
    }

    /// Name of the decoded tensor.
    pub(crate) fn name(&self) -> String {
        format!("{}{}", self.stem(), self.row.weight)
    }

    /// The tensor with the codes.
    pub(crate) fn codes(&self) -> StoredPart {
        self.stored(self.number)
    }

    /// The part with this end of its name, if it exists.
    pub(crate) fn get(&self, suffix: &str) -> Option<StoredPart> {
        let number = self.numbers.get(&format!("{}{suffix}", self.stem()))?;
        Some(self.stored(*number))
    }

    /// As [`get`](Self::get).
    ///
    /// # Errors
    /// `Malformed` if it is missing or empty.
    pub(crate) fn need(&self, suffix: &str) -> Result<StoredPart> {
        let part = self.get(suffix).ok_or_else(|| {
            let name = format!("{}{suffix}", self.stem());
            Error::malformed(
                format!("tensor {}", self.codes().desc.name),
                format!("a part of the quantised weight is missing: {name}"),
            )
            .expected(&name, "no such tensor")
            .help("Is every shard there? Codes without their scales are worth nothing.")
        })?;
        part.filled()
    }

    /// The zero points, if they exist.
    ///
    /// # Errors
    /// `Malformed` if they are missing though every group of compressed-tensors' config has them.
    pub(crate) fn zero_points(&self, suffix: &str) -> Result<Option<StoredPart>> {
        let groups = self.config["config_groups"].as_object();
        let has_all = groups.is_some_and(|groups| {
            !groups.is_empty() && groups.values().all(|group| group["weights"]["symmetric"] == false)
        });
        if has_all { self.need(suffix).map(Some) } else { Ok(self.get(suffix)) }
    }

    /// The only value of a part.
    ///
    /// # Errors
    /// `Malformed` if it is missing, or not one positive F32.
    pub(crate) fn one(&self, suffix: &str) -> Result<f32> {
        let part = self.need(suffix)?.typed(&[DType::F32])?;
        if part.desc.elements() != 1 {
            return Err(part.wrong("not the scale of a tensor", "one value"));
        }
        let value = part.floats(self.checkpoint)?[0];
        if value.is_finite() && value > 0.0 {
            return Ok(value);
        }
        let place = format!("tensor {}", part.desc.name);
        Err(Error::malformed(place, "not a usable scale").expected("a positive number", value))
    }

    /// The numbers of all parts that exist, the codes among them.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = usize> {
        let stem = self.stem();
        let parts = self.row.parts.iter().filter_map(move |part| self.numbers.get(&format!("{stem}{part}")));
        parts.copied().chain([self.number])
    }
}

/// The number of columns of a group, if `groups` of equal size cover `cols` columns.
///
/// # Errors
/// `Malformed`, at the tensor `part` with one column a group.
pub(crate) fn group_size(part: &StoredPart, groups: u64, cols: u64) -> Result<u64> {
    match cols.checked_div(groups) {
        Some(size) if size > 0 && size * groups == cols => Ok(size),
        _ => Err(part.wrong(
            "its groups do not divide the columns",
            format!("a number of groups that divides {cols} columns"),
        )),
    }
}
