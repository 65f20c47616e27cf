//! A model's tensors by role and layer, and their rows as f32.

use std::collections::HashMap;

use gemma::Inventory;
use rayon::prelude::*;
use tensor::{Error, Result, TensorDesc, TensorSource};

use crate::{Compute, Expert, Input, Matrix, Mixture, Observer, RowMajor};

/// The weights of a model: a source of tensors, and their indices by role and layer.
#[derive(Clone)]
pub struct Weights<'a> {
    source: &'a dyn TensorSource,
    /// By role and layer, see [`gemma::Slot`].
    tensors: HashMap<(&'static str, Option<usize>), usize>,
    compute: Compute,
    observer: Option<&'a dyn Observer>,
}

/// The weights of one layer, or those outside of all layers.
#[derive(Clone, Copy)]
pub struct LayerWeights<'a> {
    weights: &'a Weights<'a>,
    layer: Option<usize>,
}

/// One tensor.
#[derive(Clone, Copy)]
pub struct Weight<'a> {
    source: &'a dyn TensorSource,
    index: usize,
    compute: Compute,
}

impl<'a> Weights<'a> {
    /// The tensors of `source` that `inventory` names, for this arithmetic.
    ///
    /// # Errors
    /// `Unsupported` for an element type that cannot be read as numbers, and for arithmetic that this machine lacks.
    pub fn new(source: &'a dyn TensorSource, inventory: &Inventory, compute: Compute) -> Result<Weights<'a>> {
        compute.check()?;
        let mut tensors = HashMap::new();
        for found in &inventory.text {
            let desc = &source.tensors()[found.index];
            if !quant::can_encode(desc.dtype) {
                return Err(Error::unsupported(
                    format!("tensor {}", desc.name),
                    "its elements cannot be read as weights",
                )
                .expected("a float or a quantised type of GGUF", desc.dtype));
            }
            tensors.insert((found.slot.role, found.slot.layer), found.index);
        }
        Ok(Weights { source, tensors, compute, observer: None })
    }

    /// The arithmetic of their products.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// The same weights with an observer of the matrix products of layers.
    pub fn observed(self, observer: &'a dyn Observer) -> Weights<'a> {
        Weights { observer: Some(observer), ..self }
    }

    /// Replaces the tensor of a role by another tensor of the source, such as a quantized one.
    pub fn replace(&mut self, role: &'static str, layer: Option<usize>, index: usize) {
        self.tensors.insert((role, layer), index);
    }

    /// The tensors of a layer.
    pub fn layer(&self, layer: usize) -> LayerWeights<'_> {
        LayerWeights { weights: self, layer: Some(layer) }
    }

    /// The tensors that belong to no layer.
    pub fn global(&self) -> LayerWeights<'_> {
        LayerWeights { weights: self, layer: None }
    }
}

