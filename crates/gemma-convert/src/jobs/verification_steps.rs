//! The steps of a verification: structure, weights, soft tokens; `predictions.rs` has the text. Several artifacts pass them
//! together.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use base::{OutputFile, Progress, Task, Unit};
use gemma::towers::MmprojView;
use litert::DecodedWeights;
use plan::{Format, Recipe, Shards, Thresholds};
use tensor::{Error, Fault, Result, TensorSource};
use text::MediaFile;
use verify::{
    Artifact, Expected, Finding, Outcome, Provenance, Report, SCHEMA, Severity, Skipped, Step, Structure,
    TensorComparison,
};

use super::Verify;
use super::against::Against;
use super::model_info::{artifact_info, hashed_files};
use super::thresholds::{check, failed};
use super::verification_parts::{Measurements, Measuring};
use crate::TOOL;
use crate::model::{Container, Model, ModelFile};
use crate::requests::recipe_text;
use crate::towers;

/// The verification of an artifact.
pub(super) struct Verification<'b> {
    settings: Verify,
    pub(super) against: Option<&'b Against>,
    /// `None` once it has been opened as a model.
    file: Option<ModelFile>,
    /// The weights of a bundle, in place of those in `file`, and the index of its head.
    pub(super) decoded: Option<(DecodedWeights, Option<usize>)>,
    pub(super) is_mmproj: bool,
    pub(super) report: Report,
    of_recipe: Thresholds,
    pub(super) measuring: Measuring,
    /// The names in the manifest by the names of renamed files.
    pub(super) renamed: HashMap<String, String>,
    /// The error that ended it.
    pub(super) error: Option<Error>,
}

impl<'b> Verification<'b> {
    /// `settings` name the artifact in `file` and the base.
    pub(super) fn new(settings: Verify, file: ModelFile, against: Option<&'b Against>) -> Verification<'b> {
        let base = against.zip(settings.base.as_deref());
        let mut report = Report {
            compute: settings.compute.to_string(),
            artifact: artifact_info(&settings.artifact, file.artifact()),
            base: base.and_then(|(base, path)| base.info(path)),
            ..empty_report()
        };
        if let ModelFile::Folder(folder) = &file {
            report.findings.extend(verify::form(folder));
        }
        if let Some((Against::Model(base), path)) = base {
            let note = |note: &String| Finding::new(Severity::Note, Step::Structure, path.display(), note);
            report.findings.extend(base.notes().iter().map(note));
            if let (true, Container::Checkpoint(_, model)) = (file.is_mmproj(), &base.container) {
                report.findings.extend(model.config.image_note().iter().map(note));
            }
        }
        Verification {
            settings,
            against,
            is_mmproj: file.is_mmproj(),
            file: Some(file),
            decoded: None,
            report,
            of_recipe: Thresholds::default(),
            measuring: Measuring::All,
            renamed: HashMap::new(),
            error: None,
        }
    }

    /// Compares files, keys, tensors, weights and soft tokens.
    fn compare(&mut self, progress: &dyn Progress) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let (artifact, report, measuring) = (file.artifact(), &mut self.report, &mut self.measuring);
        let from = self.settings.provenance(artifact, report, measuring, progress)?;
        let merged = from.entry.as_ref().map_or(0, |entry| entry.adapters.len());
        if merged > 0 && self.settings.adapters.is_empty() && self.against.is_some() {
            let problem = format!("{merged} adapters were merged into the base: give them with ‹lora›");
            report.findings.push(Finding::new(Severity::Warning, Step::Structure, "manifest", problem));
        }
        self.of_recipe = from.recipe.verify;
        self.renamed.clone_from(from.renamed());
        self.settings.structure(artifact, &from, self.against, (report, measuring), progress)?;
        self.settings.features_step(self.against, report, progress)
    }

