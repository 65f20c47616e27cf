//! Tensors that are rounded when they are read: what a model would be with one of them in another type, without keeping any.

use std::ops::Range;

use quant::Simd;
use tensor::{Result, TensorDesc, TensorSource};

/// A tensor as it would be in another type.
pub(crate) struct Rounding {
    /// The tensor that it is of.
    pub(crate) of: usize,
    /// Name, type and shape.
    pub(crate) desc: TensorDesc,
    /// Weights of the columns, matrix after matrix; none for equal ones.
    pub(crate) importance: Option<Vec<f32>>,
}

/// A source, and behind its tensors roundings of some.
pub(crate) struct Roundings<'a> {
    base: &'a dyn TensorSource,
    tensors: Vec<TensorDesc>,
    roundings: Vec<Rounding>,
}

impl<'a> Roundings<'a> {
    pub(crate) fn new(base: &'a dyn TensorSource, roundings: Vec<Rounding>) -> Roundings<'a> {
        let tensors = base.tensors().iter().chain(roundings.iter().map(|r| &r.desc)).cloned().collect();
        Roundings { base, tensors, roundings }
    }

    /// The index of the `number`-th rounding.
    pub(crate) fn index(&self, number: usize) -> usize {
        self.base.tensors().len() + number
    }
}

impl TensorSource for Roundings<'_> {
    fn tensors(&self) -> &[TensorDesc] {
        &self.tensors
    }

    fn read_rows(&self, index: usize, first: u64, out: &mut [u8]) -> Result<()> {
        let Some(number) = index.checked_sub(self.base.tensors().len()) else {
            return self.base.read_rows(index, first, out);
        };
        let Rounding { of, desc, importance } = &self.roundings[number];
        let rows = out.len() as u64 / desc.row_bytes();
        let values = values(self.base, *of, first..first + rows)?;
        let cols = desc.cols() as usize;
        for (row, (values, out)) in
            values.chunks_exact(cols).zip(out.chunks_exact_mut(desc.row_bytes() as usize)).enumerate()
        {
            let weights = importance.as_deref().map(|all| of_row(all, desc, first + row as u64));
            quant::encode(Simd::detect(), desc.dtype, cols, values, weights, out);
        }
        Ok(())
    }
}

/// Rows of a tensor as numbers.
pub(crate) fn values(source: &dyn TensorSource, index: usize, rows: Range<u64>) -> Result<Vec<f32>> {
    let desc = &source.tensors()[index];
    let count = rows.end - rows.start;
    let mut bytes = vec![0; (count * desc.row_bytes()) as usize];
    source.read_rows(index, rows.start, &mut bytes)?;
    let mut values = vec![0.0; (count * desc.cols()) as usize];
    quant::decode(Simd::detect(), desc.dtype, &bytes, &mut values);
    Ok(values)
}

/// The importance of the matrix that a row is of.
pub(crate) fn of_row<'a>(importance: &'a [f32], desc: &TensorDesc, row: u64) -> &'a [f32] {
    let cols = desc.cols() as usize;
    let matrices = importance.len() / cols;
    let matrix = (row * matrices as u64 / desc.rows().max(1)) as usize;
    &importance[matrix * cols..][..cols]
}
