//! Rows of a checkpoint as f32.

use quant::Simd;
use tensor::{DType, Error, Result, TensorDesc, TensorSource};

/// Values that are read and encoded at a time: 1 MiB of f32, or a row.
const CHUNK: u64 = 1 << 18;

/// Number of rows of `cols` values that are encoded at a time.
pub fn rows_at_once(cols: u64) -> u64 {
    (CHUNK / cols.max(1)).max(1)
}

/// Writes values as the bytes of f32.
pub(crate) fn put(values: impl IntoIterator<Item = f32>, out: &mut [u8]) {
    out.as_chunks_mut().0.iter_mut().zip(values).for_each(|(out, value)| *out = value.to_le_bytes());
}

/// A tensor of a checkpoint.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    source: &'a dyn TensorSource,
    index: usize,
}

impl<'a> Weights<'a> {
    /// # Errors
    /// `Unsupported` for a type whose values are not known without a scale or that has no decoder.
    pub(crate) fn new(source: &'a dyn TensorSource, index: usize) -> Result<Weights<'a>> {
        let weights = Weights { source, index };
        let dtype = weights.desc().dtype;
        if !quant::can_encode(dtype) || quant::scale_is_apart(dtype) {
            return Err(Error::unsupported(
                format!("tensor {}", weights.desc().name),
                "its type is not decoded",
            )
            .expected("f32, f16 or bf16", dtype));
        }
        Ok(weights)
    }

    pub(crate) fn desc(&self) -> &'a TensorDesc {
        &self.source.tensors()[self.index]
    }

    /// True for values that may be codes times a scale without a further rounding, as those of decoded checkpoints.
    pub(crate) fn may_be_grid(&self) -> bool {
        self.desc().dtype == DType::F32
    }

    pub(crate) fn has_shape(&self, rows: u64, cols: u64) -> bool {
        (self.desc().rows(), self.desc().cols()) == (rows, cols)
    }

    /// The values of whole rows.
    ///
    /// # Errors
    /// Those of the source; `Malformed` for values that are not finite.
    pub(crate) fn rows(&self, first: u64, count: u64) -> Result<Vec<f32>> {
        let desc = self.desc();
        let values = quant::decode_rows(Simd::detect(), self.source, self.index, first..first + count)?;
        if let Some(at) = quant::first_beyond(&values, f32::MAX) {
            let row = first + at as u64 / desc.cols();
            return Err(Error::malformed(
                format!("tensor {}", desc.name),
                format!("row {row} is not finite"),
            )
            .expected("numbers", values[at]));
        }
        Ok(values)
    }

    /// True if both have the same values.
    ///
    /// # Errors
    /// Those of [`rows`](Self::rows).
    pub(crate) fn equal(&self, other: &Weights<'_>) -> Result<bool> {
        let a = self.desc();
        if !other.has_shape(a.rows(), a.cols()) {
            return Ok(false);
        }
        let step = rows_at_once(a.cols());
        for first in (0..a.rows()).step_by(step as usize) {
            let count = step.min(a.rows() - first);
            if self.rows(first, count)? != other.rows(first, count)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
