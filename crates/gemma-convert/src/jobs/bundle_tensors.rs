//! The tensors of a checkpoint that a bundle holds, and the models in which they are.

use std::collections::BTreeMap;

use checkpoint::Checkpoint;
use gemma::{Config, Found, Inventory};
use litert::Wanted;
use tensor::{Result, TensorSource};

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
