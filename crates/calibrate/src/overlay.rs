//! A tensor source whose tensors are replaced by quantized ones as these become available.

use std::sync::{Arc, PoisonError, RwLock};

use tensor::{Error, Result, TensorDesc, TensorSource};

/// The tensors of a source, followed by replacements for some of them.
pub(crate) struct Overlay<'a> {
    base: &'a dyn TensorSource,
    tensors: Vec<TensorDesc>,
    rounded: Vec<RwLock<Option<Arc<Vec<u8>>>>>,
}

impl<'a> Overlay<'a> {
    pub(crate) fn new(
        base: &'a dyn TensorSource,
        rounded: impl IntoIterator<Item = TensorDesc>,
    ) -> Overlay<'a> {
        let mut tensors = base.tensors().to_vec();
        let before = tensors.len();
        tensors.extend(rounded);
        let places = (before..tensors.len()).map(|_| RwLock::default()).collect();
        Overlay { base, tensors, rounded: places }
    }

    /// The index of the `number`-th replacement.
    pub(crate) fn index(&self, number: usize) -> usize {
        self.base.tensors().len() + number
    }

    pub(crate) fn put(&self, number: usize, bytes: Arc<Vec<u8>>) {
        *self.rounded[number].write().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
    }

    pub(crate) fn forget(&self, number: usize) {
        *self.rounded[number].write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl TensorSource for Overlay<'_> {
    fn tensors(&self) -> &[TensorDesc] {
        &self.tensors
    }

    fn read_rows(&self, index: usize, first: u64, out: &mut [u8]) -> Result<()> {
        let Some(number) = index.checked_sub(self.base.tensors().len()) else {
            return self.base.read_rows(index, first, out);
        };
        let bytes = self.rounded[number].read().unwrap_or_else(PoisonError::into_inner).clone();
        let desc = &self.tensors[index];
        let start = (first * desc.row_bytes()) as usize;
        match bytes.as_deref().and_then(|bytes| bytes.get(start..start + out.len())) {
            Some(rows) => {
                out.copy_from_slice(rows);
                Ok(())
            }
            None => Err(Error::malformed(format!("tensor {}", desc.name), "not rounded yet")),
        }
    }
}
