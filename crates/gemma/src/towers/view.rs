//! The towers of a checkpoint as an mmproj file holds them.

use quant::Simd;
use tensor::{DType, Error, Result, TensorDesc, TensorSource};

use super::{TowerChange, TowerTensor};

/// The tensors of the towers of a checkpoint, with names, shapes, order and values of an mmproj file. Tensors whose values change are F32,
/// all others have the type of the checkpoint.
pub struct MmprojView<'a> {
    source: &'a dyn TensorSource,
    tensors: Vec<TensorDesc>,
    stored: Vec<Stored>,
    simd: Simd,
}

/// A tensor of the checkpoint, and how its values change.
struct Stored {
    index: usize,
    change: Option<TowerChange>,
    shape: Vec<u64>,
}

impl<'a> MmprojView<'a> {
    /// The view of `found`, which are tensors of `source`. The values do not depend on the instructions.
    ///
    /// # Errors
    /// `Malformed` for a shape that is too large.
    pub fn new(source: &'a dyn TensorSource, found: &[TowerTensor], simd: Simd) -> Result<MmprojView<'a>> {
        let mut tensors = Vec::with_capacity(found.len());
        let mut stored = Vec::with_capacity(found.len());
        for TowerTensor { slot, index } in found {
            let moved = slot.change.filter(|change| change.moves_values());
            let dtype = if moved.is_some() { DType::F32 } else { source.tensors()[*index].dtype };
            tensors.push(TensorDesc::new(&slot.gguf, dtype, slot.mmproj_shape())?);
            stored.push(Stored { index: *index, change: moved, shape: slot.shape.clone() });
        }
        Ok(MmprojView { source, tensors, stored, simd })
    }
}

impl MmprojView<'_> {
    /// Reads row `row` of a tensor of the checkpoint, changed, into `out`.
    fn changed(&self, stored: &Stored, change: TowerChange, row: u64, out: &mut [f32]) -> Result<()> {
        let desc = &self.source.tensors()[stored.index];
        let mut bytes = vec![0; desc.row_bytes() as usize];
        self.source.read_rows(stored.index, change.origin(&stored.shape, row), &mut bytes)?;
        let mut values = vec![0.0; out.len()];
        quant::decode(self.simd, desc.dtype, &bytes, &mut values);
        change.rows(out.len(), &values, out);
        Ok(())
    }
}

impl TensorSource for MmprojView<'_> {
    fn tensors(&self) -> &[TensorDesc] {
        &self.tensors
    }

    fn read_rows(&self, index: usize, first: u64, out: &mut [u8]) -> Result<()> {
        let (desc, stored) = (&self.tensors[index], &self.stored[index]);
        let Some(change) = stored.change else { return self.source.read_rows(stored.index, first, out) };
        let (start, end) = (first * desc.cols(), first * desc.cols() + out.len() as u64 / 4);
        if end > desc.elements() {
            return Err(Error::malformed(format!("tensor {}", desc.name), "rows beyond its end"));
        }
        // a row of the checkpoint may be several rows of the file
        let cols = stored.shape.last().copied().unwrap_or(1);
        let mut row = vec![0.0; cols as usize];
        let rows = start / cols..end.div_ceil(cols);
        for at in rows {
            self.changed(stored, change, at, &mut row)?;
            let wanted = start.max(at * cols)..end.min((at + 1) * cols);
            let from = &row[(wanted.start - at * cols) as usize..(wanted.end - at * cols) as usize];
            let to = &mut out[4 * (wanted.start - start) as usize..4 * (wanted.end - start) as usize];
            for (bytes, value) in to.as_chunks_mut::<4>().0.iter_mut().zip(from) {
                *bytes = value.to_le_bytes();
            }
        }
        Ok(())
    }
}
