//! Square matrices.

/// A square matrix, row by row.
#[derive(Default)]
pub(crate) struct Square {
    size: usize,
    data: Vec<f32>,
}

impl Square {
    pub(crate) fn zeros(size: usize) -> Square {
        Square { size, data: vec![0.0; size * size] }
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn at(&self, row: usize, col: usize) -> f32 {
        self.data[row * self.size + col]
    }

    pub(crate) fn at_mut(&mut self, row: usize, col: usize) -> &mut f32 {
        &mut self.data[row * self.size + col]
    }

    pub(crate) fn data(&self) -> &[f32] {
        &self.data
    }

    pub(crate) fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }
}
