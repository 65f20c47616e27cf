//! Matrices of f32 in row-major order, one row a token, and slices of them for kernels that work on slices.

use ndarray::{Array2, Axis};

/// A matrix of activations: one row a token, in row-major order.
pub type Matrix = Array2<f32>;

/// The values of a matrix in row-major order, as slices.
///
/// Every [`Matrix`] of this crate is in row-major order. Each method panics for a matrix in another order, such as one that
/// was transposed in place.
pub trait RowMajor {
    /// All values, row after row.
    fn values(&self) -> &[f32];

    /// All values, row after row.
    fn values_mut(&mut self) -> &mut [f32];

    /// The values of one row. Panics if there is no such row.
    fn row_values(&self, row: usize) -> &[f32];

    /// Adds the rows of another matrix below. Panics if they have another length.
    fn append_rows(&mut self, rows: &Matrix);
}

/// The reason of a panic.
const ORDER: &str = "a matrix in row-major order";

impl RowMajor for Matrix {
    fn values(&self) -> &[f32] {
        self.as_slice().expect(ORDER)
    }

    fn values_mut(&mut self) -> &mut [f32] {
        self.as_slice_mut().expect(ORDER)
    }

    fn row_values(&self, row: usize) -> &[f32] {
        self.row(row).to_slice().expect(ORDER)
    }

    fn append_rows(&mut self, rows: &Matrix) {
        self.append(Axis(0), rows.view()).expect("rows of one length");
    }
}

/// The index of the largest value, the first of equals; 0 without values.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}
