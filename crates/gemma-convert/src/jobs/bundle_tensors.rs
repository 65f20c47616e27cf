//! The tensors of a checkpoint that a bundle holds, and the models in which they are.

use std::collections::BTreeMap;

use checkpoint::Checkpoint;
use gemma::{Config, Found, Inventory};
use litert::{GraphTensorName, GraphTensors, Skeleton, Wanted};
use tensor::{Error, Result, TensorSource};

/// Type of the sections with the text model, and the role of the tensor that is all of its weights; none for all but the
/// per-layer embeddings.
pub(super) const MODELS: [(&str, Option<&str>); 3] = [
    ("tf_lite_prefill_decode", None),
    ("tf_lite_embedder", Some("token_embd")),
    ("tf_lite_per_layer_embedder", Some(PLE)),
];
/// The first of them, which has the head.
pub(super) const HEAD: usize = 0;
const PLE: &str = "per_layer_token_embd";

/// A checkpoint and the tensors of its text model.
pub(super) struct Text {
    pub(super) checkpoint: Checkpoint,
    pub(super) config: Config,
    pub(super) inventory: Inventory,
}

impl Text {
    pub(super) fn open(checkpoint: Checkpoint) -> Result<Text> {
        let dir = checkpoint.dir().display().to_string();
        let config = Config::from_json(checkpoint.config()).map_err(|e| e.within(&dir))?;
        let inventory = gemma::inventory(&config, checkpoint.tensors(), &|_| dir.clone())?;
        Ok(Text { checkpoint, config, inventory })
    }

    /// The index of each tensor, and that of the same one in another checkpoint.
    pub(super) fn counterparts(&self, other: &Text) -> BTreeMap<usize, usize> {
        let others: BTreeMap<&str, usize> =
            used(&other.inventory).map(|f| (f.slot.gguf.as_str(), f.index)).collect();
        used(&self.inventory).filter_map(|f| Some((f.index, *others.get(f.slot.gguf.as_str())?))).collect()
    }
}

/// The tensors of a text model in the forms that a graph has, which may be others than those of the checkpoint.
pub(super) struct GraphText<'a> {
    pub(super) tensors: GraphTensors<'a>,
    /// What they are. The name in a GGUF of a tensor in another form is read by [`GraphTensorName`], too.
    pub(super) inventory: Inventory,
}

impl<'a> GraphText<'a> {
    /// The forms of the checkpoint.
    pub(super) fn new(checkpoint: &'a dyn TensorSource, inventory: &Inventory) -> GraphText<'a> {
        GraphText { tensors: GraphTensors::new(checkpoint), inventory: inventory.clone() }
    }

    /// The forms of a skeleton, and the indices of its weights by their names in it.
    ///
    /// # Errors
    /// `Missing` for a tensor that the checkpoint lacks, `Unsupported` for one that the graph lacks; those of [`GraphTensors::add`].
    pub(super) fn of_skeleton(
        skeleton: &Skeleton,
        checkpoint: &'a dyn TensorSource,
        inventory: &Inventory,
    ) -> Result<(GraphText<'a>, BTreeMap<String, usize>)> {
        let mut graph = GraphText::new(checkpoint, inventory);
        let own: BTreeMap<&str, &Found> =
            used(inventory).map(|found| (found.slot.hf.as_str(), found)).collect();
        let (mut indices, mut left) = (BTreeMap::new(), own.clone());
        for name in skeleton.weights()? {
            let GraphTensorName { parts, divisor } = GraphTensorName::parse(name)?;
            let missing = |part: &str| Error::missing(format!("tensor {part}"));
            let found = parts.iter().map(|part| own.get(part).copied().ok_or_else(|| missing(part)));
            let found = found.collect::<Result<Vec<_>>>()?;
            let index =
                graph.tensors.add(&found.iter().map(|found| found.index).collect::<Vec<_>>(), divisor)?;
            if index >= checkpoint.tensors().len() {
                let parts = found.iter().map(|found| found.slot.gguf.as_str()).collect();
                let gguf = GraphTensorName { parts, divisor }.to_string();
                let mut slot = found[0].slot.clone();
                slot.gguf = gguf;
                graph.inventory.text.push(Found { slot, index });
            }
            indices.insert(name.to_owned(), index);
            for part in parts {
                left.remove(part);
            }
        }
        match left.into_values().next() {
            Some(left) => {
                let place = format!("tensor {}", checkpoint.tensors()[left.index].name);
                Err(Error::unsupported(place, "the graph has no place for it"))
            }
            None => Ok((graph, indices)),
        }
    }

    /// True if the graph has the final soft cap of the logits: then its head is the embedding times the inverse of the cap.
    pub(super) fn has_softcap(&self) -> bool {
        let names = self.inventory.text.iter().map(|found| GraphTensorName::parse(&found.slot.gguf));
        names.flatten().any(|name| name.divisor != 1.0)
    }
}

/// The tensors of a text model that are computed with.
pub(super) fn used(inventory: &Inventory) -> impl Iterator<Item = &Found> {
    inventory.text.iter().filter(|found| !found.slot.unused)
}

/// The models of a bundle, and their tensors.
pub(super) fn wanted(inventory: &Inventory) -> Vec<Wanted> {
    let has_ple = used(inventory).any(|found| found.slot.role == PLE);
    let models = MODELS.into_iter().filter(|(_, role)| has_ple || *role != Some(PLE));
    let wanted = models.map(|(model, only)| {
        let is_in = |role: &str| only.map_or(role != PLE, |only| role == only);
        let tensors = used(inventory).filter(|found| is_in(found.slot.role)).map(|found| found.index);
        Wanted { model_type: model.into(), tensors: tensors.collect() }
    });
    wanted.collect()
}
