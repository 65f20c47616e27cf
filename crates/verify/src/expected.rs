//! What an artifact should be: the keys and tensors that a plan gives it, and where their values come from.
//!
//! Held against a checkpoint, that is the plan of [`plan::plan`] for it, in one file; held against another GGUF, that
//! file itself, in whatever types. Which recipe the plan is of is for [`crate::Provenance`] to find out.

use std::collections::HashMap;
use std::path::Path;

use checkpoint::Checkpoint;
use gemma::{Config, Model};
use gguf::{GgufSet, Header, Metadata};
use plan::{Origin as PlannedOrigin, Recipe, Request, Shards};
use tensor::{Error, Result, TensorDesc, TensorSource};

/// What an artifact should be.
#[derive(Clone, Debug)]
pub struct Expected {
    /// What this was made from: `manifest`, `recipe q4_0`, `general.file_type 2 (q4_0)`, `file model.gguf`.
    pub plan: String,
    /// The text model.
    pub config: Config,
    /// The keys, without `split.*`.
    pub metadata: Metadata,
    /// The tensors.
    pub tensors: Vec<ExpectedTensor>,
    /// All keys, types and unused K/V are those that were asked for; else names, types and unused K/V are free.
    pub binding: bool,
}

/// A tensor that an artifact should have.
#[derive(Clone, Debug)]
pub struct ExpectedTensor {
    /// Name, type and shape.
    pub desc: TensorDesc,
    /// llama.cpp's name for what it does.
    pub role: &'static str,
    /// Its layer.
    pub layer: Option<usize>,
    /// K/V of a layer that reads another layer's: may be there, is never read.
    pub unused: bool,
    /// Its values.
    pub from: Values,
}

/// Where the values of a tensor come from.
#[derive(Clone, Debug)]
pub enum Values {
    /// The tensor of this number in the base.
    Base(usize),
    /// They are computed from the config.
    Generated(Vec<f32>),
}

impl Expected {
    /// What `recipe` makes of a checkpoint. `plan` says where the recipe is from; see [`Expected::binding`].
    ///
    /// # Errors
    /// Those of [`plan::plan`]: the recipe does not fit the checkpoint.
    pub fn of_checkpoint(
        checkpoint: &Checkpoint,
        model: &Model,
        recipe: &Recipe,
        plan: String,
        binding: bool,
    ) -> Result<Expected> {
        let mut recipe = recipe.clone();
        recipe.output.split_max_size = None;
        recipe.output.offload.clear();
        let request = Request { name: plan.clone(), recipe, stem: "model".to_owned() };
        let planned = plan::plan(model, &Shards::of(checkpoint), &[request])?;
        let file = planned.artifacts.into_iter().flat_map(|artifact| artifact.files).next();
        let file = file.ok_or_else(|| Error::recipe(&plan, "the plan has no file"))?;
        let header = Header::read(&mut file.header.as_slice(), file.bytes).map_err(|e| e.within(&plan))?;

        let found: HashMap<&str, _> =
            model.inventory.text.iter().map(|f| (f.slot.gguf.as_str(), f)).collect();
        let tensors = file.tensors.into_iter().map(|tensor| {
            let (unused, from) = match (tensor.from, found.get(tensor.desc.name.as_str())) {
                (PlannedOrigin::Generated(values), _) => (false, Values::Generated(values)),
                (PlannedOrigin::Checkpoint(_), Some(found)) => (found.slot.unused, Values::Base(found.index)),
                (PlannedOrigin::Checkpoint(_) | PlannedOrigin::Scales(_), _) => {
                    return Err(Error::malformed(format!("tensor {}", tensor.desc.name), "has no role"));
                }
            };
            Ok(ExpectedTensor { desc: tensor.desc, role: tensor.role, layer: tensor.layer, unused, from })
        });
        let tensors = tensors.collect::<Result<_>>()?;
        Ok(Expected { plan, config: model.config.clone(), metadata: header.metadata, tensors, binding })
    }

    /// What another file of the same model should be: the keys and tensors of `base`, types free.
    ///
    /// # Errors
    /// `Malformed` or `Unsupported`, when `base` itself is no whole Gemma 4 text model.
    pub fn of_gguf(base: &GgufSet) -> Result<Expected> {
        let path = base.parts()[0].path();
        let config = Config::from_metadata(base.metadata(), base.tensors());
        let config = config.map_err(|e| e.within(path.display()))?;
        let inventory =
            gemma::gguf_inventory(&config, base.tensors()).map_err(|e| e.within(path.display()))?;
        let tensors = inventory.text.into_iter().map(|found| ExpectedTensor {
            desc: base.tensors()[found.index].clone(),
            role: found.slot.role,
            layer: found.slot.layer,
            unused: found.slot.unused,
            from: Values::Base(found.index),
        });
        Ok(Expected {
            plan: format!("file {}", name(path)),
            config,
            metadata: base.metadata().clone(),
            tensors: tensors.collect(),
            binding: false,
        })
    }

    /// Whether `name` is that of K/V that a model of this config may have and never reads.
    pub(crate) fn is_unused_kv(&self, name: &str) -> bool {
        let Some((layer, rest)) = name.strip_prefix("blk.").and_then(|name| name.split_once('.')) else {
            return false;
        };
        let layer = layer.parse::<usize>().ok().filter(|&layer| layer < self.config.layers());
        let kv = ["attn_k.weight", "attn_v.weight", "attn_k_norm.weight"];
        kv.contains(&rest) && layer.is_some_and(|layer| self.config.shares_kv(layer))
    }
}

/// The name of a file in messages.
pub(crate) fn name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
