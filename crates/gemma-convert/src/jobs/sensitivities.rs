//! Mixed-precision bit allocation: the sensitivity of each tensor, from a file or measured on a text, and the requests
//! with the allocated types.

use std::io::Write;
use std::path::{Path, PathBuf};

use base::{OutputFile, Progress, Unit, write_whole};
use calibrate::{CalibrationTokens, sample, sensitivity, sensitivity_id, sensitivity_work};
use checkpoint::{Adapter, Checkpoint};
use plan::{Plan, Request, Sensitivity, Shards, allocate, check_budget};
use runtime::{Compute, Weights};
use tensor::{Error, Result, TensorSource};
use text::Tokenizer;

use crate::jobs::rounding::{names, sequences};
use crate::model::{open_checkpoint, reader};
use crate::options::{BudgetOptions, TextOptions};

/// The source of sensitivities, for requests with a budget.
pub(crate) enum Costs<'a> {
    /// No source.
    Unknown,
    /// A file.
    File(&'a Path),
    /// Measurement on a text; the result is stored in a folder.
    Text { text: &'a TextOptions, folder: &'a Path, force: bool, compute: Compute },
}

impl<'a> Costs<'a> {
    /// The file that the options name, or a measurement on the text, if there is one.
    pub(crate) fn of(
        budget: &'a BudgetOptions,
        text: &'a TextOptions,
        folder: &'a Path,
        force: bool,
        compute: Compute,
    ) -> Costs<'a> {
        match &budget.sensitivity {
            Some(file) => Costs::File(file),
            None if text.files.is_empty() => Costs::Unknown,
            None => Costs::Text { text, folder, force, compute },
        }
    }

    /// Allocates the types of the requests with a budget. Before long work, `check` gets a plan with the same files.
    ///
    /// # Errors
    /// `Recipe` for sensitivities that no request needs; the errors of `check`, measurement and allocation.
    pub(crate) fn choose(
        &self,
        requests: &mut [Request],
        (checkpoint, model, shards): (&Checkpoint, &gemma::ModelSpec, &Shards<'_>),
        check: impl FnOnce(&Plan) -> Result<()>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let within = |request: &Request, e: Error| e.within(format!("recipe {}", request.name));
        let Some(first) = requests.iter().find(|request| request.recipe.budget.is_some()) else {
            return match self {
                Costs::File(_) => Err(Error::recipe("‹sensitivity›", "has no effect: no recipe has a budget")
                    .help("`auto` has one, and every recipe for GGUF with ‹target_size›, ‹target_bpw› or ‹target_kld›.")),
                _ => Ok(()),
            };
        };
        for request in requests.iter() {
            check_budget(model, shards, request).map_err(|e| within(request, e))?;
        }
        let costs = match self {
            Costs::Unknown => return Ok(()), // planning reports the missing sensitivities
            Costs::File(path) => read(path)?,
            &Costs::Text { text, folder, force, compute } => {
                let mut plain = requests.to_vec();
                plain.iter_mut().for_each(|request| request.recipe.budget = None);
                check(&plan::plan(model, shards, &plain)?)?;
                let context = first.recipe.calibration.as_ref().map_or(CONTEXT, |c| c.context);
                let path = folder.join(format!("{}.sensitivity.json", first.stem));
                measure(&Measure { checkpoint, model, text, context, path, force, compute }, progress)?
            }
        };
        for request in requests {
            *request = allocate(model, shards, request, &costs).map_err(|e| within(request, e))?;
        }
        Ok(())
    }
}

/// Default tokens per chunk of text.
const CONTEXT: usize = 512;

/// The largest size of a sensitivity file in bytes; it has a line for each tensor and type.
const MAX_SENSITIVITIES: u64 = 16 << 20;

/// Reads a sensitivity file.
pub(crate) fn read(path: &Path) -> Result<Sensitivity> {
    let json = base::read_bounded(path, MAX_SENSITIVITIES)?;
    Sensitivity::parse(&json).map_err(|e| e.within(path.display()))
}

/// A measurement job with its output file.
pub(crate) struct Measure<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) model: &'a gemma::ModelSpec,
    pub(crate) text: &'a TextOptions,
    pub(crate) context: usize,
    /// The output file, which is rewritten after each pass.
    pub(crate) path: PathBuf,
    /// Replaces a file of another model or text.
    pub(crate) force: bool,
    pub(crate) compute: Compute,
}

