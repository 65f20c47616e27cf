//! A release: the whole set of GGUF files of a model, verified, with model card and checksums.

mod documents;
mod files;
mod inputs;
mod steps;
mod texts;

use std::path::PathBuf;
use std::time::Instant;

use base::Progress;
use checkpoint::{Adapter, ModelCard};
use gemma::towers::Towers;
use gemma::{ModelSpec, hub_title};
use pack::hub_files::HubRole;
use plan::{HubSource, ReleaseDraft, ReleaseRecipe, Request, Thresholds, release_name};
use runtime::Compute;
use tensor::{Error, Result};
use text::MediaFile;
use verify::SetReport;

use self::documents::Documents;
use self::files::{ReleaseFile, check};
use self::inputs::check_repository;
use super::Converted;
use crate::model::open_checkpoint;
use crate::options::{RecipeOptions, TextOptions};
use crate::requests::{Destination, recipe_file, requests};

/// The release recipe without a choice.
const DEFAULT_RECIPE: &str = "default";

/// Tokens per chunk of plain text without a choice.
const DEFAULT_CONTEXT: usize = 512;

/// Makes the files of a release recipe, verifies them, and writes model card and checksums.
#[derive(Clone, Debug)]
pub struct Release {
    /// The checkpoint folder.
    pub model: PathBuf,
    /// Adapters (LoRA) that are merged into the checkpoint, in order.
    pub adapters: Vec<Adapter>,
    /// The repository of the hub from which the checkpoint came.
    pub source: Option<HubSource>,
    /// The checkpoint folder of the assistant, the draft model. The default is that of the release recipe, else a folder beside the
    /// checkpoint with the same name and `-assistant`, if there is one.
    pub assistant: Option<PathBuf>,
    /// The repository of the hub from which the assistant came.
    pub assistant_source: Option<HubSource>,
    /// The folder of the release.
    pub out: PathBuf,
    /// The release recipe: an embedded one, or a TOML file.
    pub recipe: String,
    /// The name of the model in file names; the default is that of the repository or of the folder.
    pub name: Option<String>,
    /// The repository where the release will be, `owner/name`, for the commands in the model card.
    pub repository: Option<String>,
    /// Who makes the release, for the model card and the keys of the files.
    pub quantized_by: Option<String>,
    /// The calibration text; the default is a text of the program.
    pub text: TextOptions,
    /// The text to verify on, and how much of it; the default is a text of the program.
    pub evaluation: TextOptions,
    /// Images and sounds on which the mmproj files are verified.
    pub media: Vec<MediaFile>,
    /// Tokens per chunk of plain text, of both texts.
    pub context: usize,
    /// Limits of the verification; the defaults are those of the recipes.
    pub thresholds: Thresholds,
    /// Replaces existing outputs.
    pub force: bool,
    /// Keeps artifacts that exist already, complete and made by the same plan.
    pub skip_existing: bool,
    /// Flushes outputs to disk before they get their final names.
    pub sync: bool,
    /// Arithmetic.
    pub compute: Compute,
}

/// The result of a release.
#[derive(Clone, Debug)]
pub struct Released {
    /// The folder.
    pub folder: PathBuf,
    /// The conversions: the model with its mmproj files, and the draft model.
    pub converted: Vec<Converted>,
    /// The verification of all files.
    pub report: SetReport,
    /// The model card, `README.md`. Absent if the verification failed.
    pub card: Option<PathBuf>,
    /// The checksums, `SHA256SUMS`. Absent if the verification failed.
    pub checksums: Option<PathBuf>,
    /// Wall time of the whole job.
    pub seconds: f64,
}

