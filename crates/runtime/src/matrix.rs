//! Rows of f32: one row a token.

/// A matrix in row-major order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    cols: usize,
    data: Vec<f32>,
}

impl Matrix {
    /// All zeros.
    pub fn zeros(rows: usize, cols: usize) -> Matrix {
        Matrix { cols, data: vec![0.0; rows * cols] }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.data.len().checked_div(self.cols).unwrap_or(0)
    }

    /// Length of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// One row.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.cols..][..self.cols]
    }

    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[row * self.cols..][..self.cols]
    }

    /// All values, row after row.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// All values, row after row.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// The given rows, in the given order.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn select(&self, rows: impl IntoIterator<Item = usize>) -> Matrix {
        let mut data = Vec::new();
        rows.into_iter().for_each(|row| data.extend_from_slice(self.row(row)));
        Matrix { cols: self.cols, data }
    }

    /// Adds the rows of `other`, which are as long as these unless there are none yet.
    ///
    /// # Panics
    /// When they are not.
    pub fn append(&mut self, other: &Matrix) {
        assert!(self.data.is_empty() || self.cols == other.cols, "rows of one length");
        self.cols = other.cols;
        self.data.extend_from_slice(&other.data);
    }

    /// `self + other`.
    pub fn add(&mut self, other: &Matrix) {
        self.data.iter_mut().zip(&other.data).for_each(|(a, b)| *a += b);
    }

    /// `self * factor`.
    pub(crate) fn scale(&mut self, factor: f32) {
        self.data.iter_mut().for_each(|a| *a *= factor);
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