/// Measures the sensitivity of each tensor that the file does not have yet.
///
/// # Errors
/// `Target` for a file of another model or text, `Malformed` for a text that is too short, `Io`.
pub(crate) fn measure(what: &Measure<'_>, progress: &dyn Progress) -> Result<Sensitivity> {
    let Measure { checkpoint, model, text, context, path, force, compute } = what;
    let tokenizer = Tokenizer::from_checkpoint(checkpoint)?;
    let sequences = sample(&sequences(text, *context, &reader(&tokenizer, model), progress)?);
    let tokens = sequences.iter().map(|sequence| sequence.len() as u64).sum();
    let id = sensitivity_id(&model.fingerprint, &sequences, *compute);
    let known = read(path).ok();
    if path.exists() && !force && known.as_ref().is_none_or(|known| known.id != id) {
        return Err(Error::target(
            path.display(),
            "the file exists already, and is not of this model and text",
        )
        .help("Use ‹force› to replace it."));
    }
    // check before the work, and not only after it
    drop(OutputFile::sequential(path)?);
    let (config, inventory) = (&model.config, &model.inventory);
    let work = sensitivity_work(config, inventory, checkpoint.tensors(), tokens);
    let task = progress.begin("measuring sensitivities", work, Unit::Steps);
    let text = CalibrationTokens {
        sequences: &sequences,
        names: names(&text.files),
        memory: text.memory,
        compute: *compute,
        progress: &|tokens| task.advance(tokens),
    };
    let base_model = runtime::Model::new(config, Weights::new(*checkpoint, inventory, *compute)?)?;
    let mut kept = None;
    let mut keep = |known: &Sensitivity| {
        keep(path, known)?;
        kept.get_or_insert_with(|| {
            base::keeps(format!(
                "the sensitivities measured so far are in {}: the same command resumes from there",
                path.display()
            ))
        });
        Ok(())
    };
    sensitivity(&base_model, (*checkpoint, inventory), &text, &model.fingerprint, known, &mut keep)
}

/// Writes a sensitivity file atomically.
fn keep(path: &Path, sensitivity: &Sensitivity) -> Result<()> {
    let json = serde_json::to_vec_pretty(sensitivity).map_err(|e| Error::write(path.display(), &e.into()))?;
    write_whole(path, |file| file.write_all(&json))
}

/// Measures the sensitivity of each tensor of a checkpoint: the KL divergence caused by quantizing it alone.
#[derive(Clone, Debug)]
pub struct MeasureSensitivity {
    /// The checkpoint folder, or a GGUF file.
    pub model: PathBuf,
    /// Adapters (LoRA) that are merged into the checkpoint, in order.
    pub adapters: Vec<Adapter>,
    /// The text to measure on.
    pub text: TextOptions,
    /// Tokens per chunk of plain text; the most tokens of a conversation.
    pub context: usize,
    /// The file to write. Tensors that it already has, for the same model and text, are not measured again.
    pub out: PathBuf,
    /// Replaces a file of another model or text.
    pub force: bool,
    /// Arithmetic: vector instructions and the kernel of matrix products.
    pub compute: Compute,
}

impl MeasureSensitivity {
    /// A measurement with chunks of 512 tokens.
    pub fn new(model: impl Into<PathBuf>, out: impl Into<PathBuf>) -> MeasureSensitivity {
        let (model, out) = (model.into(), out.into());
        let (text, compute) = (TextOptions::default(), Compute::detect());
        let adapters = Vec::new();
        MeasureSensitivity { model, adapters, text, context: CONTEXT, out, force: false, compute }
    }

    /// Adds a text to measure on.
    #[must_use]
    pub fn text(mut self, file: impl Into<PathBuf>) -> MeasureSensitivity {
        self.text.files.push(file.into());
        self
    }

    /// Measures, and writes the file after each pass.
    ///
    /// # Errors
    /// `Recipe` without a text; `Malformed` or `Unsupported` for the checkpoint, `Malformed` for a text that is too
    /// short; `Target` for a file of another model or text; `Io`.
    pub fn run(&self, progress: &dyn Progress) -> Result<Sensitivity> {
        if self.text.files.is_empty() {
            return Err(Error::recipe("sensitivity", "no text to measure on").help("Give one with ‹text›."));
        }
        let checkpoint = open_checkpoint(&self.model, &self.adapters)?.with_simd(self.compute.simd);
        let model = gemma::ModelSpec::open(&checkpoint)?;
        model.notes.iter().for_each(|note| progress.note(note));
        let (text, context, path) = (&self.text, self.context, self.out.clone());
        let (checkpoint, model, force, compute) = (&checkpoint, &model, self.force, self.compute);
        let subject = Measure { checkpoint, model, text, context, path, force, compute };
        measure(&subject, progress)
    }
}
