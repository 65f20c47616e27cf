//! Draft models: conversion of an assistant, and the draft models of recipes with `[draft]`.

use std::path::{Path, PathBuf};

use base::Progress;
use checkpoint::{Adapter, Checkpoint};
use plan::{DraftRecipe, DraftTarget, FileEntry, Format, Request};
use quant::Simd;
use tensor::{Error, Result};

use super::draft_extraction::{CONTEXT, DraftExtract};
use super::{Convert, Converted, Planned};
use crate::model::open_checkpoint;
use crate::options::{Layers, RecipeOptions};
use crate::requests::{Destination, requests, shards};

/// Converts an assistant: a draft model that reads the KV cache of its target.
#[derive(Clone, Debug)]
pub struct DraftConvert {
    /// The conversion of the assistant's checkpoint.
    pub convert: Convert,
    /// The checkpoint folder of the target, or a GGUF file.
    pub target: PathBuf,
}

impl DraftConvert {
    /// Checks that draft model and target match, and converts. Outputs in a folder are named `draft-…`.
    ///
    /// # Errors
    /// The errors of [`Convert::run`]; `Malformed` for an assistant of another target.
    pub fn run(&self, progress: &dyn Progress) -> Result<Converted> {
        let Convert { model, adapters, out, recipes, .. } = &self.convert;
        self.convert.run_planned(progress, |requests, options| {
            check_recipes(recipes, requests)?;
            if Destination::new(out).file_name.is_none() {
                requests.iter_mut().for_each(draft_name);
            }
            planned(options.simd, (model, adapters), (&self.target, &[]), requests)
        })
    }
}

/// Sets the file name of a draft model, whose outputs are beside the target's.
pub(super) fn draft_name(request: &mut Request) {
    request.stem = plan::stem("draft", &request.name, &request.recipe);
}

/// The draft models of recipes with `[draft]`.
pub(super) struct RecipeDrafts {
    pub(super) drafts: Vec<Converted>,
    /// Whether the text selected layers, and the recipes of the target itself need no text.
    pub(super) text_is_used: bool,
}

/// Makes the draft models of recipes with `[draft]`, each of them once.
pub(super) fn of_recipes(job: &Convert, progress: &dyn Progress) -> Result<RecipeDrafts> {
    let destination = Destination::new(&job.out);
    let requests = requests(&job.recipes, &destination)?;
    let mut wanted: Vec<(DraftRecipe, String)> = Vec::new();
    for recipe in requests.iter().map(|request| &request.recipe) {
        let Some(draft) = &recipe.draft else { continue };
        let own = Some(&recipe.types.preset).filter(|preset| !preset.is_empty());
        let preset = draft.preset.as_ref().or(own).map_or("bf16", String::as_str).to_owned();
        let draft = (DraftRecipe { preset: None, ..draft.clone() }, preset);
        if !wanted.contains(&draft) {
            wanted.push(draft);
        }
    }
    if let (Some(name), false) = (&destination.file_name, wanted.is_empty()) {
        return Err(Error::recipe(format!("‹out› {name}"), "a model and its draft cannot go into one file")
            .help("Give a folder instead."));
    }
    let by_text = wanted.iter().any(|(draft, _)| draft.extract.is_some());
    let reads = |recipe: &plan::Recipe| {
        let measures = recipe.budget.is_some() && job.recipes.budget.sensitivity.is_none();
        recipe.calibration.is_some() || measures
    };
    let reads_too = requests.iter().any(|request| reads(&request.recipe));
    let make = |(draft, preset): &(DraftRecipe, String)| {
        let recipes = RecipeOptions { presets: vec![preset.clone()], ..RecipeOptions::default() };
        let text = if draft.extract.is_some() { job.text.clone() } else { job.text.without_files() };
        let convert = Convert { recipes, text, ..job.clone() };
        let layers = draft.extract.map(Layers::Count).or_else(|| draft.layers.clone().map(Layers::These));
        match (&draft.assistant, layers) {
            (_, Some(layers)) => DraftExtract { layers, context: CONTEXT, convert }.run(progress),
            (Some(path), None) => {
                let convert = Convert { model: path.into(), adapters: Vec::new(), source: None, ..convert };
                DraftConvert { target: job.model.clone(), convert }.run(progress)
            }
            (None, None) => Err(Error::recipe("[draft]", "no draft model")),
        }
    };
    let drafts = wanted.iter().map(make).collect::<Result<_>>()?;
    Ok(RecipeDrafts { drafts, text_is_used: by_text && !reads_too })
}

/// Refuses what no draft model has: a bit allocation, since it is small and sensitivities need a model that runs alone, and towers.
pub(super) fn check_recipes(options: &RecipeOptions, requests: &[Request]) -> Result<()> {
    if requests.iter().any(|request| request.recipe.output.format == Format::Mmproj) {
        return Err(Error::recipe("‹mmproj›", "a draft model has no image or audio tower")
            .help("Make the mmproj file of its target."));
    }
    if options.budget.sensitivity.is_none() && requests.iter().all(|r| r.recipe.budget.is_none()) {
        return Ok(());
    }
    Err(Error::recipe("budget", "bit allocation does not support draft models")
        .help("Name a preset with ‹type›."))
}

/// The files of a target other than its weights, which the fingerprint identifies.
pub(super) fn companions(target: &Checkpoint) -> Result<Vec<FileEntry>> {
    let files = target.companions().iter();
    files.map(|file| convert::file_entry(&target.dir().join(&file.name))).collect()
}

/// Opens both models, checks that they belong together, and plans the draft model.
pub(super) fn planned(
    simd: Simd,
    (draft, adapters): (&Path, &[Adapter]),
    (target, adapters_of_target): (&Path, &[Adapter]),
    requests: &[Request],
) -> Result<Planned> {
    let checkpoint = open_checkpoint(draft, adapters)?.with_simd(simd);
    let model = gemma::ModelSpec::open_draft(&checkpoint)?;
    let of_target = open_checkpoint(target, adapters_of_target)?;
    let target = gemma::ModelSpec::open(&of_target)?;
    model
        .config
        .check_target(&target.config)
        .and_then(|()| model.vocabulary.check_target(&target.vocabulary))
        .map_err(|e| e.within(draft.display()))?;
    let mut plan = plan::plan(&model, &shards(simd, &checkpoint, &model, requests)?, requests)?;
    plan.target = Some(DraftTarget {
        variant: target.config.variant().map(str::to_owned),
        fingerprint: base::hex(&target.fingerprint),
        layers: None,
    });
    let given = companions(&of_target)?;
    Ok(Planned { checkpoint, model: Some(model), plan, given })
}