    /// The model for the text step, or a skipped step.
    pub(super) fn predicting(&mut self) -> Option<Model> {
        let file = self.file.take().filter(|_| self.error.is_none())?;
        let why = if !self.settings.predicts(self.against) {
            "no ‹text› was given"
        } else if failed(&self.report) && !self.settings.keep_going {
            AFTER_FAILURE
        } else if self.is_mmproj {
            "an mmproj file makes no predictions without its text model"
        } else if verify::is_draft(file.artifact()) {
            "a draft model makes no predictions without its target (draft measure)"
        } else {
            let base = self.against.and_then(Against::model);
            let opened = file.model().map(|mut model| {
                // the base's tokenizer reads the text, and another one takes about 100 MB
                if let Some(base) = base {
                    model.tokenizer = Arc::clone(&base.tokenizer);
                }
                let model = model.with_compute(self.settings.compute);
                match self.decoded.take() {
                    Some((weights, head)) => model.with_weights(weights, head),
                    None => model,
                }
            });
            return opened.map_err(|error| self.error = Some(error)).ok();
        };
        skip(&mut self.report, Step::Text, why);
        None
    }

    /// What this process has measured of its part.
    ///
    /// # Errors
    /// The error that ended the verification.
    pub(super) fn measured(self) -> Result<Measurements> {
        match (self.error, self.measuring) {
            (Some(error), _) => Err(error),
            (None, Measuring::Part(_, kept)) => Ok(kept),
            (None, Measuring::All | Measuring::Joined(_)) => Ok(Measurements::default()),
        }
    }

    /// Compares the figures with the limits, and ends the report.
    ///
    /// # Errors
    /// The error that ended the verification, unless it was taken.
    pub(super) fn finish(self) -> Result<Report> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let mut report = self.report;
        check(self.settings.thresholds, self.of_recipe, &mut report);
        report.run.files.extend(hashed_files(self.settings.media.iter().map(MediaFile::path))?);
        report.passed = !failed(&report);
        report.compared = self.against.is_some();
        report.outcome = match (report.passed, report.compared) {
            (false, _) => Outcome::Failed,
            (true, false) => Outcome::CheckedAlone,
            (true, true) => Outcome::Passed,
        };
        Ok(report)
    }
}

/// Progress with the name of the artifact in its tasks.
struct Named<'p> {
    progress: &'p dyn Progress,
    artifact: PathBuf,
}

impl Progress for Named<'_> {
    fn begin(&self, name: &str, total: u64, unit: Unit) -> Box<dyn Task + '_> {
        let artifact = self.artifact.file_name().unwrap_or_default().display();
        self.progress.begin(&format!("{artifact}: {name}"), total, unit)
    }

    fn note(&self, note: &str) {
        self.progress.note(note);
    }
}

/// A report without an artifact.
pub(super) fn empty_report() -> Report {
    Report { schema: SCHEMA, tool: TOOL.to_owned(), ..Report::default() }
}