impl Release {
    /// A release by the default recipe. Existing outputs are not replaced.
    pub fn new(model: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Release {
        Release {
            model: model.into(),
            adapters: Vec::new(),
            source: None,
            assistant: None,
            assistant_source: None,
            out: out.into(),
            recipe: DEFAULT_RECIPE.to_owned(),
            name: None,
            repository: None,
            quantized_by: None,
            text: TextOptions::default(),
            evaluation: TextOptions::default(),
            media: Vec::new(),
            context: DEFAULT_CONTEXT,
            thresholds: Thresholds::default(),
            force: false,
            skip_existing: false,
            sync: true,
            compute: Compute::detect(),
        }
    }

    /// Sets the release recipe.
    #[must_use]
    pub fn recipe(mut self, name: impl Into<String>) -> Release {
        self.recipe = name.into();
        self
    }

    /// Checks the release recipe and what it names, without the checkpoint.
    ///
    /// # Errors
    /// `Recipe` for unknown or contradicting recipes.
    pub fn check(&self) -> Result<()> {
        let recipe = self.release_recipe()?;
        self.repository.as_deref().map_or(Ok(()), check_repository)?;
        self.text_requests(&recipe)?;
        self.draft_requests(&recipe).map(drop)
    }

    /// The draft model of the release recipe, if it has one.
    ///
    /// # Errors
    /// `Recipe` for an unknown or broken release recipe.
    pub fn draft(&self) -> Result<Option<ReleaseDraft>> {
        let draft = self.release_recipe()?.draft;
        Ok((!draft.types.is_empty()).then_some(draft))
    }

    /// Makes the release. Files that fail the verification stay in the folder, without model card and checksums.
    ///
    /// # Errors
    /// Those of [`Convert::run`](super::Convert::run), [`Calibrate::run`](super::Calibrate::run) and [`Verify::run`](super::Verify::run); `Recipe` for names by which llama.cpp would not find the files.
    pub fn run(&self, progress: &dyn Progress) -> Result<Released> {
        let start = Instant::now();
        let recipe = self.release_recipe()?;
        self.repository.as_deref().map_or(Ok(()), check_repository)?;
        let name = self.model_name()?;
        let checkpoint = open_checkpoint(&self.model, &self.adapters)?;
        if checkpoint.keys().is_some() {
            let problem = "a release is made from the folder of a checkpoint: a GGUF lacks the towers for mmproj files and the README.md \
                           for the model card";
            return Err(Error::unsupported(self.model.display(), problem)
                .expected("a folder with config.json, tokenizer files and safetensors", "a GGUF file")
                .help("`gemma-convert convert` makes several types of a GGUF in one run, `verify` compares them with it."));
        }
        let model = ModelSpec::open(&checkpoint)?;
        let recipe = self.applicable(recipe, &model, progress)?;
        if model.card.license().is_none() {
            progress
                .note("the checkpoint's README.md names no licence: neither do the files and the model card");
        }
        let assistant = self.assistant(&recipe, progress);
        let requests = self.text_requests(&recipe)?;
        let mut files = self.files(&recipe, &requests, &name, assistant.is_some())?;
        check(&files)?;
        self.check_inputs((&checkpoint, &model), &recipe, assistant.as_deref())?;
        let reads_text = self.reads_text(&recipe, &requests)?;
        let documents = Documents::new(&self.out, self.force || self.skip_existing)?;
        std::fs::create_dir_all(&self.out).map_err(|e| Error::write(self.out.display(), &e))?;

        let importance = self.importance(&recipe, &name, progress)?;
        let texts = match reads_text {
            true => {
                TextOptions { files: texts::calibration(&self.text.files, &self.out)?, ..self.text.clone() }
            }
            false => self.text.without_files(),
        };
        let mut converted =
            vec![self.convert(&recipe, &mut files, (importance.as_deref(), &texts), &model, progress)?];
        if let Some(assistant) = &assistant {
            converted.push(self.convert_draft(&recipe, &files, assistant, progress)?);
        }
        let report = self.verify(assistant, progress)?;
        let mut released = Released {
            folder: self.out.clone(),
            converted,
            report,
            card: None,
            checksums: None,
            seconds: 0.0,
        };
        if released.report.passed {
            let importance = importance.as_deref().map(convert::file_entry).transpose()?;
            let card = documents.card(self, (&name, &model), (&files, importance.as_ref()), &released)?;
            documents.write(&card, (&files, importance.as_ref()), &mut released)?;
        }
        released.seconds = start.elapsed().as_secs_f64();
        Ok(released)
    }

    fn release_recipe(&self) -> Result<ReleaseRecipe> {
        match recipe_file(&self.recipe)? {
            Some((name, text)) => ReleaseRecipe::from_toml(&text, &name),
            None => ReleaseRecipe::from_toml(ReleaseRecipe::embedded_text(&self.recipe)?, &self.recipe),
        }
    }

    /// The name of the model in file names.
    fn model_name(&self) -> Result<String> {
        if let Some(name) = &self.name {
            if name.is_empty() || name.contains('/') || !base::is_plain_name(name) {
                return Err(Error::recipe("‹name›", "not a part of a file name").expected("a word", name));
            }
            return Ok(name.clone());
        }
        let of_hub = self.source.as_ref().and_then(|source| source.repository.rsplit('/').next());
        let folder = std::path::absolute(&self.model).map_err(|e| Error::io(self.model.display(), &e))?;
        let of_folder = folder.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = of_hub.map(str::to_owned).or(of_folder).unwrap_or_default();
        Ok(release_name(&name).to_owned())
    }

    /// The recipe without what the model does not have.
    fn applicable(
        &self,
        recipe: ReleaseRecipe,
        model: &ModelSpec,
        progress: &dyn Progress,
    ) -> Result<ReleaseRecipe> {
        let towers = Towers::from_json(&model.json, &model.config)?;
        if recipe.mmproj.is_empty() || towers.is_some_and(|towers| towers.reads_images()) {
            return Ok(recipe);
        }
        progress.note("the model has no image tower: the release has no mmproj file");
        Ok(ReleaseRecipe { mmproj: Vec::new(), ..recipe })
    }

    /// The folder of the draft model.
    fn assistant(&self, recipe: &ReleaseRecipe, progress: &dyn Progress) -> Option<PathBuf> {
        if recipe.draft.types.is_empty() {
            return None;
        }
        let named = || recipe.draft.assistant.as_ref().map(PathBuf::from);
        let beside = || {
            let name = self.model.file_name()?.to_str()?;
            let folder = self.model.with_file_name(format!("{name}-assistant"));
            folder.join("config.json").is_file().then_some(folder)
        };
        let found = self.assistant.clone().or_else(named).or_else(beside);
        if found.is_none() {
            progress
                .note("no assistant is known for this model (‹assistant›): the release has no draft model");
        }
        found
    }

    fn text_requests(&self, recipe: &ReleaseRecipe) -> Result<Vec<Request>> {
        requests(&text_recipes(recipe), &Destination::new(&self.out))
    }

    /// `general.*` keys that the card of a checkpoint from the hub does not have, as keys of a recipe.
    fn metadata(&self, source: Option<&HubSource>, card: &ModelCard) -> Vec<String> {
        let set = |key: &str, value: &str| format!("metadata.{key}={}", serde_json::Value::from(value));
        let mut settings: Vec<_> = self.quantized_by.iter().map(|who| set("quantized_by", who)).collect();
        if let Some(HubSource { endpoint, repository, .. }) = source {
            let name = repository.rsplit('/').next().unwrap_or_default();
            if card.name().is_none() {
                settings.push(set("name", &hub_title(name)));
            }
            if card.get("repo_url").is_none() {
                settings.push(set("source_repo_url", &format!("{endpoint}/{repository}")));
            }
        }
        settings
    }

    /// The files in the order of the requests: text models, mmproj files; then draft models, then the importance matrix.
    fn files(
        &self,
        recipe: &ReleaseRecipe,
        requests: &[Request],
        name: &str,
        has_draft: bool,
    ) -> Result<Vec<ReleaseFile>> {
        let mut files = Vec::new();
        for (number, request) in requests.iter().enumerate() {
            let (role, template) = match number < recipe.text.len() {
                true => (HubRole::Model, &recipe.names.text),
                false => (HubRole::Mmproj, &recipe.names.mmproj),
            };
            files.push(ReleaseFile::of(request, role, template, name)?);
        }
        if has_draft {
            for request in &self.draft_requests(recipe)? {
                files.push(ReleaseFile::of(request, HubRole::Draft, &recipe.names.draft, name)?);
            }
        }
        if recipe.needs_importance() {
            files.push(ReleaseFile::importance(recipe, name));
        }
        Ok(files)
    }

    fn draft_requests(&self, recipe: &ReleaseRecipe) -> Result<Vec<Request>> {
        requests(&draft_recipes(recipe), &Destination::new(&self.out))
    }

    /// Whether a recipe of a text model reads the calibration text.
    ///
    /// # Errors
    /// `Recipe` for a text that nothing reads.
    fn reads_text(&self, recipe: &ReleaseRecipe, requests: &[Request]) -> Result<bool> {
        let reads =
            |request: &Request| request.recipe.calibration.is_some() || request.recipe.budget.is_some();
        let reads_text = requests.iter().any(reads);
        if !self.text.files.is_empty() && !reads_text && !recipe.needs_importance() {
            return Err(Error::recipe(
                "‹text›",
                "has no effect: no recipe of the release needs a calibration text",
            ));
        }
        Ok(reads_text)
    }
}

pub(super) fn text_recipes(recipe: &ReleaseRecipe) -> RecipeOptions {
    RecipeOptions {
        recipes: recipe.text.iter().map(|text| text.recipe.clone()).collect(),
        mmproj: recipe.mmproj.clone(),
        ..RecipeOptions::default()
    }
}

pub(super) fn draft_recipes(recipe: &ReleaseRecipe) -> RecipeOptions {
    RecipeOptions { presets: recipe.draft.types.clone(), ..RecipeOptions::default() }
}
