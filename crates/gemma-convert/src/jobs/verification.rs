//! Verification of an artifact in steps: structure, weights, predictions, limits.

use std::path::{Path, PathBuf};
use std::time::Instant;

use base::{FileKind, OutputFile, Progress, Unit};
use eval::LogitsFile;
use gemma::towers::MmprojView;
use plan::{Format, Recipe, Shards, Thresholds};
use runtime::Compute;
use tensor::{Error, Fault, Result};
use text::{MediaFile, Scored};
use verify::{
    Artifact, Expected, Finding, Outcome, Provenance, Report, SCHEMA, Severity, Skipped, Step, Structure,
};

use super::model_info::{artifact_info, hashed_files};
use super::thresholds::{check, failed};
use crate::TOOL;
use crate::model::{Container, Model, ModelFile};
use crate::options::Chunks;
use crate::requests::recipe_text;
use crate::towers;

/// Verifies an artifact: compares a GGUF or a folder of safetensors with its checkpoint, or checks it alone.
#[derive(Clone, Debug)]
pub struct Verify {
    /// A GGUF file (any part of a split) or a folder of safetensors, also of a draft model.
    pub artifact: PathBuf,
    /// The base of the comparison: the checkpoint folder, a GGUF of the same model, or llama-perplexity's file of base
    /// logits. Without a base the artifact is checked alone.
    pub base: Option<PathBuf>,
    /// Images and sounds whose soft tokens are compared, for an mmproj file and its checkpoint.
    pub media: Vec<MediaFile>,
    /// The mmproj file of a text model, for the images and sounds that conversations name. A folder has towers of its own.
    pub mmproj: Option<PathBuf>,
    /// Texts to predict: plain text, or conversations in `.jsonl` files.
    pub texts: Vec<PathBuf>,
    /// Tokens per chunk of plain text; the most tokens of a conversation.
    pub context: usize,
    /// The chunks or conversations of the text to use; `None` for all.
    pub chunks: Option<Chunks>,
    /// The scored part of a conversation.
    pub scored: Scored,
    /// The recipe of the artifact, a name or a file; the default is that of its manifest, or else of its file type.
    pub recipe: Option<String>,
    /// The importance matrix of the artifact; by default it is searched for at the path in the manifest or the keys of
    /// the artifact, and beside the artifact.
    pub importance: Option<PathBuf>,
    /// Limits; the defaults are those of the recipe.
    pub thresholds: Thresholds,
    /// Runs later steps when an earlier one has failed.
    pub keep_going: bool,
    /// Fails without a manifest that describes the artifact.
    pub require_manifest: bool,
    /// Compares the weights.
    pub weights: bool,
    /// The most bytes of activation memory: hidden states of the text between two layers.
    pub text_memory: u64,
    /// A file for the logits of the base, or of the artifact without a base, in llama-perplexity's format.
    pub save_logits: Option<PathBuf>,
    /// Replaces an existing file at `save_logits` that is not a file of logits.
    pub force: bool,
    /// Arithmetic: vector instructions and the kernel of matrix products.
    pub compute: Compute,
}

impl Verify {
    /// A verification without a base.
    pub fn new(artifact: impl Into<PathBuf>) -> Verify {
        Verify {
            artifact: artifact.into(),
            base: None,
            media: Vec::new(),
            mmproj: None,
            texts: Vec::new(),
            context: 512,
            chunks: None,
            scored: Scored::All,
            recipe: None,
            importance: None,
            thresholds: Thresholds::default(),
            keep_going: false,
            require_manifest: false,
            weights: true,
            text_memory: 1 << 30,
            save_logits: None,
            force: false,
            compute: Compute::detect(),
        }
    }

    /// Compares the artifact with this base.
    #[must_use]
    pub fn against(mut self, base: impl Into<PathBuf>) -> Verify {
        self.base = Some(base.into());
        self
    }

    /// Adds a text to predict.
    #[must_use]
    pub fn text(mut self, file: impl Into<PathBuf>) -> Verify {
        self.texts.push(file.into());
        self
    }

    /// Sets the largest accepted mean KL divergence, in nats per token.
    #[must_use]
    pub fn max_kld(mut self, limit: f64) -> Verify {
        self.thresholds.max_kld = Some(limit);
        self
    }

