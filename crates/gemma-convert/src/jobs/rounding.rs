//! Quantization with error feedback (LDLQ) before a conversion, and its calibration text.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Progress, Unit};
use calibrate::{CalibrationStore, CalibrationTokens, QuantTarget, RoundedTensors};
use checkpoint::Checkpoint;
use convert::Options;
use plan::{Artifact, CalibrationEntry, FileEntry, Lattice, Origin, Request};
use runtime::Compute;
use tensor::{DType, Error, Result, TensorSource};
use text::{Corpus, Cut, Reader, Scored, Tokenizer};

use crate::jobs::Planned;
use crate::model::reader;
use crate::options::TextOptions;

/// The calibrated tensors of one artifact.
pub(crate) struct Calibrated {
    pub(crate) tensors: Arc<dyn TensorSource>,
    pub(crate) entry: CalibrationEntry,
    store: CalibrationStore,
    kept: Range<usize>,
}

impl Calibrated {
    /// Removes the stored layers, once they are in the artifact.
    pub(crate) fn remove(&self) {
        self.store.remove(self.kept.clone());
    }
}

/// The token sequences of a text.
///
/// # Errors
/// `Malformed` for a text that is too short or not UTF-8, `Recipe` for chunks beyond its end.
pub(crate) fn sequences(
    options: &TextOptions,
    context: usize,
    reader: &Reader<'_>,
    progress: &dyn Progress,
) -> Result<Vec<Vec<u32>>> {
    let most = options.chunks.as_ref().map(|chunks| chunks.0.end);
    let cut = Cut { context, most, scored: Scored::All };
    let first = options.chunks.as_ref().map_or(0, |chunks| chunks.0.start);
    let corpus = corpus(&options.files, reader, &cut, first, progress)?;
    Ok(corpus.sequences.into_iter().map(|sequence| sequence.tokens).collect())
}

/// The chunks of texts from number `first` on. Changes, such as shortened conversations, are noted; warnings about the perplexity of
/// a text are for `verify`.
///
/// # Errors
/// Those of [`sequences`].
pub(crate) fn corpus(
    files: &[PathBuf],
    reader: &Reader<'_>,
    cut: &Cut,
    first: usize,
    progress: &dyn Progress,
) -> Result<Corpus> {
    let mut corpus = Corpus::read(files, reader, cut)?;
    corpus.skip(first)?;
    let notes = corpus.remarks.iter().filter(|remark| !remark.is_warning);
    notes.for_each(|remark| progress.note(&format!("‹text›: {}", remark.problem)));
    Ok(corpus)
}

/// The paths of the texts as given.
pub(crate) fn names(texts: &[PathBuf]) -> Vec<String> {
    texts.iter().map(|path| path.display().to_string()).collect()
}

/// Quantizes with error feedback for the recipes that have `[calibration]`; one item per request. `measured` says that
/// the text was already used for sensitivities.
///
/// # Errors
/// `Recipe` for a recipe that needs a text if there is none, and for a text that no recipe needs; `Target` for a
/// destination that cannot be written; `Malformed` for a text that is too short.
pub(crate) fn round(
    (text, compute): (&TextOptions, Compute),
    measured: bool,
    planned: &Planned,
    requests: &[Request],
    options: &Options,
    progress: &dyn Progress,
) -> Result<Vec<Option<Calibrated>>> {
    let Planned { checkpoint, model, plan, .. } = planned;
    let wants = |request: &&Request| request.recipe.calibration.is_some();
    match (requests.iter().find(wants), text.files.is_empty()) {
        (Some(request), true) => {
            return Err(Error::recipe(
                format!("recipe {}", request.name),
                "it needs a calibration text, and there is none",
            )
            .help("Give one with ‹text›: 16,000 tokens or more of the kind of text that the model is for."));
        }
        (None, false) if !measured => {
            return Err(Error::recipe("‹text›", "has no effect: no recipe needs a calibration text")
                .help("q4_0-calibrated does, and every recipe with ‹set› calibration.method=ldlq."));
        }
        (None, _) => return Ok(requests.iter().map(|_| None).collect()),
        // check before hours of work, and not only after them
        (Some(_), false) => convert::check(checkpoint, plan, options)?,
    }
    let Some(model) = model else {
        return Err(Error::recipe("calibration", "an mmproj file has no text model to calibrate"));
    };
    let tokenizer = Tokenizer::from_checkpoint(checkpoint)?;
    let reader = reader(&tokenizer, model);
    let texts = text.files.iter().map(|path| convert::file_entry(path)).collect::<Result<Vec<_>>>()?;
    let one = |(number, request): (usize, &Request)| {
        let Some(calibration) = &request.recipe.calibration else { return Ok(None) };
        let sequences = sequences(text, calibration.context, &reader, progress)?;
        let artifact = &plan.artifacts[number];
        let run = Run { checkpoint, model, artifact, sequences, texts: &texts, compute };
        let folder = options.folder.join(format!("{}.calibration", request.stem));
        let id = run.id(&plan.only(number).digest());
        run.round(&folder, &id, text.memory, progress).map(Some)
    };
    requests.iter().enumerate().map(one).collect()
}

