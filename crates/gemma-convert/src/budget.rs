//! Types by budget: what rounding each tensor costs, from a file or measured on a text, and the requests with their types.

use std::io::Write;
use std::path::{Path, PathBuf};

use ::calibrate::{CalibrationTokens, sample, sensitivity, sensitivity_id, sensitivity_work};
use ::checkpoint::Checkpoint;
use ::gemma::Model;
use ::plan::{Plan, Request, Sensitivity, Shards, allocate, byte_size, check_budget};
use ::runtime::Weights;
use ::text::Tokenizer;
use base::{OutputFile, write_whole};
use tensor::{Error, Result, TensorSource};

use crate::args::{CalibrationText, Convert};
use crate::calibration::{names, sequences};
use crate::commands::opened::reader;
use crate::progress::Bar;

/// Where the costs are known from, for requests that need them.
pub(crate) enum Costs<'a> {
    /// Nowhere.
    Unknown,
    /// A file.
    File(&'a Path),
    /// They are measured on a text, and kept in a folder.
    Text { text: &'a CalibrationText, folder: &'a Path, force: bool },
}

impl<'a> Costs<'a> {
    /// What the arguments of a conversion say.
    pub(crate) fn of(args: &'a Convert, folder: &'a Path) -> Costs<'a> {
        match &args.what.budget.sensitivity {
            Some(file) => Costs::File(file),
            None if args.text.text.is_empty() => Costs::Unknown,
            None => Costs::Text { text: &args.text, folder, force: args.force },
        }
    }

    /// Chooses the types of the requests that have a budget. `check` is asked, before long work, about a plan with the same
    /// files.
    ///
    /// # Errors
    /// `Recipe` for costs that no request needs; what `check`, measuring and choosing say.
    pub(crate) fn choose(
        &self,
        requests: &mut [Request],
        (checkpoint, model, shards): (&Checkpoint, &Model, &Shards<'_>),
        check: impl FnOnce(&Plan) -> Result<()>,
    ) -> Result<()> {
        let within = |request: &Request, e: Error| e.within(format!("recipe {}", request.name));
        let Some(first) = requests.iter().find(|request| request.recipe.budget.is_some()) else {
            return match self {
                Costs::File(_) => Err(Error::recipe("--sensitivity", "has no effect: no recipe has a budget")
                    .help("`auto` has one, and every recipe for GGUF with --target-size, --target-bpw or --target-kld.")),
                _ => Ok(()),
            };
        };
        for request in requests.iter() {
            check_budget(model, shards, request).map_err(|e| within(request, e))?;
        }
        let costs = match self {
            Costs::Unknown => return Ok(()), // planning says what is missing
            Costs::File(path) => read(path)?,
            Costs::Text { text, folder, force } => {
                let mut plain = requests.to_vec();
                plain.iter_mut().for_each(|request| request.recipe.budget = None);
                check(&::plan::plan(model, shards, &plain)?)?;
                let context = first.recipe.calibration.as_ref().map_or(CONTEXT, |c| c.context);
                let path = folder.join(format!("{}.sensitivity.json", first.stem));
                measure(&Measure { checkpoint, model, text, context, path, force: *force })?
            }
        };
        for request in requests {
            *request = allocate(model, shards, request, &costs).map_err(|e| within(request, e))?;
        }
        Ok(())
    }
}

/// Tokens of a piece of text, where no recipe says it.
const CONTEXT: usize = 512;

/// The most bytes of a file of sensitivities: a line for each tensor and type.
const MAX_SENSITIVITIES: u64 = 16 << 20;

/// Reads a file of sensitivities.
pub(crate) fn read(path: &Path) -> Result<Sensitivity> {
    let json = base::read_bounded(path, MAX_SENSITIVITIES)?;
    Sensitivity::parse(&json).map_err(|e| e.within(path.display()))
}

/// What to measure, and where it is kept.
pub(crate) struct Measure<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) model: &'a Model,
    pub(crate) text: &'a CalibrationText,
    pub(crate) context: usize,
    /// What is known is written here whenever it is more.
    pub(crate) path: PathBuf,
    /// Replaces a file that knows something else.
    pub(crate) force: bool,
}

/// Measures what rounding each tensor costs, or takes what the file knows already.
///
/// # Errors
/// What the text, the model and the disk say.
pub(crate) fn measure(what: &Measure<'_>) -> Result<Sensitivity> {
    let Measure { checkpoint, model, text, context, path, force } = what;
    let tokenizer = Tokenizer::from_checkpoint(checkpoint)?;
    let sequences = sample(&sequences(text, *context, &reader(&tokenizer, model))?);
    let tokens = sequences.iter().map(|sequence| sequence.len() as u64).sum();
    let id = sensitivity_id(&model.fingerprint, &sequences);
    let known = read(path).ok();
    if path.exists() && !force && known.as_ref().is_none_or(|known| known.id != id) {
        return Err(Error::target(
            path.display(),
            "the file exists already, and is not of this model and text",
        )
        .help("Use --force to replace it."));
    }
    // before the work, and not only after it
    drop(OutputFile::sequential(path)?);
    let (config, inventory) = (&model.config, &model.inventory);
    let work = sensitivity_work(config, inventory, checkpoint.tensors(), tokens);
    let bar = Bar::steps("measuring what rounding costs", work);
    let text = CalibrationTokens {
        sequences: &sequences,
        names: names(&text.text),
        memory: byte_size("--text-memory", &text.text_memory)?,
        progress: &|tokens| bar.advance(tokens),
    };
    let base_model = ::runtime::Model::new(config, Weights::new(*checkpoint, inventory)?)?;
    let mut kept = None;
    let mut keep = |known: &Sensitivity| {
        keep(path, known)?;
        kept.get_or_insert_with(|| {
            base::keeps(format!(
                "what is measured so far is in {}: the same command goes on from there",
                path.display()
            ))
        });
        Ok(())
    };
    let found =
        sensitivity(&base_model, (*checkpoint, inventory), &text, &model.fingerprint, known, &mut keep);
    bar.finish();
    found
}

/// Writes a file of sensitivities, whole or not at all.
fn keep(path: &Path, sensitivity: &Sensitivity) -> Result<()> {
    let json = serde_json::to_vec_pretty(sensitivity).map_err(|e| Error::write(path.display(), &e.into()))?;
    write_whole(path, |file| file.write_all(&json))
}
