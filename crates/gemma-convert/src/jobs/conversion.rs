//! Conversion: checkpoint to GGUF or safetensors.

use std::path::PathBuf;
use std::time::Instant;

use base::{Part, Progress};
use checkpoint::Adapter;
use convert::{HashInput, Options, StreamedFiles};
use plan::{Allocation, ArtifactEntry, FileEntry, GridPolicy, HubSource, Plan, Request};
use runtime::Compute;
use tensor::{Error, Result};

use super::Planned;
use super::drafts;
use super::rounding::{self, StoredLayers};
use super::sensitivities::Costs;
use crate::TOOL;
use crate::model::open_checkpoint;
use crate::options::{RecipeOptions, TextOptions};
use crate::requests::{Destination, requests};
use draft::LayerSelection;

/// Converts a checkpoint. Several recipes are made in one pass over it.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let (checkpoint, out) = (testkit::fixtures("checkpoints/e2b"), folder.path().join("out"));
/// use gemma_convert::{Convert, Silent};
///
/// let made = Convert::new(checkpoint, out).recipe("q8_0").run(&Silent)?;
/// assert_eq!(made.artifacts[0].outputs[0].name, "model-q8_0.gguf");
/// # Ok::<(), gemma_convert::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Convert {
    /// The checkpoint folder, or a GGUF file.
    pub model: PathBuf,
    /// Adapters (LoRA) that are merged into the checkpoint, in order.
    pub adapters: Vec<Adapter>,
    /// The repository of the hub from which the checkpoint came, for the manifest.
    pub source: Option<HubSource>,
    /// The folder of the outputs, or the name of one `.gguf` file.
    pub out: PathBuf,
    /// The artifacts to make.
    pub recipes: RecipeOptions,
    /// The calibration text, for error feedback and sensitivities.
    pub text: TextOptions,
    /// The part to make, if the outputs are made by several processes; [`Join`](super::Join) makes the outputs then.
    pub part: Option<Part>,
    /// Replaces existing outputs.
    pub force: bool,
    /// Skips an artifact that exists already, complete and made by the same plan with the same texts.
    pub skip_existing: bool,
    /// Flushes outputs to disk before they get their final names. Without this, a power cut may lose outputs; a killed
    /// run still leaves no incomplete file.
    pub sync: bool,
    /// Whether files of weights are hashed as they are read: by default those whose SHA-256 no download has recorded.
    pub hash_input: HashInput,
    /// Arithmetic. The bytes depend on the kernel of matrix products where text is read (calibrated rounding, sensitivities), and
    /// never on the vector instructions.
    pub compute: Compute,
}

/// The result of a conversion.
#[derive(Clone, Debug, Default)]
pub struct Converted {
    /// The folder of the outputs.
    pub folder: PathBuf,
    /// The manifest's entry of each artifact: inputs and outputs with sizes and SHA-256.
    pub artifacts: Vec<ArtifactEntry>,
    /// The path of the manifest.
    pub manifest: PathBuf,
    /// The bit allocation of the artifacts that have one.
    pub allocations: Vec<Allocation>,
    /// Size of the checkpoint in bytes.
    pub input_bytes: u64,
    /// Wall time of the pass over the checkpoint.
    pub seconds: f64,
    /// Wall time of the whole job, with sensitivities, calibration and draft models.
    pub total_seconds: f64,
    /// The recipes whose artifacts existed already and were skipped.
    pub skipped: Vec<String>,
    /// The draft models of recipes with `[draft]`.
    pub drafts: Vec<Converted>,
    /// The layers of an extracted draft model.
    pub layers: Option<LayerSelection>,
}