/// Runs the steps: those of each artifact, then the text, which the base reads once for all. An artifact whose
/// verification ends with an error does not end the others.
///
/// # Errors
/// Those of the settings, of the base and of the text.
pub(super) fn run_all(
    settings: &Verify,
    all: &mut [&mut Verification<'_>],
    base: Option<&Against>,
    logits: Option<OutputFile>,
    progress: &dyn Progress,
) -> Result<()> {
    settings.check_effects(all, base)?;
    let is_set = all.len() > 1;
    for verification in all.iter_mut() {
        let named = Named { progress, artifact: verification.settings.artifact.clone() };
        match verification.compare(if is_set { &named } else { progress }) {
            Err(error) if error.fault() == Fault::Recipe => return Err(error),
            compared => verification.error = compared.err(),
        }
    }
    settings.text_step(all, logits, progress)
}

impl Verify {
    /// Keys, tensors and weights.
    fn structure(
        &self,
        artifact: Artifact<'_>,
        from: &Provenance,
        against: Option<&Against>,
        (report, measuring): (&mut Report, &mut Measuring),
        progress: &dyn Progress,
    ) -> Result<()> {
        let base = match against {
            Some(Against::Model(base)) => base,
            Some(Against::Mmproj(base)) => {
                let expected = match artifact {
                    Artifact::Gguf(set) if verify::is_mmproj(set) => Expected::of_mmproj_file(base)?,
                    _ => {
                        return Err(Error::recipe(
                            "‹against›",
                            "an mmproj file is the base of mmproj files only",
                        )
                        .expected("the checkpoint, or a GGUF of the text model", "an mmproj file"));
                    }
                };
                return self.compare_with(artifact, &**base, &expected, (report, measuring), progress);
            }
            // the base has at most logits
            Some(Against::Logits(_)) | None => {
                return self.alone(artifact, (report, measuring), progress);
            }
        };
        let towers = match (&base.container, from.recipe.output.format) {
            (Container::Checkpoint(checkpoint, model), Format::Mmproj) => {
                let found = plan::tower_tensors(model, &Shards::of(checkpoint))?;
                Some(MmprojView::new(&**checkpoint, &found, self.compute.simd)?)
            }
            _ => None,
        };
        let source = towers.as_ref().map_or(base.source(), |towers| towers);
        let expected = match (&base.container, artifact) {
            (Container::Checkpoint(checkpoint, model), _) => {
                Expected::of_checkpoint(checkpoint, model, from, self.compute.simd)?
            }
            (Container::Gguf(set, _), Artifact::Gguf(_)) => Expected::of_gguf(set)?,
            (Container::Gguf(..), Artifact::Folder(_)) => {
                skip(report, Step::Structure, GGUF_BASE);
                skip(report, Step::Tensors, GGUF_BASE);
                return Ok(());
            }
        };
        self.compare_with(artifact, source, &expected, (report, measuring), progress)
    }

    /// Compares keys, tensors and weights with the expected ones, whose values are in `source`.
    fn compare_with(
        &self,
        artifact: Artifact<'_>,
        source: &dyn TensorSource,
        expected: &Expected,
        (report, measuring): (&mut Report, &mut Measuring),
        progress: &dyn Progress,
    ) -> Result<()> {
        structure_step(report, || verify::structure(artifact, expected))?;
        let stored = artifact.stored();
        let comparison = TensorComparison::new(artifact, &stored, source, expected, self.compute.simd);
        self.weights_step(report, comparison.weights(measuring.part()), progress, |report, done| {
            let Some(errors) = measuring.errors(&comparison, done)? else { return Ok(Vec::new()) };
            let (tensors, findings) = comparison.judge(errors)?;
            report.tensors = Some(tensors);
            Ok(findings)
        })
    }

    /// The provenance of the artifact: the given recipe, or that of the manifest or the file itself. The files are
    /// compared with the manifest.
    fn provenance(
        &self,
        artifact: Artifact<'_>,
        report: &mut Report,
        measuring: &Measuring,
        progress: &dyn Progress,
    ) -> Result<Provenance> {
        let mut provenance = Provenance::of(artifact)?;
        provenance.find_importance(artifact, self.importance.as_deref())?;
        report.findings.append(&mut provenance.findings);
        if self.require_manifest && provenance.entry.is_none() {
            let problem = "no manifest describes the artifact, and ‹require_manifest› asks for one";
            report.findings.push(Finding::new(Severity::Failure, Step::Structure, "manifest", problem));
        }
        report.allocation = provenance.entry.as_ref().and_then(|entry| entry.allocation.clone());
        let is_part = measuring.is_part();
        timed(report, "files", |report| {
            // the process that joins the parts hashes the files
            if is_part {
                return Ok(());
            }
            let task = progress.begin("files", provenance.bytes(artifact), Unit::Bytes);
            let (files, findings) = provenance.check_files(artifact, &|done| task.advance(done))?;
            let hashed = if provenance.entry.is_some() { files.len() as u64 } else { 0 };
            report.run.files = files;
            report.structure =
                Some(Structure { plan: provenance.plan.clone(), hashed, ..Structure::default() });
            report.findings.extend(findings);
            Ok(())
        })?;
        if let Some(name) = &self.recipe {
            let (name, text) = recipe_text(name)?;
            provenance.recipe = Recipe::from_toml(&text, &name)?;
            provenance.plan = format!("recipe {name}");
            provenance.binding = true;
            let is = match artifact {
                Artifact::Gguf(set) if verify::is_mmproj(set) => Format::Mmproj,
                Artifact::Gguf(_) => Format::Gguf,
                Artifact::Folder(_) => Format::Safetensors,
            };
            if provenance.recipe.output.format != is {
                let word = |format| match format {
                    Format::Gguf => "a GGUF of a text model",
                    Format::Mmproj => "an mmproj file",
                    Format::Safetensors => "safetensors",
                };
                return Err(Error::recipe("‹recipe›", "the artifact cannot have this recipe")
                    .expected(format!("a recipe for {}", word(is)), word(provenance.recipe.output.format)));
            }
        }
        Ok(provenance)
    }

    /// Compares the soft tokens of images and sounds.
    fn features_step(
        &self,
        against: Option<&Against>,
        report: &mut Report,
        progress: &dyn Progress,
    ) -> Result<()> {
        if self.media.is_empty() {
            return Ok(());
        }
        let base = against.ok_or_else(Against::without_towers)?;
        if failed(report) && !self.keep_going {
            skip(report, Step::Features, AFTER_FAILURE);
            return Ok(());
        }
        let compute = self.compute;
        timed(report, "features", |report| {
            report.features =
                towers::compare(&self.artifact, &|| base.towers(compute), &self.media, compute, progress)?;
            Ok(())
        })
    }

    /// Checks that the artifact is consistent, and that its weights are finite and not all zero.
    fn alone(
        &self,
        artifact: Artifact<'_>,
        (report, measuring): (&mut Report, &Measuring),
        progress: &dyn Progress,
    ) -> Result<()> {
        structure_step(report, || verify::structure_alone(artifact))?;
        if measuring.is_part() {
            return Ok(());
        }
        self.weights_step(report, verify::weights_of(artifact), progress, |_, done| {
            verify::weights_alone(artifact, self.compute.simd, done)
        })
    }

    /// Whether the text step follows.
    pub(super) fn predicts(&self, against: Option<&Against>) -> bool {
        !self.texts.is_empty() || matches!(against, Some(Against::Logits(_)))
    }

    /// Runs the step of the weights, unless it is switched off or an earlier step has failed.
    pub(super) fn weights_step(
        &self,
        report: &mut Report,
        total: u64,
        progress: &dyn Progress,
        run: impl FnOnce(&mut Report, &(dyn Fn(u64) + Sync)) -> Result<Vec<Finding>>,
    ) -> Result<()> {
        if !self.weights {
            skip(report, Step::Tensors, "‹no_tensors›");
        } else if failed(report) && !self.keep_going {
            skip(report, Step::Tensors, AFTER_FAILURE);
        } else {
            timed(report, "tensors", |report| {
                let task = progress.begin("weights", total, Unit::Steps);
                let findings = run(report, &|done| task.advance(done))?;
                report.findings.extend(findings);
                Ok(())
            })?;
        }
        Ok(())
    }
}

const GGUF_BASE: &str = "a folder is compared with its checkpoint, not with a GGUF";
pub(super) const AFTER_FAILURE: &str = "an earlier step has failed; ‹keep_going› runs it nevertheless";

/// Runs the step of keys and tensors. Keeps the count of hashed files.
fn structure_step(
    report: &mut Report,
    run: impl FnOnce() -> Result<(Structure, Vec<Finding>)>,
) -> Result<()> {
    timed(report, "structure", |report| {
        let (structure, findings) = run()?;
        let hashed = report.structure.take().map_or(0, |structure| structure.hashed);
        report.structure = Some(Structure { hashed, ..structure });
        report.findings.extend(findings);
        Ok(())
    })
}

pub(super) fn skip(report: &mut Report, step: Step, why: &str) {
    report.skipped.push(Skipped { step, why: why.to_owned() });
}

/// Runs a step and records its wall time.
pub(super) fn timed(
    report: &mut Report,
    step: &str,
    run: impl FnOnce(&mut Report) -> Result<()>,
) -> Result<()> {
    let start = Instant::now();
    run(report)?;
    report.seconds.insert(step.to_owned(), start.elapsed().as_secs_f64());
    Ok(())
}
