//! The expected artifact: the keys and tensors of a plan, and the origin of their values.
//!
//! If the base is a checkpoint, this is [`plan::plan`] for it, in one file. If the base is another GGUF, it is that
//! file, with any types; an mmproj file is the base of another. The keys of a folder of safetensors are those that its GGUF would have; for its other contents
//! see `folder.rs`. [`crate::Provenance`] finds the recipe.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use checkpoint::Checkpoint;
use gemma::towers::{TowerTensor, Towers};
use gemma::{Config, ModelSpec};
use gguf::{GgufSet, Header, Metadata};
use imatrix::Importance;
use plan::{
    Format, GivenImportance, GridPolicy, ImportanceSource, Lattice, Origin as PlannedOrigin, OutputTensor,
    Request, Shards, TENSOR_DIGESTS,
};
use quant::Simd;
use tensor::{DType, Error, Result, TensorDesc, TensorSource};

use crate::Provenance;
use crate::artifact::name;
use crate::folder::{self, Folder};

/// The router of a mixture of experts, which calibration adjusts.
const ROUTER: &str = "ffn_gate_inp";

/// The expected artifact.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The source of the plan: `manifest`, `recipe q4_0`, `general.file_type 2 (q4_0)`, `file model.gguf`.
    pub plan: String,
    /// Config of the text model. An mmproj file as the base has none.
    pub config: Option<Config>,
    /// The keys, without `split.*`.
    pub metadata: Metadata,
    /// The tensors.
    pub tensors: Vec<ExpectedTensor>,
    /// The other contents of a folder. `None` for a GGUF.
    pub folder: Option<Folder>,
    /// Whether all keys, types and unused K/V must be as planned; otherwise names, types and unused K/V are free.
    pub binding: bool,
    /// Whether this tool made the artifact, and the manifest says how.
    pub known: bool,
    /// The imatrix that it was quantized with, if it was found.
    pub importance: Option<Arc<Importance>>,
    /// Whether its preset has quantized types.
    pub quantised: bool,
    /// Whether the base may be quantized itself: a block with as small an error as the expected one is accepted.
    pub lenient: bool,
}

/// The quantization of a tensor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rounding {
    /// The type that values are rounded to first.
    pub via: Option<DType>,
    /// The 4-bit quantization grid (QAT) that the values keep.
    pub lattice: Option<Lattice>,
    /// With importance: the imatrix has an entry.
    pub steered: bool,
    /// With an imatrix that was not found.
    pub unknown_importance: bool,
    /// Possibly with error feedback.
    pub feedback: bool,
}

/// A tensor that an artifact should have.
#[derive(Clone, Debug)]
pub struct ExpectedTensor {
    /// Name, type and shape.
    pub desc: TensorDesc,
    /// llama.cpp's name of the role.
    pub role: &'static str,
    /// The layer; `None` outside of layers.
    pub layer: Option<usize>,
    /// K/V of a layer that reads another layer's: optional, never read.
    pub unused: bool,
    /// Adjusted to neighbouring quantization error, so only close to its original.
    pub fitted: bool,
    /// The quantization of its values.
    pub rounding: Rounding,
    /// The origin of its values.
    pub from: Values,
}

/// The origin of the values of a tensor.
#[derive(Clone, Debug)]
pub enum Values {
    /// The tensor with this index in the base.
    Base(usize),
    /// Values computed from the config.
    Generated(Vec<f32>),
}