struct Run<'a> {
    checkpoint: &'a Checkpoint,
    model: &'a gemma::ModelSpec,
    artifact: &'a Artifact,
    sequences: Vec<Vec<u32>>,
    texts: &'a [FileEntry],
    compute: Compute,
}

/// The 4-bit quantization grid that a tensor keeps.
fn lattice(tensor: &plan::OutputTensor) -> Option<Lattice> {
    match &tensor.from {
        Origin::Checkpoint(stored) => stored.lattice,
        _ => None,
    }
}

impl Run<'_> {
    /// The store id, a digest of everything that the result depends on.
    fn id(&self, plan: &str) -> String {
        let kernel = self.compute.kernel.name();
        calibrate::store_id(&[&self.model.fingerprint, plan.as_bytes(), kernel.as_bytes()], &self.sequences)
    }

    fn round(&self, folder: &Path, id: &str, memory: u64, progress: &dyn Progress) -> Result<Calibrated> {
        let config = &self.model.config;
        let layers = config.layers();
        let tensors = self.artifact.files.iter().flat_map(|file| &file.tensors);
        let embedding = tensors.clone().find(|tensor| tensor.role == "token_embd");
        // on a quantization grid it keeps its values
        let embedding = embedding.filter(|tensor| lattice(tensor).is_none());
        let embedding = embedding.map_or(DType::F32, |tensor| tensor.desc.dtype);
        let target = |tensor: &plan::OutputTensor| {
            let grid = lattice(tensor);
            // weights on a quantization grid are repacked without loss
            let rounds =
                grid != Some(Lattice::On) && calibrate::supports_ldlq(config, tensor.role, tensor.desc.dtype);
            let layer = tensor.layer.unwrap_or(layers);
            let desc = || tensor.desc.clone();
            rounds.then(|| QuantTarget { role: tensor.role, layer, desc: desc(), keeps_grid: grid.is_some() })
        };
        let targets: Vec<QuantTarget> = tensors.filter_map(target).collect();
        let tokens: u64 = self.sequences.iter().map(|sequence| sequence.len() as u64).sum();
        let steps = calibrate::ldlq_passes(&targets, layers) * tokens;
        let name = format!("{}: calibrating", self.artifact.recipe);
        let task = progress.begin(&name, steps, Unit::Steps);
        let text = CalibrationTokens {
            sequences: &self.sequences,
            names: Vec::new(),
            memory,
            compute: self.compute,
            progress: &|tokens| task.advance(tokens),
        };
        let store = CalibrationStore::new(folder, id)?;
        let (source, inventory) = (self.checkpoint, &self.model.inventory);
        let reports = calibrate::ldlq(config, source, inventory, &targets, embedding, &text, &store)?;
        // a quantized head is stored as one more layer
        let kept = 0..layers + usize::from(targets.iter().any(|target| target.layer == layers));
        let tensors: RoundedTensors = store.open(kept.clone())?;
        let entry = CalibrationEntry {
            texts: self.texts.to_vec(),
            tokens,
            sequences: self.sequences.len() as u64,
            compute: self.compute.to_string(),
            tensors: serde_json::to_value(&reports).expect("reports are plain data"),
        };
        Ok(Calibrated { tensors: Arc::new(tensors), entry, store, kept })
    }
}
