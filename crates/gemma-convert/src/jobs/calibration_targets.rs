//! What calibrated quantization encodes of an artifact: the tensors, in groups of layers.

use std::ops::Range;

use base::Part;
use calibrate::{LayerGroup, QuantTarget};
use convert::TensorGroup;
use gemma::Config;
use plan::{Artifact, Lattice, Origin, OutputTensor};
use tensor::DType;

/// The tensors of an artifact that calibrated quantization encodes.
pub(crate) struct CalibrationTargets {
    pub(crate) tensors: Vec<QuantTarget>,
    /// The type of the token embedding, with which the quantized model begins.
    pub(crate) embedding: DType,
    groups: Vec<LayerGroup>,
    /// Number of layers of the model.
    layers: usize,
}

impl CalibrationTargets {
    /// Those of an artifact; `None` without `[calibration]`.
    pub(crate) fn of(config: &Config, artifact: &Artifact) -> Option<CalibrationTargets> {
        let calibration = artifact.calibration.as_ref()?;
        let layers = config.layers();
        let embedding = artifact.tensors().find(|tensor| tensor.role == "token_embd");
        // on a quantization grid it keeps its values
        let embedding = embedding.filter(|tensor| lattice(tensor).is_none());
        let target = |tensor: &OutputTensor| {
            let grid = lattice(tensor);
            // weights on a quantization grid are repacked without loss
            let rounds =
                grid != Some(Lattice::On) && calibrate::supports_ldlq(config, tensor.role, tensor.desc.dtype);
            let layer = tensor.layer.unwrap_or(layers);
            let desc = || tensor.desc.clone();
            rounds.then(|| QuantTarget { role: tensor.role, layer, desc: desc(), keeps_grid: grid.is_some() })
        };
        let tensors: Vec<QuantTarget> = artifact.tensors().filter_map(target).collect();
        let groups = calibrate::layer_groups(&tensors, layers, calibration.groups);
        let embedding = embedding.map_or(DType::F32, |tensor| tensor.desc.dtype);
        Some(CalibrationTargets { tensors, embedding, groups, layers })
    }

    /// The tensors of each group, for the run that writes them.
    pub(crate) fn tensor_groups(&self) -> Vec<TensorGroup> {
        let tensors = |group: &LayerGroup| {
            let of_group = self.tensors.iter().filter(|target| group.has(target.layer, self.layers));
            of_group.map(|target| target.desc.name.clone()).collect()
        };
        let group =
            |group: &LayerGroup| TensorGroup { tensors: tensors(group), picoseconds: group.picoseconds };
        self.groups.iter().map(group).collect()
    }

    /// The groups of layers of a part.
    pub(crate) fn groups(&self, part: Part) -> &[LayerGroup] {
        let costs: Vec<u64> = self.groups.iter().map(|group| group.picoseconds).collect();
        &self.groups[part.units(&costs)]
    }

    /// The layers that the store has of some groups. A quantized head is one more layer.
    pub(crate) fn stored(&self, groups: &[LayerGroup]) -> Vec<usize> {
        let layers = |group: &LayerGroup| -> Range<usize> { group.layers.clone() };
        let is_first = groups.first().is_some_and(|group| group.layers.start == 0);
        let head = self.tensors.iter().any(|target| is_first && target.layer == self.layers);
        groups.iter().flat_map(layers).chain(head.then_some(self.layers)).collect()
    }

    /// Bytes of the tensors that a part encodes.
    pub(crate) fn stored_bytes(&self, part: Part) -> u64 {
        let groups = self.groups(part);
        let is_stored =
            |target: &&QuantTarget| groups.iter().any(|group| group.has(target.layer, self.layers));
        self.tensors.iter().filter(is_stored).map(|target| target.desc.byte_len()).sum()
    }

    /// Memory in bytes, for a text of this many tokens.
    pub(crate) fn memory(&self, config: &Config, tokens: u64) -> u64 {
        calibrate::ldlq_memory(config, &self.tensors, tokens)
    }

    /// Progress steps for one token of the text.
    pub(crate) fn passes(&self, groups: &[LayerGroup]) -> u64 {
        calibrate::ldlq_passes(&self.tensors, self.layers, groups)
    }
}

/// The 4-bit quantization grid that a tensor keeps.
fn lattice(tensor: &OutputTensor) -> Option<Lattice> {
    match &tensor.from {
        Origin::Checkpoint(stored) => stored.lattice,
        _ => None,
    }
}