impl<'a> LayerWeights<'a> {
    /// The tensor of a role, if this model has one there.
    pub fn find(&self, role: &'static str) -> Option<Weight<'a>> {
        let index = *self.weights.tensors.get(&(role, self.layer))?;
        Some(Weight::new(self.weights.source, index, self.weights.compute))
    }

    /// The tensor of a role.
    ///
    /// # Errors
    /// `Malformed` when the model has none there.
    pub fn get(&self, role: &'static str) -> Result<Weight<'a>> {
        self.find(role).ok_or_else(|| {
            let of_layer = self.layer.map_or(String::new(), |layer| format!(" of layer {layer}"));
            Error::malformed(format!("tensor {role}{of_layer}"), "missing")
        })
    }

    /// All values of a small tensor: a norm, a scale.
    pub(crate) fn vector(&self, role: &'static str) -> Result<Vec<f32>> {
        self.get(role)?.vector()
    }

    /// `x · Wᵀ`.
    pub(crate) fn project(&self, role: &'static str, x: &Matrix) -> Result<Matrix> {
        let weight = self.get(role)?;
        self.observe(role, None, x)?;
        let y = weight.project(x, 0..weight.desc().rows())?;
        if let (Some(observer), Some(layer)) = (self.weights.observer, self.layer) {
            observer.output(&Input { role, layer, expert: None, x }, &y)?;
        }
        Ok(y)
    }

    /// Calls the observer with the residual stream before a part of the layer.
    pub(crate) fn observe_residual(&self, hidden: &Matrix) -> Result<()> {
        self.weights.observer.map_or(Ok(()), |observer| observer.residual(hidden))
    }

    /// Calls the observer with the branches of a mixture of experts.
    pub(crate) fn observe_mixture(&self, mixture: &Mixture<'_>) -> Result<()> {
        self.weights.observer.map_or(Ok(()), |observer| observer.mixture(mixture))
    }

    /// Calls the observer with the input of a matrix of this layer.
    pub(crate) fn observe(&self, role: &'static str, expert: Option<Expert<'_>>, x: &Matrix) -> Result<()> {
        match (self.weights.observer, self.layer) {
            (Some(observer), Some(layer)) => observer.input(&Input { role, layer, expert, x }),
            _ => Ok(()),
        }
    }
}

impl<'a> Weight<'a> {
    /// A tensor of a source.
    pub(crate) fn new(source: &'a dyn TensorSource, index: usize, compute: Compute) -> Weight<'a> {
        Weight { source, index, compute }
    }

    /// A weight without a model.
    #[cfg(test)]
    pub(crate) fn alone(source: &'a dyn TensorSource, kernel: crate::Kernel) -> Weight<'a> {
        Weight::new(source, 0, Compute { kernel, ..Compute::detect() })
    }

    /// Its name, type and shape.
    pub fn desc(&self) -> &'a TensorDesc {
        &self.source.tensors()[self.index]
    }

    /// The arithmetic of its products.
    pub(crate) fn compute(&self) -> Compute {
        self.compute
    }

    /// Rows from `first` on, as stored.
    ///
    /// # Errors
    /// `Io` and `Malformed` of the source.
    pub(crate) fn read_bytes(&self, first: u64, out: &mut [u8]) -> Result<()> {
        self.source.read_rows(self.index, first, out)
    }

    /// `count` rows from `first` on, as stored, if the source has them mapped.
    pub(crate) fn mapped(&self, first: u64, count: u64) -> Option<&'a [u8]> {
        self.source.mapped_rows(self.index, first, count)
    }

    /// Reads the rows from `first` on that fill `out`, through `bytes`.
    ///
    /// # Errors
    /// `Io` and `Malformed` of the source.
    pub fn read(&self, first: u64, bytes: &mut Vec<u8>, out: &mut [f32]) -> Result<()> {
        let desc = self.desc();
        let len = out.len() / desc.cols() as usize * desc.row_bytes() as usize;
        // only ever grown: zeroing it for each block would show
        if bytes.len() < len {
            bytes.resize(len, 0);
        }
        self.read_bytes(first, &mut bytes[..len])?;
        quant::decode(self.compute.simd, desc.dtype, &bytes[..len], out);
        Ok(())
    }

    /// All values. Meant for small tensors.
    ///
    /// # Errors
    /// `Io` and `Malformed` of the source.
    pub fn vector(&self) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.desc().elements() as usize];
        self.read(0, &mut Vec::new(), &mut out)?;
        Ok(out)
    }

    /// The rows of these ids.
    ///
    /// # Errors
    /// `Io` and `Malformed` of the source.
    pub(crate) fn gather(&self, ids: &[u32]) -> Result<Matrix> {
        let cols = self.desc().cols() as usize;
        let mut out = Matrix::zeros((ids.len(), cols));
        let rows = out.values_mut().par_chunks_mut(cols).zip(ids).with_min_len(16);
        rows.try_for_each_init(Vec::new, |bytes, (row, &id)| self.read(id.into(), bytes, row))?;
        Ok(out)
    }
}
