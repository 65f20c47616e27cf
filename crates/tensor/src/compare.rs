//! Comparison of tensors.

use crate::{Result, TensorSource};

/// Bytes per tensor that are compared at a time.
const PIECE: u64 = 1 << 20;

/// Whether two tensors, each given by its source and its index there, have the same type, shape and bytes. Reads both side
/// by side, some rows at a time.
///
/// # Errors
/// Those of [`TensorSource::read_rows`].
pub fn are_equal(a: (&dyn TensorSource, usize), b: (&dyn TensorSource, usize)) -> Result<bool> {
    let [left, right] = [a, b].map(|(source, index)| &source.tensors()[index]);
    if (left.dtype, &left.shape) != (right.dtype, &right.shape) {
        return Ok(false);
    }
    let rows_at_a_time = (PIECE / left.row_bytes().max(1)).max(1);
    let mut buffers = [Vec::new(), Vec::new()];
    let mut first = 0;
    while first < left.rows() {
        let rows = rows_at_a_time.min(left.rows() - first);
        for (buffer, (source, index)) in buffers.iter_mut().zip([a, b]) {
            buffer.resize((rows * left.row_bytes()) as usize, 0);
            source.read_rows(index, first, buffer)?;
        }
        if buffers[0] != buffers[1] {
            return Ok(false);
        }
        first += rows;
    }
    Ok(true)
}
