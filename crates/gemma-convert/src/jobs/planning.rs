//! Planning: the outputs of a checkpoint, without writing them.

use std::path::{Path, PathBuf};

use checkpoint::Checkpoint;
use convert::Options;
use footprint::{Conditions, Memory, Verdict};
use plan::{FileEntry, Format, Plan, Request};
use quant::Simd;
use tensor::{DType, Error, Result};

use super::sensitivities::Costs;
use base::{Progress, Silent};

use crate::options::RecipeOptions;
use crate::requests::{Destination, requests, shards};

/// Plans the outputs of a checkpoint.
#[derive(Clone, Debug)]
pub struct Planning {
    /// The checkpoint folder.
    pub model: PathBuf,
    /// The artifacts to plan.
    pub recipes: RecipeOptions,
    /// The folder of the outputs, or the name of one `.gguf` file.
    pub out: PathBuf,
    /// Tokens of prompt and answer together, for the memory estimate; default: the smaller of 8192 and the model's
    /// context.
    pub context: Option<u64>,
    /// Type of the KV cache in llama.cpp, for the memory estimate.
    pub kv_type: DType,
    /// Memory limit in bytes that the estimate is compared with.
    pub memory: Option<u64>,
}

/// A plan with memory estimates.
#[derive(Clone, Debug)]
pub struct PlanOutcome {
    /// The plan.
    pub plan: Plan,
    /// The memory estimate of each artifact with a text model.
    pub memory: Vec<ArtifactMemory>,
}

/// The memory estimate of an artifact.
#[derive(Clone, Debug)]
pub struct ArtifactMemory {
    /// The artifact's recipe.
    pub recipe: String,
    /// The estimate.
    pub memory: Memory,
    /// Whether it fits, if the job has a memory limit.
    pub verdict: Option<Verdict>,
}

/// Default tokens of context for a memory estimate.
const CONTEXT: u64 = 8192;

impl Planning {
    /// A planning job without an artifact yet.
    pub fn new(model: impl Into<PathBuf>) -> Planning {
        Planning {
            model: model.into(),
            recipes: RecipeOptions::default(),
            out: ".".into(),
            context: None,
            kv_type: DType::F16,
            memory: None,
        }
    }

    /// Adds a recipe: the name of an embedded one or of a preset, or the path of a TOML file.
    #[must_use]
    pub fn recipe(mut self, name: impl Into<String>) -> Planning {
        self.recipes.recipes.push(name.into());
        self
    }

    /// Plans the outputs.
    ///
    /// # Errors
    /// `Recipe` for options that do not fit the model or each other, `Malformed` or `Unsupported` for the checkpoint,
    /// `Io`.
    pub fn run(&self) -> Result<PlanOutcome> {
        let mut requests = requests(&self.recipes, &Destination::new(&self.out))?;
        let checkpoint = Checkpoint::open(&self.model)?;
        let model = gemma::ModelSpec::open(&checkpoint)?;
        let shards = shards(Simd::detect(), &checkpoint, &model, &requests)?;
        let costs = self.recipes.budget.sensitivity.as_deref().map_or(Costs::Unknown, Costs::File);
        costs.choose(&mut requests, (&checkpoint, &model, &shards), |_| Ok(()), &Silent)?;
        let plan = plan::plan(&model, &shards, &requests)?;
        let context = self.context.unwrap_or(model.config.context.clamp(1, CONTEXT));
        let conditions = Conditions::new(&model.config, context, self.kv_type)?;
        let conditions = Conditions { threads: rayon::current_num_threads() as u64, ..conditions };
        let of_text = plan.artifacts.iter().filter(|artifact| artifact.format != Format::Mmproj);
        let memory = of_text.map(|artifact| {
            let verdict = |limit| footprint::verdict(&model, &shards, artifact, conditions, limit);
            let verdict = self.memory.map(verdict).transpose()?;
            Ok(ArtifactMemory {
                recipe: artifact.recipe.clone(),
                memory: footprint::memory(&model, artifact, conditions),
                verdict,
            })
        });
        let memory: Vec<_> = memory.collect::<Result<_>>()?;
        if self.memory.is_some() && memory.is_empty() {
            return Err(Error::recipe("‹memory›", "has no effect without a text model")
                .help("Add the recipe of the text model to that of its mmproj file."));
        }
        drop(shards);
        Ok(PlanOutcome { plan, memory })
    }
}

/// A checkpoint with the plan for it.
pub(crate) struct Planned {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) model: gemma::ModelSpec,
    pub(crate) plan: Plan,
    /// Input files in addition to those of the checkpoint, for the manifest.
    pub(crate) given: Vec<FileEntry>,
}

impl Planned {
    /// Opens a checkpoint and plans the requests, with bit allocation for those that have a budget. Before long work,
    /// `target` is checked for free space and existing files.
    pub(crate) fn new(
        path: &Path,
        requests: &mut [Request],
        costs: &Costs<'_>,
        target: &Options,
        progress: &dyn Progress,
    ) -> Result<Planned> {
        let checkpoint = Checkpoint::open(path)?.with_simd(target.simd);
        let model = gemma::ModelSpec::open(&checkpoint)?;
        let shards = shards(target.simd, &checkpoint, &model, requests)?;
        let check = |plan: &Plan| convert::check(&checkpoint, plan, target);
        costs.choose(requests, (&checkpoint, &model, &shards), check, progress)?;
        let plan = plan::plan(&model, &shards, requests)?;
        Ok(Planned { checkpoint, model, plan, given: Vec::new() })
    }
}