    /// Verifies the artifact. Its faults are findings in the report, not errors.
    ///
    /// # Errors
    /// `Recipe` for options that do not fit; `Malformed` or `Unsupported` for files that cannot be read at all; `Io`.
    pub fn run(&self, progress: &dyn Progress) -> Result<Report> {
        self.thresholds.check().map_err(|e| {
            let option = format!("‹{}›", e.place());
            e.moved(Fault::Recipe, option)
        })?;
        let replacing = |path: &PathBuf| OutputFile::replacing(path, FileKind::Logits, self.force);
        let logits = self.save_logits.as_ref().map(replacing).transpose()?;

        let artifact = ModelFile::open(&self.artifact)?.with_simd(self.compute.simd);
        let base = self.base.as_deref().map(|path| Against::open(path, self.compute)).transpose()?;
        let mut report = Report {
            schema: SCHEMA,
            tool: TOOL.to_owned(),
            compute: self.compute.to_string(),
            artifact: artifact_info(&self.artifact, artifact.artifact()),
            base: match (&base, &self.base) {
                (Some(Against::Model(base)), Some(path)) => Some(base.info(path)),
                _ => None,
            },
            ..Report::default()
        };
        if artifact.is_mmproj() && !self.texts.is_empty() {
            return Err(Error::recipe(
                "‹text›",
                "an mmproj file makes no predictions without its text model",
            )
            .help("Verify the text model with the text."));
        }
        if let ModelFile::Folder(folder) = &artifact {
            report.findings.extend(verify::form(folder));
        }
        if let (Some(Against::Model(base)), Some(path)) = (&base, &self.base) {
            let note = |note: &String| Finding::new(Severity::Note, Step::Structure, path.display(), note);
            report.findings.extend(base.notes().iter().map(note));
            if let (true, Container::Checkpoint(_, model)) = (artifact.is_mmproj(), &base.container) {
                report.findings.extend(model.config.image_note().iter().map(note));
            }
        }
        let limited = [
            (self.thresholds.max_kld, "‹max_kld›"),
            (self.thresholds.max_ppl_ratio, "‹max_ppl_ratio›"),
            (self.thresholds.min_top1, "‹min_top1›"),
        ];
        let is_measured = match &base {
            Some(Against::Logits(_)) => true,
            Some(Against::Model(_)) => !self.texts.is_empty(),
            None => false,
        };
        if let Some((_, limit)) = limited.iter().find(|(limit, _)| limit.is_some() && !is_measured) {
            return Err(Error::recipe(limit, "a limit of a figure that is not measured")
                .help("Give the checkpoint with ‹against›, and a text with ‹text›."));
        }
        if self.thresholds.max_feature_error.is_some() && self.media.is_empty() {
            return Err(Error::recipe("‹max_feature_error›", "a limit of a figure that is not measured")
                .help("Give images or sounds with ‹image› and ‹audio›, for an mmproj file."));
        }
        if self.mmproj.is_some() && self.texts.is_empty() {
            return Err(Error::recipe("‹mmproj›", "has no effect without conversations that name images or sounds")
                .help("Give them with ‹text›, in a .jsonl file. To verify the mmproj file, name it as the artifact."));
        }
        if !self.media.is_empty() && !artifact.is_mmproj() {
            return Err(Error::recipe(
                "‹image›, ‹audio›",
                "only towers make soft tokens of images and sounds",
            )
            .expected("an mmproj file", "a text model"));
        }
        let of_recipe = self.structure(artifact.artifact(), base.as_ref(), &mut report, progress)?;
        self.features_step(base.as_ref(), &mut report, progress)?;
        if self.texts.is_empty() && !matches!(base, Some(Against::Logits(_))) {
            skip(&mut report, Step::Text, "no ‹text› was given");
        } else if failed(&report) && !self.keep_going {
            skip(&mut report, Step::Text, AFTER_FAILURE);
        } else if verify::is_draft(artifact.artifact()) {
            skip(
                &mut report,
                Step::Text,
                "a draft model makes no predictions without its target (draft measure)",
            );
        } else {
            let artifact = artifact.model()?.with_compute(self.compute);
            timed(&mut report, "text", |report| {
                self.text_step(&artifact, base.as_ref(), logits, report, progress)
            })?;
        }
        check(self.thresholds, of_recipe, &mut report);
        let media = self.media.iter().map(MediaFile::path);
        let given = self.mmproj.iter().chain(&self.texts).map(PathBuf::as_path);
        report.run.files.extend(hashed_files(given.chain(media))?);
        report.passed = !failed(&report);
        report.compared = base.is_some();
        report.outcome = match (report.passed, report.compared) {
            (false, _) => Outcome::Failed,
            (true, false) => Outcome::CheckedAlone,
            (true, true) => Outcome::Passed,
        };
        Ok(report)
    }

