//! Fake quantization: tensors that are quantized when they are read, to run a model with one tensor in another type.

use quant::Simd;
use tensor::{Result, TensorDesc, TensorSource};

/// A tensor in another type.
pub(crate) struct FakeQuant {
    /// Index of the original tensor in the source.
    pub(crate) of: usize,
    /// Name, type and shape.
    pub(crate) desc: TensorDesc,
    /// Importance of the columns, matrix after matrix; `None` for equal weights.
    pub(crate) importance: Option<Vec<f32>>,
}

/// The tensors of a source, followed by fake-quantized ones.
pub(crate) struct FakeQuantSource<'a> {
    base: &'a dyn TensorSource,
    tensors: Vec<TensorDesc>,
    roundings: Vec<FakeQuant>,
    simd: Simd,
}

impl<'a> FakeQuantSource<'a> {
    pub(crate) fn new(
        base: &'a dyn TensorSource,
        roundings: Vec<FakeQuant>,
        simd: Simd,
    ) -> FakeQuantSource<'a> {
        let tensors = base.tensors().iter().chain(roundings.iter().map(|r| &r.desc)).cloned().collect();
        FakeQuantSource { base, tensors, roundings, simd }
    }

    /// The index of the `number`-th fake-quantized tensor.
    pub(crate) fn index(&self, number: usize) -> usize {
        self.base.tensors().len() + number
    }
}

impl TensorSource for FakeQuantSource<'_> {
    fn tensors(&self) -> &[TensorDesc] {
        &self.tensors
    }

    fn read_rows(&self, index: usize, first: u64, out: &mut [u8]) -> Result<()> {
        let Some(number) = index.checked_sub(self.base.tensors().len()) else {
            return self.base.read_rows(index, first, out);
        };
        let FakeQuant { of, desc, importance } = &self.roundings[number];
        let rows = out.len() as u64 / desc.row_bytes();
        let values = quant::decode_rows(self.simd, self.base, *of, first..first + rows)?;
        let cols = desc.cols() as usize;
        for (row, (values, out)) in
            values.chunks_exact(cols).zip(out.chunks_exact_mut(desc.row_bytes() as usize)).enumerate()
        {
            let weights = importance.as_deref().map(|all| of_row(all, desc, first + row as u64));
            quant::encode(self.simd, desc.dtype, cols, values, weights, out);
        }
        Ok(())
    }
}

/// The importance of the matrix (expert) that a row belongs to.
pub(crate) fn of_row<'a>(importance: &'a [f32], desc: &TensorDesc, row: u64) -> &'a [f32] {
    let cols = desc.cols() as usize;
    let matrices = importance.len() / cols;
    let matrix = (row * matrices as u64 / desc.rows().max(1)) as usize;
    &importance[matrix * cols..][..cols]
}

#[cfg(test)]
mod tests {
    use tensor::DType;
    use testkit::MemoryTensors;

    use super::*;

    /// The values of two matrices of 4 rows of 32.
    fn wave(n: usize) -> f32 {
        (n as f32).sin()
    }

    #[test]
    fn rows_are_rounded_by_the_importance_of_their_matrix_wherever_reading_begins() {
        let desc = |dtype| TensorDesc { name: "experts".into(), dtype, shape: vec![2, 4, 32] };
        let values: Vec<f32> = (0..8 * 32).map(wave).collect();
        let mut base = MemoryTensors::new();
        base.add_f32("experts", &[2, 4, 32], &values);
        let importance: Vec<f32> = (0..64).map(|n| 1.0 + (n * n % 37) as f32).collect();
        let rounding = FakeQuant { of: 0, desc: desc(DType::Q4_0), importance: Some(importance.clone()) };
        let source = FakeQuantSource::new(&base, vec![rounding], Simd::detect());
        let mut expected = [0; 8 * 18];
        for (matrix, out) in expected.chunks_exact_mut(4 * 18).enumerate() {
            let (values, weights) = (&values[matrix * 128..][..128], &importance[matrix * 32..][..32]);
            quant::encode(Simd::detect(), DType::Q4_0, 32, values, Some(weights), out);
        }
        let mut found = vec![0; 3 * 18];
        source.read_rows(source.index(0), 3, &mut found).unwrap();
        assert_eq!(found, expected[3 * 18..6 * 18]);
    }
}
