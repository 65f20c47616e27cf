//! Verification of a bundle of LiteRT-LM: file, tokenizer, constants, and the predictions of the decoded weights.

use base::{OutputFile, Progress};
use checkpoint::Checkpoint;
use eval::ModelInfo;
use gemma::ModelSpec;
use imatrix::Importance;
use litert::{Bundle, BundleScales, DecodedWeights, FileSource, GraphTensors, Mapped, Source};
use plan::{ArtifactEntry, BundleRecipeTypes, ScaleRule};
use tensor::{Error, Result, TensorSource};
use verify::{Finding, Severity, Step, Structure};

use super::Verify;
use super::against::Against;
use super::bundle::{OTHER_VOCABULARY, other_vocabulary, searched};
use super::bundle_skeleton::recognised;
use super::bundle_tensors::{GraphText, HEAD, MODELS, wanted};
use super::verification_steps::{AFTER_FAILURE, Verification, skip, timed};
use crate::model::{Container, Model, ModelFile};

const NO_CAP: &str = "the exported graph has no final soft cap: its logits differ from the figures below, which are of its weights \
                      with the cap; the most probable token does not";

/// Compares the bundle with its checkpoint. Its faults are findings in the report.
///
/// # Errors
/// `Recipe` for settings without a checkpoint, and for those that have no effect; those of reading.
pub(super) fn verify(
    job: &Verify,
    logits: Option<OutputFile>,
    progress: &dyn Progress,
) -> Result<verify::Report> {
    check(job)?;
    let file = FileSource::open(&job.artifact)?;
    let within = |e: Error| e.within(job.artifact.display());
    let bundle = Bundle::read(&file).map_err(within)?;
    let base = job.open_base()?;
    let Some(Container::Checkpoint(checkpoint, spec)) =
        base.as_ref().and_then(Against::model).map(|model| &model.container)
    else {
        return Err(Error::recipe("‹against›", "a bundle is compared with the folder of a checkpoint"));
    };
    // a second reading of the checkpoint, for its config and its tokenizer: the weights are those of the bundle
    let same = ModelFile::open(checkpoint.dir())?.with_adapters(&job.adapters)?;
    let mut verification = Verification::new(job.clone(), same, base.as_ref());
    let report = &mut verification.report;
    report.findings.drain(..verify::form(checkpoint).len());
    report.artifact = ModelInfo {
        path: job.artifact.display().to_string(),
        variant: spec.config.variant().map(str::to_owned),
        file_bytes: bundle.file_len(),
        ..ModelInfo::default()
    };
    let mut entry = None;
    timed(report, "files", |report| {
        let (hashed, described, findings) = verify::bundle_file(&job.artifact)?;
        entry = described;
        if job.require_manifest && entry.is_none() {
            let problem = "no manifest describes the artifact, and ‹require_manifest› asks for one";
            report.findings.push(Finding::new(Severity::Failure, Step::Structure, "manifest", problem));
        }
        report.findings.extend(findings);
        report.run.files = vec![hashed];
        let plan = if entry.is_some() { "manifest" } else { "bundle" }.to_owned();
        report.structure =
            Some(Structure { plan, hashed: u64::from(entry.is_some()), ..Structure::default() });
        Ok(())
    })?;
    let mut mapped = None;
    let mut tensors = GraphText::new(&**checkpoint, &spec.inventory);
    timed(report, "structure", |report| {
        if let Some(section) = other_vocabulary(&bundle, &file, checkpoint.dir()).map_err(within)? {
            report.findings.push(Finding::new(Severity::Failure, Step::Structure, section, OTHER_VOCABULARY));
        }
        let by_name = recognised((&bundle, &file), &spec.config, &spec.inventory, checkpoint);
        let found = by_name.and_then(|by_name| match by_name {
            Some((found, of_skeleton)) => {
                tensors = of_skeleton;
                Ok(found)
            }
            None => litert::map(&bundle, &file, &**checkpoint, &wanted(&spec.inventory)),
        });
        match found {
            Ok(found) => mapped = Some(found),
            Err(error) => report.findings.push((&error).into()),
        }
        Ok(())
    })?;
    let scales = scales(job, entry.as_ref(), &tensors)?;
    match mapped {
        Some(mapped) => {
            weights(job, (&bundle, &file), &mapped, &tensors, scales.as_ref(), &mut verification, progress)?;
            let decoded = decoded(file, bundle, mapped, &tensors.tensors, (checkpoint, spec))?;
            verification.decoded = Some(decoded);
        }
        None => skip(&mut verification.report, Step::Tensors, AFTER_FAILURE),
    }
    if verification.decoded.is_some() {
        if job.predicts(base.as_ref()) && spec.config.softcap.is_some() && !tensors.has_softcap() {
            verification.report.findings.push(Finding::new(Severity::Note, Step::Text, "logits", NO_CAP));
        }
        job.text_step(&mut [&mut verification], logits, progress)?;
    }
    verification.finish()
}

