//! Rows of a tensor in f32.

use std::ops::Range;

use tensor::{Result, TensorSource};

use crate::{Simd, decode};

/// Rows of a tensor, decoded to f32.
///
/// # Errors
/// Those of [`TensorSource::read_rows`].
pub fn decode_rows(
    simd: Simd,
    source: &dyn TensorSource,
    index: usize,
    rows: Range<u64>,
) -> Result<Vec<f32>> {
    let desc = &source.tensors()[index];
    let count = rows.end - rows.start;
    let mut bytes = vec![0; (count * desc.row_bytes()) as usize];
    source.read_rows(index, rows.start, &mut bytes)?;
    let mut values = vec![0.0; (count * desc.cols()) as usize];
    decode(simd, desc.dtype, &bytes, &mut values);
    Ok(values)
}
