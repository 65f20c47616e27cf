//! Planning: the outputs of a checkpoint, without writing them.

use std::path::PathBuf;

use checkpoint::{Adapter, Checkpoint};
use convert::{Options, PartSize, TensorGroup};
use gemma::Config;
use imatrix::Importance;
use plan::{FileEntry, GridPolicy, Plan, Request, Shards};
use quant::Simd;
use tensor::Result;

use super::calibration_targets::CalibrationTargets;
use super::estimates::{ArtifactMemory, EstimateOptions};
use super::sensitivities::Costs;
use base::{Part, Progress, Silent};

use crate::model::open_checkpoint;
use crate::options::RecipeOptions;
use crate::requests::{Destination, requests, shards};

/// Plans the outputs of a checkpoint.
#[derive(Clone, Debug)]
pub struct Planning {
    /// The checkpoint folder, or a GGUF file.
    pub model: PathBuf,
    /// Adapters (LoRA) that are merged into the checkpoint, in order.
    pub adapters: Vec<Adapter>,
    /// The artifacts to plan.
    pub recipes: RecipeOptions,
    /// The folder of the outputs, or the name of one `.gguf` file.
    pub out: PathBuf,
    /// Settings of the memory estimate.
    pub estimate: EstimateOptions,
    /// The number of parts of which sizes are wanted.
    pub parts: Option<u32>,
    /// The folder has the headers of the weights only: values are not looked at.
    pub headers_only: bool,
}

/// A plan with memory estimates.
#[derive(Clone, Debug)]
pub struct PlanOutcome {
    /// The plan.
    pub plan: Plan,
    /// The memory estimates of each text model: with each mmproj file, if any is planned.
    pub memory: Vec<ArtifactMemory>,
    /// What the parts need, if they are wanted.
    pub parts: Vec<PartNeeds>,
}

/// What a part of a conversion needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartNeeds {
    /// Bytes of the files that it reads and writes.
    pub size: PartSize,
    /// Bytes on the disk: those that it writes, and the layers that calibrated quantization keeps until then.
    pub disk: u64,
    /// Bytes of memory. Of calibrated quantization that for a text of 16,384 tokens.
    pub memory: u64,
}

/// Bytes of memory of a conversion.
const CONVERSION_MEMORY: u64 = 130_000_000;

/// The tokens of the calibration text of which a plan gives the memory.
const TOKENS: u64 = 16_384;

impl Planning {
    /// A planning job without an artifact yet.
    pub fn new(model: impl Into<PathBuf>) -> Planning {
        Planning {
            model: model.into(),
            adapters: Vec::new(),
            recipes: RecipeOptions::default(),
            out: ".".into(),
            estimate: EstimateOptions::default(),
            parts: None,
            headers_only: false,
        }
    }

    /// Adds a recipe: the name of an embedded one or of a preset, or the path of a TOML file.
    #[must_use]
    pub fn recipe(mut self, name: impl Into<String>) -> Planning {
        self.recipes.recipes.push(name.into());
        self
    }

    /// Checks the recipes and the destination, without the checkpoint.
    ///
    /// # Errors
    /// `Recipe` for unknown or contradicting ones; those of files that they name.
    pub fn check(&self) -> Result<()> {
        requests(&self.recipes, &Destination::new(&self.out)).map(drop)
    }