impl Expected {
    /// The plan for a checkpoint with the recipe of an artifact, and with the imatrix if it was made with one.
    ///
    /// # Errors
    /// Those of [`plan::plan`]: the recipe does not fit the checkpoint.
    pub fn of_checkpoint(
        checkpoint: &Checkpoint,
        model: &ModelSpec,
        from: &Provenance,
        simd: Simd,
    ) -> Result<Expected> {
        if from.recipe.output.format == Format::Safetensors {
            return Expected::of_folder(checkpoint, model, from);
        }
        if from.recipe.output.format == Format::Mmproj {
            return Expected::of_mmproj(checkpoint, model, from);
        }
        let mut recipe = from.recipe.clone();
        recipe.output.split_max_size = None;
        recipe.output.offload.clear();
        let entries = from.entries.clone();
        let given = |keys| GivenImportance {
            source: ImportanceSource { keys, file: None },
            entries: entries.clone(),
        };
        let importance = from.importance.clone().map(given);
        let mut request = [Request { importance, ..Request::new(&from.plan, recipe, "model") }];
        let mut shards = Shards::of(checkpoint);
        if request[0].recipe.types.lattice != GridPolicy::Off {
            shards.surveys =
                convert::survey_grid(simd, checkpoint, &plan::to_survey(model, &shards, &request))?;
            let policy = &mut request[0].recipe.types.lattice;
            if *policy == GridPolicy::Require || !policy.accepts(&shards) {
                *policy = GridPolicy::Auto; // weights off the grid show in the types
            }
        }
        let calibrated = from.recipe.calibration.is_some();
        let (planned, mut metadata) = planned_gguf(model, &shards, &request)?;
        // these digests depend on the tensors, which do not exist yet
        metadata.remove(TENSOR_DIGESTS);

        let found: HashMap<&str, _> =
            model.inventory.text.iter().map(|f| (f.slot.gguf.as_str(), f)).collect();
        let unknown_importance = from.importance.is_some() && from.entries.is_none();
        let tensors = planned.into_iter().map(|tensor| {
            let mut rounding = Rounding::default();
            let (unused, from) = match (tensor.from, found.get(tensor.desc.name.as_str())) {
                (PlannedOrigin::Generated(values), _) => (false, Values::Generated(values)),
                (PlannedOrigin::Checkpoint(stored), Some(found)) => {
                    rounding = Rounding {
                        via: stored.via,
                        lattice: stored.lattice,
                        steered: stored.uses_imatrix,
                        unknown_importance,
                        feedback: calibrated && tensor.role != "per_layer_token_embd",
                    };
                    (found.slot.unused, Values::Base(found.index))
                }
                (PlannedOrigin::Checkpoint(_) | PlannedOrigin::Scales(_), _) => {
                    return Err(Error::malformed(format!("tensor {}", tensor.desc.name), "has no role"));
                }
            };
            let OutputTensor { desc, role, layer, .. } = tensor;
            let fitted = calibrated && role == ROUTER;
            Ok(ExpectedTensor { desc, role, layer, unused, fitted, rounding, from })
        });
        let tensors = tensors.collect::<Result<_>>()?;
        let importance = from.entries.clone();
        Ok(Expected { importance, ..Expected::of_plan(model, from, metadata, tensors) })
    }

    /// The plan of a GGUF, made without an imatrix.
    fn of_plan(
        model: &ModelSpec,
        from: &Provenance,
        metadata: Metadata,
        tensors: Vec<ExpectedTensor>,
    ) -> Expected {
        let quantised = tensors.iter().any(|tensor| tensor.desc.dtype.is_quantized());
        Expected {
            plan: from.plan.clone(),
            config: Some(model.config.clone()),
            metadata,
            tensors,
            folder: None,
            binding: from.binding,
            known: from.binding && from.entry.is_some(),
            importance: None,
            quantised: quantised && !from.binding,
            lenient: false,
        }
    }

    fn of_folder(checkpoint: &Checkpoint, model: &ModelSpec, from: &Provenance) -> Result<Expected> {
        let Provenance { recipe, plan, binding, .. } = from.clone();
        let metadata = folder::keys(checkpoint, &model.config)?;
        let request = Request::new(&plan, recipe, "");
        let planned = plan::plan(model, &Shards::of(checkpoint), &[request])?;
        let numbers: HashMap<&str, usize> =
            checkpoint.tensors().iter().enumerate().map(|(i, desc)| (desc.name.as_str(), i)).collect();
        let unused = model.inventory.text.iter().filter(|found| found.slot.unused);
        let unused: HashSet<usize> = unused.map(|found| found.index).collect();
        let (mut tensors, mut folder) = (Vec::new(), Folder::default());
        for file in planned.artifacts.into_iter().flat_map(|artifact| artifact.files) {
            folder.add(&file, checkpoint.dir());
            for OutputTensor { desc, role, layer, from, .. } in file.tensors {
                let mut rounding = Rounding::default();
                let from = match from {
                    PlannedOrigin::Scales(of) => {
                        folder.scales.insert(of, desc);
                        continue;
                    }
                    PlannedOrigin::Generated(values) => Values::Generated(values),
                    PlannedOrigin::Checkpoint(stored) => match numbers.get(stored.tensor.as_str()) {
                        Some(&index) => {
                            rounding.via = stored.via;
                            Values::Base(index)
                        }
                        None => return Err(Error::malformed(format!("tensor {}", desc.name), "has no role")),
                    },
                };
                let unused = matches!(from, Values::Base(index) if unused.contains(&index));
                tensors.push(ExpectedTensor { desc, role, layer, unused, fitted: false, rounding, from });
            }
        }
        let config = Some(model.config.clone());
        Ok(Expected {
            plan,
            config,
            metadata,
            tensors,
            folder: Some(folder),
            binding,
            known: binding && from.entry.is_some(),
            importance: None,
            quantised: false,
            lenient: false,
        })
    }

    /// The plan of an mmproj file. Indices are those of a [`gemma::towers::MmprojView`] over [`plan::tower_tensors`].
    fn of_mmproj(checkpoint: &Checkpoint, model: &ModelSpec, from: &Provenance) -> Result<Expected> {
        let request = Request::new(&from.plan, from.recipe.clone(), "mmproj");
        let (planned, metadata) = planned_gguf(model, &Shards::of(checkpoint), &[request])?;
        let tensors = planned.into_iter().enumerate().map(|(index, tensor)| {
            let OutputTensor { desc, role, layer, .. } = tensor;
            let (rounding, from) = (Rounding::default(), Values::Base(index));
            ExpectedTensor { desc, role, layer, unused: false, fitted: false, rounding, from }
        });
        Ok(Expected::of_plan(model, from, metadata, tensors.collect()))
    }