impl Convert {
    /// A conversion without an artifact yet. Existing outputs are not replaced, and outputs are flushed to disk.
    pub fn new(model: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Convert {
        Convert {
            model: model.into(),
            adapters: Vec::new(),
            source: None,
            out: out.into(),
            recipes: RecipeOptions::default(),
            text: TextOptions::default(),
            part: None,
            force: false,
            skip_existing: false,
            sync: true,
            hash_input: HashInput::default(),
            compute: Compute::detect(),
        }
    }

    /// Adds a recipe: the name of an embedded one or of a preset, or the path of a TOML file.
    #[must_use]
    pub fn recipe(mut self, name: impl Into<String>) -> Convert {
        self.recipes.recipes.push(name.into());
        self
    }

    /// Adds an mmproj file with the image and audio towers; a preset gives the type of its matrices.
    #[must_use]
    pub fn mmproj(mut self, preset: impl Into<String>) -> Convert {
        self.recipes.mmproj.push(preset.into());
        self
    }

    /// Quantizes with an importance matrix, like `llama-quantize --imatrix`.
    #[must_use]
    pub fn importance(mut self, file: impl Into<PathBuf>) -> Convert {
        self.recipes.importance = Some(file.into());
        self
    }

    /// Adds a calibration text, for error feedback or sensitivities.
    #[must_use]
    pub fn text(mut self, file: impl Into<PathBuf>) -> Convert {
        self.text.files.push(file.into());
        self
    }

    /// Sets a key of the recipe: `unused_kv=drop`.
    #[must_use]
    pub fn set(mut self, setting: impl Into<String>) -> Convert {
        self.recipes.settings.push(setting.into());
        self
    }

    /// Skips artifacts that exist already.
    #[must_use]
    pub fn skip_existing(mut self) -> Convert {
        self.skip_existing = true;
        self
    }

    /// Replaces existing outputs.
    #[must_use]
    pub fn force(mut self) -> Convert {
        self.force = true;
        self
    }

    /// Checks the recipes and the destination, without the checkpoint.
    ///
    /// # Errors
    /// `Recipe` for unknown or contradicting ones; those of files that they name.
    pub fn check(&self) -> Result<()> {
        requests(&self.recipes, &Destination::new(&self.out)).map(drop)
    }

    /// Converts the checkpoint.
    ///
    /// # Errors
    /// `Recipe` for options that do not fit the model or each other; `Malformed` or `Unsupported` for the checkpoint;
    /// `Target` for existing outputs or too little free space; `Io`. After an error, no output has appeared.
    pub fn run(&self, progress: &dyn Progress) -> Result<Converted> {
        // draft models come first: they are small, and reveal unsuitable options early
        let start = Instant::now();
        self.check_part()?;
        let made = drafts::of_recipes(self, progress)?;
        let text = if made.text_is_used { self.text.without_files() } else { self.text.clone() };
        let of_model = Convert { text, ..self.clone() };
        let mut converted = of_model.run_planned(progress, |requests, options| {
            // sensitivities use the text even if a draft model does too
            let costs =
                Costs::of(&self.recipes.budget, &self.text, &options.folder, self.force, self.compute);
            Planned::new(open_checkpoint(&self.model, &self.adapters)?, requests, &costs, options, progress)
        })?;
        converted.drafts = made.drafts;
        converted.total_seconds = start.elapsed().as_secs_f64();
        Ok(converted)
    }

    /// Converts a checkpoint whose weights come in order and are not on the disk: the files of [`model`](Self::model) have headers
    /// only.
    ///
    /// # Errors
    /// Those of [`run`](Self::run) and of the stream; `Recipe` for recipes that read the weights more than once: calibration, bit
    /// allocation, a quantization grid, a draft model.
    pub fn run_streamed(&self, stream: &mut dyn StreamedFiles, progress: &dyn Progress) -> Result<Converted> {
        self.check_streamed()?;
        self.run_planned_from(Some(stream), progress, |requests, options| {
            let checkpoint = open_checkpoint(&self.model, &self.adapters)?.of_headers();
            Planned::new(checkpoint, requests, &Costs::Unknown, options, progress)
        })
    }

    /// Whether a stream of the weights is enough, which they pass once.
    ///
    /// # Errors
    /// `Recipe` for recipes that read them more than once.
    pub fn check_streamed(&self) -> Result<()> {
        self.check_part()?;
        for Request { name, recipe, .. } in requests(&self.recipes, &Destination::new(&self.out))? {
            let twice = [
                ("calibration", recipe.calibration.is_some()),
                ("budget", recipe.budget.is_some() && self.recipes.budget.sensitivity.is_none()),
                ("types.lattice", recipe.types.lattice != GridPolicy::Off),
                ("draft", recipe.draft.is_some()),
            ];
            if let Some((key, _)) = twice.iter().find(|(_, is_twice)| *is_twice) {
                return Err(Error::recipe(
                    "‹stream›",
                    format!("recipe {name} reads the weights more than once ({key})"),
                )
                .help("Download the model: leave ‹stream› out."));
            }
        }
        Ok(())
    }

    /// Refuses a part of what no part can do alone.
    fn check_part(&self) -> Result<()> {
        let Some(part) = self.part else { return Ok(()) };
        let requests = requests(&self.recipes, &Destination::new(&self.out))?;
        // groups of the layers of two recipes may be different ones
        if requests.iter().filter(|request| request.recipe.calibration.is_some()).count() > 1 {
            return Err(Error::recipe(format!("‹part› {part}"), "several recipes are calibrated")
                .help("Run each of them with a command of its own."));
        }
        for Request { name, recipe, .. } in requests {
            let whole = [
                (
                    "budget",
                    recipe.budget.is_some() && self.recipes.budget.sensitivity.is_none(),
                    "Measure the sensitivities first, and give them with ‹sensitivity›.",
                ),
                ("draft", recipe.draft.is_some(), "Convert the draft model with a command of its own."),
            ];
            if let Some((key, _, help)) = whole.into_iter().find(|(_, is_whole, _)| *is_whole) {
                let problem = format!("recipe {name} has a step that needs the whole model ({key})");
                return Err(Error::recipe(format!("‹part› {part}"), problem).help(help));
            }
        }
        Ok(())
    }

    /// [`run`](Self::run) with the plan that `plan_for` makes, and without draft models.
    pub(crate) fn run_planned(
        &self,
        progress: &dyn Progress,
        plan_for: impl FnOnce(&mut Vec<Request>, &Options) -> Result<Planned>,
    ) -> Result<Converted> {
        self.run_planned_from(None, progress, plan_for)
    }

    fn run_planned_from(
        &self,
        stream: Option<&mut dyn StreamedFiles>,
        progress: &dyn Progress,
        plan_for: impl FnOnce(&mut Vec<Request>, &Options) -> Result<Planned>,
    ) -> Result<Converted> {
        let job_start = Instant::now();
        let destination = Destination::new(&self.out);
        let mut requests = requests(&self.recipes, &destination)?;
        let Destination { folder, file_name } = destination;
        let mut options = Options {
            folder: folder.clone(),
            part: self.part,
            named: file_name,
            force: self.force,
            sync: self.sync,
            hash_input: self.hash_input,
            simd: self.compute.simd,
            importance: requests.iter().find_map(|request| request.importance.as_ref()?.entries.clone()),
            rounded: Vec::new(),
            groups: Vec::new(),
            depends_on: Vec::new(),
            calibrations: Vec::new(),
            inputs: Vec::new(),
            settings: Vec::new(),
            source: self.source.clone(),
            tool: TOOL.to_owned(),
        };
        let mut planned = plan_for(&mut requests, &options)?;
        let skipped = if self.skip_existing {
            self.skip(&mut planned.plan, &mut requests, &options, progress)?
        } else {
            Vec::new()
        };
        if requests.is_empty() {
            let manifest = options.manifest();
            let skipped_names = names(&skipped);
            return Ok(Converted {
                folder,
                artifacts: skipped,
                manifest,
                skipped: skipped_names,
                ..Converted::default()
            });
        }
        let settings =
            requests.iter().map(|r| serde_json::to_value(&r.recipe).expect("a recipe is plain data"));
        options.settings = settings.collect();
        let allocated = requests.iter().any(|request| request.allocation.is_some());
        let measured = allocated && self.recipes.budget.sensitivity.is_none();
        options.inputs = self.given(&requests, &planned.given)?;
        let text = (&self.text, self.compute);
        let stored = rounding::round(text, measured, &planned, &requests, &mut options, progress)?;

        let Planned { checkpoint, plan, .. } = &planned;
        for note in plan.notes.iter().chain(plan.artifacts.iter().flat_map(|artifact| &artifact.notes)) {
            progress.note(note);
        }
        let start = Instant::now();
        let finished = match stream {
            None => convert::run(checkpoint, plan, &options, progress)?,
            Some(stream) => convert::run_streamed(checkpoint, stream, plan, &options, progress)?,
        };
        stored.iter().for_each(StoredLayers::remove);
        Ok(Converted {
            folder,
            skipped: names(&skipped),
            artifacts: skipped.into_iter().chain(finished.artifacts).collect(),
            manifest: finished.manifest,
            allocations: plan.artifacts.iter().filter_map(|artifact| artifact.allocation.clone()).collect(),
            input_bytes: finished.input_bytes,
            seconds: start.elapsed().as_secs_f64(),
            total_seconds: job_start.elapsed().as_secs_f64(),
            drafts: Vec::new(),
            layers: None,
        })
    }

    /// Removes the artifacts that the folder already has from plan and requests, and returns their entries in the
    /// manifest.
    fn skip(
        &self,
        plan: &mut Plan,
        requests: &mut Vec<Request>,
        options: &Options,
        progress: &dyn Progress,
    ) -> Result<Vec<ArtifactEntry>> {
        let texts = self.text.files.iter().map(|path| Ok(convert::file_entry(path)?.sha256));
        let texts = texts.collect::<Result<Vec<_>>>()?;
        let same_texts = |entry: &ArtifactEntry| {
            entry
                .calibration
                .as_ref()
                .is_none_or(|calibration| calibration.texts.iter().map(|text| &text.sha256).eq(&texts))
        };
        let mut skipped = Vec::new();
        let mut missing = Vec::new();
        for entry in convert::finished(plan, options)? {
            let entry = entry.filter(same_texts);
            missing.push(entry.is_none());
            skipped.extend(entry);
        }
        let mut is_missing = missing.iter();
        requests.retain(|_| is_missing.next() == Some(&true));
        let mut is_missing = missing.iter();
        plan.artifacts.retain(|_| is_missing.next() == Some(&true));
        for entry in &skipped {
            progress.note(&format!("{} exists already, complete and made by the same plan", entry.recipe));
        }
        Ok(skipped)
    }

    /// The files that determined types or layers, by request, for the manifest. The calibration text has an entry of
    /// its own there.
    fn given(&self, requests: &[Request], of_plan: &[FileEntry]) -> Result<Vec<Vec<FileEntry>>> {
        let files = |request: &Request| {
            let by_budget = request.allocation.is_some();
            let sensitivity = self.recipes.budget.sensitivity.as_ref().filter(|_| by_budget);
            let measured = by_budget && sensitivity.is_none();
            let texts = self.text.files.iter().filter(|_| measured);
            let given = sensitivity.into_iter().chain(texts).map(|path| convert::file_entry(path));
            of_plan.iter().cloned().map(Ok).chain(given).collect()
        };
        requests.iter().map(files).collect()
    }
}

/// The recipes of artifacts.
fn names(artifacts: &[ArtifactEntry]) -> Vec<String> {
    artifacts.iter().map(|artifact| artifact.recipe.clone()).collect()
}
