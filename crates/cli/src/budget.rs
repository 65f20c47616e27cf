//! Types by budget: what rounding each tensor costs, from a file or measured on a text, and the requests with their types.

use std::fs;
use std::path::{Path, PathBuf};

use ::calibrate::{Text, sample, sensitivity, sensitivity_work};
use ::checkpoint::Checkpoint;
use ::gemma::Model;
use ::plan::{Request, Sensitivity, Shards, allocate, byte_size};
use ::runtime::Weights;
use ::text::Tokenizer;
use tensor::{Error, Result, TensorSource};

use crate::args::CalibrationText;
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
    Text { text: &'a CalibrationText, folder: &'a Path, quiet: bool },
}

impl<'a> Costs<'a> {
    /// What the arguments of a conversion say.
    pub(crate) fn of(args: &'a crate::args::Convert, folder: &'a Path) -> Costs<'a> {
        match &args.what.budget.sensitivity {
            Some(file) => Costs::File(file),
            None if args.text.text.is_empty() => Costs::Unknown,
            None => Costs::Text { text: &args.text, folder, quiet: args.quiet },
        }
    }

    /// Chooses the types of the requests that have a budget.
    ///
    /// # Errors
    /// `Recipe` for costs that no request needs; what measuring and choosing say.
    pub(crate) fn choose(
        &self,
        requests: &mut [Request],
        checkpoint: &Checkpoint,
        model: &Model,
        shards: &Shards<'_>,
    ) -> Result<()> {
        let budgeted = requests.iter().find_map(|request| Some((request, request.recipe.budget.as_ref()?)));
        let costs = match (budgeted, self) {
            (None, Costs::File(_)) => {
                return Err(Error::recipe("--sensitivity", "has no effect: no recipe has a budget")
                    .help("`auto` has one, and every recipe for GGUF with --target-size, --target-bpw or --target-kld."));
            }
            (None, _) | (Some(_), Costs::Unknown) => return Ok(()), // planning says what is missing
            (Some(_), Costs::File(path)) => read(path)?,
            (Some((request, _)), Costs::Text { text, folder, quiet }) => {
                let context = request.recipe.calibration.as_ref().map_or(CONTEXT, |c| c.context);
                let path = folder.join(format!("{}.sensitivity.json", request.stem));
                fs::create_dir_all(folder).map_err(|e| Error::write(folder.display(), &e))?;
                measure(&Measure { checkpoint, model, text, context, path, quiet: *quiet })?
            }
        };
        for request in requests {
            *request = allocate(model, shards, request, &costs)
                .map_err(|e| e.within(format!("recipe {}", request.name)))?;
        }
        Ok(())
    }
}

/// Tokens of a piece of text, where no recipe says it.
const CONTEXT: usize = 512;

/// Reads a file of sensitivities.
pub(crate) fn read(path: &Path) -> Result<Sensitivity> {
    let json = fs::read(path).map_err(|e| Error::io(path.display(), &e))?;
    Sensitivity::parse(&json).map_err(|e| e.within(path.display()))
}

/// What to measure, and where it is kept.
pub(crate) struct Measure<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) model: &'a Model,
    pub(crate) text: &'a CalibrationText,
    pub(crate) context: usize,
    pub(crate) path: PathBuf,
    pub(crate) quiet: bool,
}

/// Measures what rounding each tensor costs, or takes what the file knows already.
///
/// # Errors
/// What the text, the model and the disk say.
pub(crate) fn measure(what: &Measure<'_>) -> Result<Sensitivity> {
    let Measure { checkpoint, model, text, context, path, quiet } = what;
    let tokenizer = Tokenizer::from_checkpoint(checkpoint)?;
    let sequences = sample(&sequences(text, *context, &reader(&tokenizer, model))?);
    let tokens = sequences.iter().map(|sequence| sequence.len() as u64).sum();
    let (config, inventory) = (&model.config, &model.inventory);
    let work = sensitivity_work(config, inventory, checkpoint.tensors(), tokens);
    let bar = Bar::steps("measuring what rounding costs", work, *quiet);
    let text = Text {
        sequences: &sequences,
        names: names(&text.text),
        memory: byte_size("--text-memory", &text.text_memory)?,
        progress: &|tokens| bar.advance(tokens),
    };
    let base = ::runtime::Model::new(config, Weights::new(*checkpoint, inventory)?)?;
    let found = sensitivity(
        &base,
        (*checkpoint, inventory),
        &text,
        &model.fingerprint,
        read(path).ok(),
        &mut |known| keep(path, known),
    );
    bar.finish();
    found
}

/// Writes a file of sensitivities, whole or not at all.
fn keep(path: &Path, sensitivity: &Sensitivity) -> Result<()> {
    let partial = path.with_extension("json.partial");
    let json = serde_json::to_vec_pretty(sensitivity).map_err(|e| Error::write(path.display(), &e.into()))?;
    let written = fs::write(&partial, json).and_then(|()| fs::rename(&partial, path));
    written.map_err(|e| Error::write(path.display(), &e))
}