/// Refuses settings that have no effect on a bundle.
fn check(job: &Verify) -> Result<()> {
    if job.base.is_none() {
        return Err(Error::recipe(job.artifact.display(), "a bundle, which is compared with its checkpoint")
            .help("Give the checkpoint with ‹against›. `inspect` lists the contents of a bundle."));
    }
    let without = [
        (job.recipe.is_some(), "‹recipe›"),
        (!job.media.is_empty(), "‹image›, ‹audio›"),
        (job.mmproj.is_some(), "‹mmproj›"),
    ];
    match without.into_iter().find(|(given, _)| *given) {
        Some((_, setting)) => Err(Error::recipe(setting, "has no effect on a bundle")),
        None => Ok(()),
    }
}

/// How the bundle was rounded, as its manifest says; without one, an importance matrix says that scales were searched. `None` if the matrix
/// is not at hand.
fn scales(
    job: &Verify,
    entry: Option<&ArtifactEntry>,
    tensors: &GraphText<'_>,
) -> Result<Option<BundleScales>> {
    let types = entry.and_then(|entry| serde_json::from_value(entry.settings["types"].clone()).ok());
    let rule = types.map_or(ScaleRule::MinMax, |types: BundleRecipeTypes| types.scales);
    if rule == ScaleRule::MinMax {
        match &job.importance {
            None => return Ok(Some(BundleScales::MinMax)),
            Some(_) if entry.is_some() => {
                let problem = "has no effect: by its manifest, the scales of the bundle are those of the largest magnitudes";
                return Err(Error::recipe("‹importance›", problem));
            }
            Some(_) => {}
        }
    }
    let recorded = entry.and_then(|entry| Some((entry.importance.as_ref()?, &entry.inputs)));
    let importance = match (&job.importance, recorded) {
        (Some(path), _) => Some((Importance::read(path)?, base::with_slashes(path))),
        (None, None) => None,
        (None, Some((keys, inputs))) => {
            let Some(entries) = verify::recorded_importance(Some(&job.artifact), keys, inputs) else {
                return Ok(None);
            };
            Some((entries, keys.file.clone()))
        }
    };
    let importance = importance.as_ref().map(|(entries, file)| (entries, file.as_str()));
    searched(tensors, importance).map(Some)
}

/// Compares the constants.
fn weights(
    job: &Verify,
    bundle: (&Bundle, &dyn Source),
    mapped: &[Mapped],
    tensors: &GraphText<'_>,
    scales: Option<&BundleScales>,
    verification: &mut Verification<'_>,
    progress: &dyn Progress,
) -> Result<()> {
    let total = verify::bundle_weights(mapped);
    let report = &mut verification.report;
    let constants = mapped.iter().map(|mapped| mapped.assignments.len() as u64).sum();
    if let Some(structure) = &mut report.structure {
        structure.tensors = constants;
    }
    job.weights_step(report, total, progress, |report, done| {
        let base = (&tensors.tensors as &dyn TensorSource, &tensors.inventory);
        let (tensors, findings) = verify::of_bundle(bundle, mapped, base, scales, job.compute.simd, done)?;
        for tensor in &tensors.tensors {
            report.artifact.bytes += tensor.bytes;
            report.artifact.weights += tensor.weights;
            *report.artifact.types.entry(tensor.dtype.clone()).or_default() += tensor.bytes;
        }
        report.tensors = Some(tensors);
        Ok(findings)
    })
}

/// The tensors of the checkpoint with the weights of the bundle. The head, which is a second copy of a tied embedding, comes last.
fn decoded(
    file: FileSource,
    bundle: Bundle,
    mapped: Vec<Mapped>,
    graph: &GraphTensors<'_>,
    (checkpoint, spec): (&Checkpoint, &ModelSpec),
) -> Result<(DecodedWeights, Option<usize>)> {
    let role = |index: usize| {
        spec.inventory.text.iter().find(|found| found.index == index).map(|found| found.slot.role)
    };
    // the first model has what no other one has
    let model = |index: usize| {
        MODELS.iter().position(|(_, only)| only.is_some() && *only == role(index)).unwrap_or(HEAD)
    };
    let tensors = checkpoint.tensors();
    let embedding = spec.inventory.text.iter().find(|found| found.slot.role == "token_embd");
    let head = embedding.filter(|_| spec.config.tied).map(|found| found.index);
    let all = tensors.iter().enumerate().map(|(index, desc)| (desc, index, model(index)));
    let last = head.map(|index| (&tensors[index], index, HEAD));
    let weights = DecodedWeights::new(file, bundle, mapped, graph, all.chain(last))?;
    Ok((weights, head.map(|_| tensors.len())))
}

impl Model {
    /// The same model with other weights for its tensors. `head` is the index of a head that is not the embedding.
    pub(super) fn with_weights(mut self, weights: DecodedWeights, head: Option<usize>) -> Model {
        if let (Container::Checkpoint(_, spec), Some(index)) = (&mut self.container, head) {
            let embedding = spec.inventory.text.iter().find(|found| found.slot.role == "token_embd").cloned();
            if let Some(mut found) = embedding {
                found.slot.role = "output";
                found.index = index;
                spec.inventory.text.push(found);
                spec.config.tied = false;
            }
        }
        self.weights = Some(Box::new(weights));
        self
    }
}