    /// Keys, tensors and weights. Returns the limits that the artifact's recipe sets.
    fn structure(
        &self,
        artifact: Artifact<'_>,
        against: Option<&Against>,
        report: &mut Report,
        progress: &dyn Progress,
    ) -> Result<Thresholds> {
        let from = &self.provenance(artifact, report, progress)?;
        let recipe = &from.recipe;
        let base = match against {
            Some(Against::Model(base)) => base,
            // the base has at most logits
            Some(Against::Logits(_)) | None => {
                self.alone(artifact, report, progress)?;
                return Ok(recipe.verify);
            }
        };
        let towers = match (&base.container, recipe.output.format) {
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
                return Ok(recipe.verify);
            }
        };
        structure_step(report, || verify::structure(artifact, &expected))?;
        self.weights_step(report, verify::weights(artifact, &expected), progress, |report, done| {
            let (tensors, findings) =
                verify::tensor_errors(artifact, source, &expected, self.compute.simd, done)?;
            report.tensors = Some(tensors);
            Ok(findings)
        })?;
        Ok(recipe.verify)
    }

    /// The provenance of the artifact: the given recipe, or that of the manifest or the file itself. The files are
    /// compared with the manifest.
    fn provenance(
        &self,
        artifact: Artifact<'_>,
        report: &mut Report,
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
        timed(report, "files", |report| {
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
        let Some(Against::Model(base)) = against else {
            return Err(Error::recipe(
                "‹image›, ‹audio›",
                "their soft tokens are compared with those of a checkpoint",
            )
            .help("Give the checkpoint with ‹against›."));
        };
        let Container::Checkpoint(checkpoint, spec) = &base.container else {
            return Err(Error::recipe("‹against›", "a GGUF of a text model has no towers")
                .expected("the checkpoint folder", base.path().display()));
        };
        if failed(report) && !self.keep_going {
            skip(report, Step::Features, AFTER_FAILURE);
            return Ok(());
        }
        timed(report, "features", |report| {
            report.features =
                towers::compare(&self.artifact, (checkpoint, spec), &self.media, self.compute, progress)?;
            Ok(())
        })
    }

    /// Checks that the artifact is consistent, and that its weights are finite and not all zero.
    fn alone(&self, artifact: Artifact<'_>, report: &mut Report, progress: &dyn Progress) -> Result<()> {
        structure_step(report, || verify::structure_alone(artifact))?;
        self.weights_step(report, verify::weights_of(artifact), progress, |_, done| {
            verify::weights_alone(artifact, self.compute.simd, done)
        })
    }

    /// Runs the step of the weights, unless it is switched off or an earlier step has failed.
    fn weights_step(
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

/// The base of a comparison.
pub(super) enum Against {
    Model(Box<Model>),
    Logits(LogitsFile),
}

impl Against {
    fn open(path: &Path, compute: Compute) -> Result<Against> {
        if LogitsFile::is_one(path) {
            return LogitsFile::open(path).map(Against::Logits);
        }
        let file = ModelFile::open(path)?;
        if file.is_mmproj() {
            return Err(Error::recipe("‹against›", "an mmproj file cannot be the base of a comparison")
                .expected("the checkpoint folder", path.display()));
        }
        Ok(Against::Model(Box::new(file.model_of_any_kind()?.with_compute(compute))))
    }
}

const GGUF_BASE: &str = "a folder is compared with its checkpoint, not with a GGUF";
const AFTER_FAILURE: &str = "an earlier step has failed; ‹keep_going› runs it nevertheless";

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

fn skip(report: &mut Report, step: Step, why: &str) {
    report.skipped.push(Skipped { step, why: why.to_owned() });
}

/// Runs a step and records its wall time.
fn timed(report: &mut Report, step: &str, run: impl FnOnce(&mut Report) -> Result<()>) -> Result<()> {
    let start = Instant::now();
    run(report)?;
    report.seconds.insert(step.to_owned(), start.elapsed().as_secs_f64());
    Ok(())
}