    /// The expected artifact for another file of the same model: the keys and tensors of `base`, with any types.
    ///
    /// # Errors
    /// `Malformed` or `Unsupported` if `base` is not a whole Gemma 4 text model.
    pub fn of_gguf(base: &GgufSet) -> Result<Expected> {
        let within = |e: Error| e.within(base.parts()[0].path().display());
        let config = Config::any_from_metadata(base.metadata(), base.tensors()).map_err(within)?;
        let inventory = gemma::gguf_inventory(&config, base.tensors()).map_err(within)?;
        let tensors = inventory.text.into_iter().map(|found| ExpectedTensor {
            desc: base.tensors()[found.index].clone(),
            role: found.slot.role,
            layer: found.slot.layer,
            fitted: false,
            rounding: Rounding::default(),
            unused: found.slot.unused,
            from: Values::Base(found.index),
        });
        Ok(Expected::like(base, Some(config), tensors.collect()))
    }

    /// The expected artifact for another mmproj file of the same model: the keys and tensors of `base`, with any types.
    ///
    /// # Errors
    /// `Malformed` or `Unsupported` if `base` does not have the whole towers of a Gemma 4.
    pub fn of_mmproj_file(base: &GgufSet) -> Result<Expected> {
        let within = |e: Error| e.within(base.parts()[0].path().display());
        let towers = Towers::from_metadata(base.metadata(), base.tensors()).map_err(within)?;
        let found = towers.find_in_mmproj(base.tensors()).map_err(within)?;
        let tensors = found.into_iter().map(|TowerTensor { slot, index }| ExpectedTensor {
            desc: base.tensors()[index].clone(),
            role: slot.role,
            layer: slot.layer,
            fitted: false,
            rounding: Rounding::default(),
            unused: false,
            from: Values::Base(index),
        });
        Ok(Expected::like(base, None, tensors.collect()))
    }

    /// A file like `base`, with any types.
    fn like(base: &GgufSet, config: Option<Config>, tensors: Vec<ExpectedTensor>) -> Expected {
        Expected {
            plan: format!("file {}", name(base.parts()[0].path())),
            config,
            metadata: base.metadata().clone(),
            tensors,
            folder: None,
            binding: false,
            known: false,
            importance: None,
            quantised: true,
            lenient: true,
        }
    }

    /// The config of the folder that the plan writes: that of the base, or of its text model alone.
    pub(crate) fn artifact_config(&self, folder: &Folder) -> Option<Config> {
        folder.config().or_else(|| self.config.clone())
    }

    /// The head size of a layer of the text model, if there is such a layer.
    pub(crate) fn head_dim_of(&self, layer: Option<usize>) -> Option<u64> {
        let config = self.config.as_ref()?;
        layer.filter(|&layer| layer < config.layers()).map(|layer| config.head_dim_of(layer))
    }

    /// Whether `name` is a K/V tensor that a model of this config may have and never reads.
    pub(crate) fn is_unused_kv(&self, name: &str) -> bool {
        const OF_GGUF: [&str; 3] = ["attn_k.weight", "attn_v.weight", "attn_k_norm.weight"];
        const OF_FOLDER: [&str; 3] =
            ["self_attn.k_proj.weight", "self_attn.v_proj.weight", "self_attn.k_norm.weight"];
        let (after, kv) = match &self.folder {
            None => (name.strip_prefix("blk."), OF_GGUF),
            Some(_) => (name.split_once("layers.").map(|(_, rest)| rest), OF_FOLDER),
        };
        let (Some((layer, rest)), Some(config)) = (after.and_then(|name| name.split_once('.')), &self.config)
        else {
            return false;
        };
        let layer = layer.parse::<usize>().ok().filter(|&layer| layer < config.layers());
        kv.contains(&rest) && layer.is_some_and(|layer| config.shares_kv(layer))
    }
}

/// The tensors and keys of the only file of a planned GGUF.
fn planned_gguf(
    model: &ModelSpec,
    shards: &Shards<'_>,
    request: &[Request; 1],
) -> Result<(Vec<OutputTensor>, Metadata)> {
    let plan = &request[0].name;
    let planned = plan::plan(model, shards, request)?;
    let file = planned.artifacts.into_iter().flat_map(|artifact| artifact.files).next();
    let file = file.ok_or_else(|| Error::recipe(plan, "the plan has no file"))?;
    let header = Header::read(&mut file.header.as_slice(), file.bytes).map_err(|e| e.within(plan))?;
    Ok((file.tensors, header.metadata))
}
