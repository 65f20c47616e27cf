//! Quantization with error feedback (LDLQ) before a conversion, and its calibration text.

use std::path::PathBuf;
use std::sync::Arc;

use base::{Progress, Unit};
use calibrate::{CalibrationStore, CalibrationTokens, LayerGroup, TensorReport};
use checkpoint::Checkpoint;
use convert::Options;
use plan::{Artifact, CalibrationEntry, Request};
use runtime::Compute;
use tensor::{Error, Result};
use text::{Corpus, Cut, Reader, Scored, Tokenizer};

use super::Planned;
use super::calibration_targets::CalibrationTargets;
use crate::model::reader;
use crate::options::TextOptions;

/// The extension of the folder with the layers that are quantized so far.
const STORE: &str = "calibration";

/// The stored layers of one artifact.
pub(crate) struct StoredLayers {
    store: CalibrationStore,
    layers: Vec<usize>,
}

impl StoredLayers {
    /// Removes them, once they are in the artifact.
    pub(crate) fn remove(&self) {
        self.store.remove(self.layers.iter().copied());
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

/// The paths of the texts as given, with `/`.
pub(crate) fn names(texts: &[PathBuf]) -> Vec<String> {
    texts.iter().map(|path| base::with_slashes(path)).collect()
}

/// Quantizes with error feedback for the recipes that have `[calibration]`, and adds the results to the options of the run. `measured`
/// says that the text was already used for sensitivities.
///
/// # Errors
/// `Recipe` for a recipe that needs a text if there is none, and for a text that no recipe needs; `Target` for a
/// destination that cannot be written; `Malformed` for a text that is too short.
pub(crate) fn round(
    (text, compute): (&TextOptions, Compute),
    measured: bool,
    planned: &Planned,
    requests: &[Request],
    options: &mut Options,
    progress: &dyn Progress,
) -> Result<Vec<StoredLayers>> {
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
        (None, _) => return Ok(Vec::new()),
        (Some(_), false) => {}
    }
    let Some(model) = model else {
        return Err(Error::recipe("calibration", "an mmproj file has no text model to calibrate"));
    };
    let targets = |artifact: &Artifact| CalibrationTargets::of(&model.config, artifact);
    let targets: Vec<Option<CalibrationTargets>> = plan.artifacts.iter().map(targets).collect();
    options.groups = targets.iter().flatten().flat_map(CalibrationTargets::tensor_groups).collect();
    // check before hours of work, and not only after them
    convert::check(checkpoint, plan, options)?;

    let tokenizer = Tokenizer::from_checkpoint(checkpoint)?;
    let reader = reader(&tokenizer, model);
    let mut runs = Vec::new();
    for (number, (request, targets)) in requests.iter().zip(targets).enumerate() {
        let (Some(calibration), Some(targets)) = (&request.recipe.calibration, targets) else { continue };
        let sequences = sequences(text, calibration.context, &reader, progress)?;
        options.depends_on.push(("text", calibrate::store_id(&[], &sequences)));
        options.depends_on.push(("kernel", compute.kernel.name().to_owned()));
        runs.push((number, Run { checkpoint, model, targets, sequences, compute }));
    }
    let texts = text.files.iter().map(|path| convert::file_entry(path)).collect::<Result<Vec<_>>>()?;
    let parts = convert::part_folder(checkpoint, plan, options)?;
    options.rounded = vec![None; requests.len()];
    options.calibrations = vec![None; requests.len()];
    let mut stored = Vec::new();
    for (number, run) in runs {
        let folder = match &parts {
            Some(parts) => parts.file(STORE),
            None => options.folder.join(format!("{}.{STORE}", requests[number].stem)),
        };
        let store = CalibrationStore::new(folder, run.id(&plan.only(number).digest()))?;
        let groups = run.targets.groups(options.part.unwrap_or_default());
        let layers = run.targets.stored(groups);
        let reports = run.round(&requests[number].name, groups, &store, text.memory, progress)?;
        options.rounded[number] = Some(Arc::new(store.open(layers.iter().copied())?));
        options.calibrations[number] = Some(CalibrationEntry {
            texts: texts.clone(),
            tokens: run.tokens(),
            sequences: run.sequences.len() as u64,
            compute: compute.to_string(),
            tensors: serde_json::to_value(&reports).expect("reports are plain data"),
        });
        stored.push(StoredLayers { store, layers });
    }
    Ok(stored)
}

/// The calibrated quantization of one artifact.
struct Run<'a> {
    checkpoint: &'a Checkpoint,
    model: &'a gemma::ModelSpec,
    targets: CalibrationTargets,
    sequences: Vec<Vec<u32>>,
    compute: Compute,
}

impl Run<'_> {
    /// The store id, a digest of everything that the result depends on.
    fn id(&self, plan: &str) -> String {
        let kernel = self.compute.kernel.name();
        calibrate::store_id(&[&self.model.fingerprint, plan.as_bytes(), kernel.as_bytes()], &self.sequences)
    }

    fn tokens(&self) -> u64 {
        self.sequences.iter().map(|sequence| sequence.len() as u64).sum()
    }

    /// Quantizes groups of layers into the store.
    fn round(
        &self,
        recipe: &str,
        groups: &[LayerGroup],
        store: &CalibrationStore,
        memory: u64,
        progress: &dyn Progress,
    ) -> Result<Vec<TensorReport>> {
        let steps = self.targets.passes(groups) * self.tokens();
        let task = progress.begin(&format!("{recipe}: calibrating"), steps, Unit::Steps);
        let text = CalibrationTokens {
            sequences: &self.sequences,
            names: Vec::new(),
            memory,
            compute: self.compute,
            progress: &|tokens| task.advance(tokens),
        };
        let (config, inventory) = (&self.model.config, &self.model.inventory);
        let targets = (&self.targets.tensors[..], self.targets.embedding);
        calibrate::ldlq(config, self.checkpoint, inventory, targets, groups, &text, store)
    }
}
