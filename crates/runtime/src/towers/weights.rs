//! The tensors of the towers by part, role and layer, in the form of a checkpoint or of an mmproj file.
//!
//! The forms differ in few tensors ([`TowerChange`](gemma::towers::TowerChange)). Small ones are brought into the form of an mmproj
//! file where they are read. Large ones stay as stored, and the input of their product is put into their order.

use std::collections::HashMap;

use gemma::towers::{Tower, TowerTensor, softplus};
use ndarray::Array2;
use tensor::{Error, Result, TensorDesc, TensorSource};

use crate::{Compute, Matrix, Weight};

/// Whose layout the tensors have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TowerForm {
    /// A checkpoint of transformers.
    Checkpoint,
    /// An mmproj file of llama.cpp.
    Mmproj,
}

/// The weights of the image and audio parts of a model.
#[derive(Clone)]
pub struct TowerWeights<'a> {
    source: Flat<'a>,
    tensors: HashMap<Key, usize>,
    form: TowerForm,
    compute: Compute,
}

/// Part, role, linear of a bound, layer.
type Key = (Tower, &'static str, Option<&'static str>, Option<usize>);

/// A source whose towers' tensors are matrices of the columns that they have in a checkpoint: a patch of an mmproj file is a row,
/// not three planes of 16 × 16.
#[derive(Clone)]
struct Flat<'a> {
    source: &'a dyn TensorSource,
    tensors: Vec<TensorDesc>,
}

/// The tensors of one layer of a part, or those outside of its layers.
#[derive(Clone, Copy)]
pub(super) struct PartWeights<'w> {
    weights: &'w TowerWeights<'w>,
    tower: Tower,
    layer: Option<usize>,
}

impl<'a> TowerWeights<'a> {
    /// The tensors of `source` with the indices that `tensors` gives.
    ///
    /// # Errors
    /// `Malformed` for a tensor of another size than its description, `Unsupported` for an element type that cannot be read as
    /// numbers, and for arithmetic that this machine lacks.
    pub fn new(
        source: &'a dyn TensorSource,
        tensors: &[TowerTensor],
        form: TowerForm,
        compute: Compute,
    ) -> Result<TowerWeights<'a>> {
        compute.check()?;
        let mut flat = Flat { source, tensors: source.tensors().to_vec() };
        let mut by_role = HashMap::new();
        for TowerTensor { slot, index } in tensors {
            let desc = &mut flat.tensors[*index];
            let (elements, cols) = (slot.shape.iter().product::<u64>(), slot.shape.last().copied());
            let place = || format!("tensor {}", desc.name);
            if desc.elements() != elements {
                return Err(Error::malformed(place(), "wrong size for the config")
                    .expected(format!("{elements} values"), desc.elements()));
            }
            if !quant::can_encode(desc.dtype) {
                return Err(Error::unsupported(place(), "its elements cannot be read as weights")
                    .expected("a float or a quantised type of GGUF", desc.dtype));
            }
            let cols = cols.unwrap_or(1);
            if desc.cols() != cols {
                if !cols.is_multiple_of(desc.cols()) {
                    return Err(Error::malformed(place(), "wrong shape for the config")
                        .expected(format!("{:?}", slot.shape), format!("{:?}", desc.shape)));
                }
                *desc = TensorDesc::new(desc.name.clone(), desc.dtype, [elements / cols, cols])?;
            }
            by_role.insert((slot.tower, slot.role, slot.of, slot.layer), *index);
        }
        Ok(TowerWeights { source: flat, tensors: by_role, form, compute })
    }

    /// The arithmetic of their products.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// Whose layout they have.
    pub fn form(&self) -> TowerForm {
        self.form
    }

    /// The tensors of a part outside of its layers.
    pub(super) fn global(&self, tower: Tower) -> PartWeights<'_> {
        PartWeights { weights: self, tower, layer: None }
    }

    /// The tensors of a layer of a part.
    pub(super) fn layer(&self, tower: Tower, layer: usize) -> PartWeights<'_> {
        PartWeights { weights: self, tower, layer: Some(layer) }
    }
}

impl PartWeights<'_> {
    /// The arithmetic of products.
    pub(super) fn compute(&self) -> Compute {
        self.weights.compute
    }

    fn find(&self, role: &'static str, of: Option<&'static str>) -> Option<Weight<'_>> {
        let index = *self.weights.tensors.get(&(self.tower, role, of, self.layer))?;
        Some(Weight::new(&self.weights.source, index, self.weights.compute))
    }

    /// The tensor of a role.
    ///
    /// # Errors
    /// `Malformed` when the part has none there.
    pub(super) fn get(&self, role: &'static str) -> Result<Weight<'_>> {
        self.find(role, None).ok_or_else(|| {
            let of_layer = self.layer.map_or(String::new(), |layer| format!(" of layer {layer}"));
            Error::malformed(format!("tensor {role}{of_layer} of {:?}", self.tower), "missing")
        })
    }

    /// All values of a small tensor: a norm, a bias.
    pub(super) fn vector(&self, role: &'static str) -> Result<Vec<f32>> {
        self.get(role)?.vector()
    }

    /// A small tensor as a matrix.
    pub(super) fn matrix(&self, role: &'static str) -> Result<Matrix> {
        let weight = self.get(role)?;
        let (cols, values) = (weight.desc().cols() as usize, weight.vector()?);
        Ok(Array2::from_shape_vec((values.len() / cols, cols), values).expect("whole rows"))
    }

    /// `per_dim_scale` after softplus. An mmproj file has it already.
    pub(super) fn per_dim_scale(&self) -> Result<Vec<f32>> {
        let mut scale = self.vector("per_dim_scale")?;
        if self.weights.form == TowerForm::Checkpoint {
            scale.iter_mut().for_each(|x| *x = softplus(*x));
        }
        Ok(scale)
    }

    /// Least and largest input, then output, of a linear; an absent bound is infinite.
    pub(super) fn bounds(&self, linear: &'static str) -> Result<[(f32, f32); 2]> {
        let bound = |role, absent| match self.find(role, Some(linear)) {
            Some(weight) => Ok(weight.vector()?[0]),
            None => Ok(absent),
        };
        let (least, largest) = (f32::NEG_INFINITY, f32::INFINITY);
        Ok([
            (bound("input_min", least)?, bound("input_max", largest)?),
            (bound("output_min", least)?, bound("output_max", largest)?),
        ])
    }
}

impl TensorSource for Flat<'_> {
    fn tensors(&self) -> &[TensorDesc] {
        &self.tensors
    }

    fn read_rows(&self, index: usize, first: u64, out: &mut [u8]) -> Result<()> {
        // a row here is a whole number of rows there
        let rows = self.tensors[index].row_bytes() / self.source.tensors()[index].row_bytes();
        self.source.read_rows(index, first * rows, out)
    }
}
