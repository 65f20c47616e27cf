//! The steps of a release: importance matrix, conversions, verification.

use std::path::{Path, PathBuf};

use base::Progress;
use checkpoint::Checkpoint;
use footprint::Conditions;
use gemma::ModelSpec;
use pack::hub_files::HubRole;
use plan::{ImportanceSource, ReleaseRecipe};
use tensor::{DType, Result};
use verify::SetReport;

use super::files::{ReleaseFile, keep_grid};
use super::{Release, draft_recipes, text_recipes, texts};
use crate::jobs::sensitivities::Costs;
use crate::jobs::{Calibrate, Convert, Converted, Planned, Verify, VerifySet, drafts};
use crate::model::open_checkpoint;
use crate::options::{RecipeOptions, TextOptions};

/// Contexts of the memory estimates in the model card, in tokens.
const CONTEXTS: [u64; 2] = [4096, 32_768];

impl Release {
    /// Collects the importance matrix.
    pub(super) fn importance(
        &self,
        recipe: &ReleaseRecipe,
        name: &str,
        progress: &dyn Progress,
    ) -> Result<Option<PathBuf>> {
        if !recipe.needs_importance() {
            return Ok(None);
        }
        let out = self.out.join(format!("{}.gguf", ReleaseFile::importance(recipe, name).stem));
        if self.skip_existing && out.is_file() {
            progress.note(&format!("{} exists already and is used", out.display()));
            return Ok(Some(out));
        }
        let files = texts::calibration(&self.text.files, &self.out)?;
        let mut job = Calibrate::new(&self.model, &out);
        job.adapters.clone_from(&self.adapters);
        job.text = TextOptions { files, ..self.text.clone() };
        (job.context, job.force, job.compute) = (self.context, self.force, self.compute);
        job.run(progress)?;
        Ok(Some(out))
    }

    pub(super) fn convert(
        &self,
        recipe: &ReleaseRecipe,
        files: &mut [ReleaseFile],
        (importance, texts): (Option<&Path>, &TextOptions),
        model: &ModelSpec,
        progress: &dyn Progress,
    ) -> Result<Converted> {
        let convert = Convert {
            recipes: RecipeOptions {
                importance: importance.map(Path::to_owned),
                settings: self.metadata(self.source.as_ref(), &model.card),
                ..text_recipes(recipe)
            },
            source: self.source.clone(),
            adapters: self.adapters.clone(),
            text: texts.clone(),
            force: self.force,
            skip_existing: self.skip_existing,
            sync: self.sync,
            compute: self.compute,
            ..Convert::new(&self.model, &self.out)
        };
        convert.run_planned(progress, |requests, options| {
            for (number, (request, file)) in requests.iter_mut().zip(files.iter()).enumerate() {
                request.stem.clone_from(&file.stem);
                keep_grid(request);
                if recipe.text.get(number).is_none_or(|text| !text.importance) {
                    request.importance = None;
                }
                if let Some(given) = &mut request.importance {
                    name_in_folder(&mut given.source);
                }
            }
            let costs = Costs::of(&convert.recipes.budget, texts, &options.folder, self.force, self.compute);
            let checkpoint = open_checkpoint(&self.model, &self.adapters)?;
            let planned = Planned::new(checkpoint, requests, &costs, options, progress)?;
            for (file, artifact) in files.iter_mut().zip(&planned.plan.artifacts) {
                if file.role == HubRole::Model {
                    file.memory = memory(model, artifact)?;
                }
            }
            Ok(planned)
        })
    }

    pub(super) fn convert_draft(
        &self,
        recipe: &ReleaseRecipe,
        files: &[ReleaseFile],
        assistant: &Path,
        progress: &dyn Progress,
    ) -> Result<Converted> {
        let card = Checkpoint::open(assistant)?.model_card()?;
        let convert = Convert {
            recipes: RecipeOptions {
                settings: self.metadata(self.assistant_source.as_ref(), &card),
                ..draft_recipes(recipe)
            },
            source: self.assistant_source.clone(),
            force: self.force,
            skip_existing: self.skip_existing,
            sync: self.sync,
            compute: self.compute,
            ..Convert::new(assistant, &self.out)
        };
        let of_draft = files.iter().filter(|file| file.role == HubRole::Draft);
        convert.run_planned(progress, |requests, options| {
            for (request, file) in requests.iter_mut().zip(of_draft) {
                request.stem.clone_from(&file.stem);
                keep_grid(request);
            }
            drafts::planned(options.simd, (assistant, &[]), (&self.model, &self.adapters), requests)
        })
    }

    /// Verifies every file of the folder.
    pub(super) fn verify(&self, assistant: Option<PathBuf>, progress: &dyn Progress) -> Result<SetReport> {
        let options = Verify {
            adapters: self.adapters.clone(),
            texts: texts::evaluation(&self.evaluation.files, &self.out)?,
            context: self.context,
            chunks: self.evaluation.chunks.clone(),
            text_memory: self.evaluation.memory,
            media: self.media.clone(),
            thresholds: self.thresholds,
            keep_going: true,
            require_manifest: true,
            compute: self.compute,
            ..Verify::new(&self.out).against(&self.model)
        };
        VerifySet { artifacts: vec![self.out.clone()], options, assistant }.run(progress)
    }
}

/// llama.cpp's memory for a text model at each context that the model has.
fn memory(model: &ModelSpec, artifact: &plan::Artifact) -> Result<Vec<(u64, u64)>> {
    let contexts = CONTEXTS.into_iter().filter(|context| *context <= model.config.context);
    let at = |context| {
        let conditions = Conditions::new(&model.config, context, DType::F16)?;
        let memory = footprint::memory(model, artifact, conditions);
        Ok(memory.needs.first().map(|need| (context, need.total)))
    };
    contexts.filter_map(|context| at(context).transpose()).collect()
}

/// Names an importance matrix as the release does, which has it beside the models: a published file has no path of this machine.
fn name_in_folder(source: &mut ImportanceSource) {
    let name = base::file_name(Path::new(&source.keys.file));
    source.keys.file.clone_from(&name);
    if let Some(file) = &mut source.file {
        file.name = name;
    }
}