    /// Whether weights decide what is planned, and not their headers alone: a recipe that repacks a quantization grid (QAT)
    /// samples them.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn samples_weights(&self) -> Result<bool> {
        let requests = requests(&self.recipes, &Destination::new(&self.out))?;
        Ok(requests.iter().any(|request| request.recipe.types.lattice != GridPolicy::Off))
    }

    /// Plans the outputs.
    ///
    /// # Errors
    /// `Recipe` for options that do not fit the model or each other, `Malformed` or `Unsupported` for the checkpoint,
    /// `Io`.
    pub fn run(&self) -> Result<PlanOutcome> {
        let mut requests = requests(&self.recipes, &Destination::new(&self.out))?;
        self.estimate.check(&requests)?;
        let checkpoint = open_checkpoint(&self.model, &self.adapters)?;
        let checkpoint = if self.headers_only { checkpoint.of_headers() } else { checkpoint };
        let importance = requests.iter().find_map(|request| request.importance.as_ref()?.entries.clone());
        let importance = importance.as_deref();
        if let Some(plan) = of_mmproj(&checkpoint, &requests)? {
            let parts = self.part_needs(&plan, importance, None)?;
            return Ok(PlanOutcome { plan, memory: Vec::new(), parts });
        }
        let model = gemma::ModelSpec::open(&checkpoint)?;
        let shards = shards(Simd::detect(), &checkpoint, &model, &requests)?;
        let costs = self.recipes.budget.sensitivity.as_deref().map_or(Costs::Unknown, Costs::File);
        costs.choose(&mut requests, (&checkpoint, &model, &shards), |_| Ok(()), &Silent)?;
        let plan = plan::plan(&model, &shards, &requests)?;
        let memory = self.estimate.estimates(&model, &shards, &plan)?;
        drop(shards);
        let parts = self.part_needs(&plan, importance, Some(&model.config))?;
        Ok(PlanOutcome { plan, memory, parts })
    }

    /// What the parts need, if they are wanted. A plan without a text model has no `config`.
    fn part_needs(
        &self,
        plan: &Plan,
        importance: Option<&Importance>,
        config: Option<&Config>,
    ) -> Result<Vec<PartNeeds>> {
        let Some(count) = self.parts else { return Ok(Vec::new()) };
        let of = |artifact| Some((config?, CalibrationTargets::of(config?, artifact)?));
        let targets: Vec<_> = plan.artifacts.iter().filter_map(of).collect();
        let groups: Vec<TensorGroup> =
            targets.iter().flat_map(|(_, targets)| targets.tensor_groups()).collect();
        let sizes = convert::part_sizes(plan, importance, &groups, count)?;
        let needs = |(number, size): (u32, PartSize)| {
            let part = Part::new(number, count)?;
            let (mut disk, mut memory) = (size.output, CONVERSION_MEMORY);
            for (config, targets) in &targets {
                let stored = targets.stored_bytes(part);
                disk += stored;
                if stored > 0 {
                    memory = memory.max(CONVERSION_MEMORY + targets.memory(config, TOKENS));
                }
            }
            Ok(PartNeeds { size, disk, memory })
        };
        (1..).zip(sizes).map(needs).collect()
    }
}

/// A checkpoint with the plan for it.
pub(crate) struct Planned {
    pub(crate) checkpoint: Checkpoint,
    /// The text model. An mmproj file as the source has none.
    pub(crate) model: Option<gemma::ModelSpec>,
    pub(crate) plan: Plan,
    /// Input files in addition to those of the checkpoint, for the manifest.
    pub(crate) given: Vec<FileEntry>,
}

impl Planned {
    /// Plans the requests for a checkpoint, with bit allocation for those that have a budget. Before long work,
    /// `target` is checked for free space and existing files.
    pub(crate) fn new(
        checkpoint: Checkpoint,
        requests: &mut [Request],
        costs: &Costs<'_>,
        target: &Options,
        progress: &dyn Progress,
    ) -> Result<Planned> {
        let checkpoint = checkpoint.with_simd(target.simd);
        if let Some(plan) = of_mmproj(&checkpoint, requests)? {
            return Ok(Planned { checkpoint, model: None, plan, given: Vec::new() });
        }
        let model = gemma::ModelSpec::open(&checkpoint)?;
        let shards = shards(target.simd, &checkpoint, &model, requests)?;
        let check = |plan: &Plan| convert::check(&checkpoint, plan, target);
        costs.choose(requests, (&checkpoint, &model, &shards), check, progress)?;
        let plan = plan::plan(&model, &shards, requests)?;
        Ok(Planned { checkpoint, model: Some(model), plan, given: Vec::new() })
    }
}

/// The plan of other types of an mmproj file; `None` for another source.
fn of_mmproj(checkpoint: &Checkpoint, requests: &[Request]) -> Result<Option<Plan>> {
    let Some(keys) = checkpoint.keys().filter(|keys| gemma::is_mmproj(keys)) else { return Ok(None) };
    let plan = plan::plan_mmproj(keys, &Shards::of(checkpoint), requests);
    plan.map(Some).map_err(|e| e.within(checkpoint.shards()[0].path.display()))
}
