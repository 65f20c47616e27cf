//! Adapters (LoRA) for llama.cpp: the tensors that have a pair of factors in a GGUF, and its keys.
//!
//! llama.cpp multiplies the product of a pair by `adapter.lora.alpha` / rank, and adds it to the output of a tensor's
//! matrix product. The tensors for which it does so are those with `lora` in `formats/gemma4.tensors.toml`.

use std::collections::BTreeMap;

use checkpoint::{Adaptation, Checkpoint, LowRankProduct, ModelCard};
use gguf::Metadata;
use tensor::{Error, Result, TensorSource};

use crate::keys::{self, KeySources, Parameters};
use crate::{Exclusion, ModelSpec};

const MERGE: &str = "Merge it instead: convert the checkpoint with ‹lora›.";

/// Whether a GGUF holds an adapter.
pub fn is_adapter(metadata: &Metadata) -> bool {
    metadata.typed("general.type").is_ok_and(|kind| kind == Some("adapter"))
}

/// A tensor to which an adapter adds a product.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterPair {
    /// The tensor's index in the checkpoint.
    pub index: usize,
    /// The tensor's name in a GGUF. The factors are called `NAME.lora_a` and `NAME.lora_b`.
    pub name: String,
    /// The product.
    pub product: LowRankProduct,
    /// The index of the tensor with a factor for each matrix of the stack (`NAME.scale` beside `NAME.weight`). The model
    /// multiplies the whole output by it, llama.cpp only what the stored weight gives: `lora_b` has to hold it.
    pub output_scale: Option<usize>,
}

/// What an adapter changes in a text model.
#[derive(Clone, Debug)]
pub struct AdapterInventory {
    /// The pairs, in the order of the adapter's file.
    pub pairs: Vec<AdapterPair>,
    /// Tensors that the adapter changes without effect in the file.
    pub dropped: Vec<Exclusion>,
}

impl AdapterPair {
    /// The alpha with which llama.cpp multiplies the product by its scale.
    pub fn alpha(&self) -> f64 {
        self.product.scale * self.product.rank as f64
    }
}

impl AdapterInventory {
    /// The pairs for the adapters that are merged into `checkpoint`, of which `model` is the description.
    ///
    /// # Errors
    /// `Unsupported` for changes that a GGUF adapter cannot express or that llama.cpp does not apply.
    pub fn of(model: &ModelSpec, checkpoint: &Checkpoint) -> Result<AdapterInventory> {
        let mut found = AdapterInventory { pairs: Vec::new(), dropped: Vec::new() };
        for tensor in &model.inventory.text {
            let (index, slot) = (tensor.index, &tensor.slot);
            let Some(adaptation) = checkpoint.adaptation(index) else { continue };
            if slot.unused {
                let reason = "K or V of a KV-shared layer: no computation reads it";
                found.dropped.push(Exclusion { index, reason });
                continue;
            }
            let product = match adaptation {
                Adaptation::Product(product) if slot.lora => Ok(product),
                Adaptation::Product(_) => Err(format!("llama.cpp applies no adapter to {}", slot.gguf)),
                Adaptation::Replacement => {
                    Err("the adapter replaces it, and a GGUF adapter has products of low rank only"
                        .to_owned())
                }
                Adaptation::Magnitudes => {
                    Err("the adapter has magnitudes of its rows (DoRA), which llama.cpp does not read"
                        .to_owned())
                }
            };
            let product = product.map_err(|problem| {
                let place = format!("tensor {}", checkpoint.tensors()[index].name);
                Error::unsupported(place, problem).help(MERGE)
            })?;
            let scale = slot.gguf.strip_suffix(".weight").map(|stem| format!("{stem}.scale"));
            let output_scale =
                model.inventory.text.iter().find(|other| Some(&other.slot.gguf) == scale.as_ref());
            let output_scale = output_scale.map(|other| other.index);
            found.pairs.push(AdapterPair { index, name: slot.gguf.clone(), product, output_scale });
        }
        let others = model.inventory.dropped.iter();
        found.dropped.extend(others.filter(|other| checkpoint.adaptation(other.index).is_some()).cloned());
        found.pairs.sort_by_key(|pair| pair.product.offset);
        Ok(found)
    }

    /// The value of `adapter.lora.alpha`: the one with which most pairs have their scale, so that the factors of these
    /// are as in the adapter. `None` if no pair changes anything.
    pub fn alpha(&self) -> Option<f32> {
        let alphas: Vec<f32> = self.pairs.iter().map(|pair| pair.alpha() as f32).collect();
        let count = |alpha: f32| alphas.iter().filter(|other| **other == alpha).count();
        alphas.iter().rev().copied().filter(|alpha| *alpha != 0.0).max_by_key(|alpha| count(*alpha))
    }
}

/// The metadata of a GGUF adapter, in file order. `card` is the adapter's, and `title` its name if the card has none.
///
/// # Errors
/// `Malformed` for a value of the card that does not fit its type.
pub fn adapter_metadata(model: &ModelSpec, card: &ModelCard, title: &str, alpha: f32) -> Result<Metadata> {
    let has_name = card.text(&["name", "model_name"]).is_some();
    let names = (!has_name).then(|| ("name".to_owned(), title.into())).into_iter().collect();
    let (overrides, parameters) = (BTreeMap::new(), Parameters::default());
    let of_model = KeySources::of(model, &names, &overrides, parameters);
    keys::adapter_metadata(&KeySources { card, generation: None, ..of_model }, alpha)
}
