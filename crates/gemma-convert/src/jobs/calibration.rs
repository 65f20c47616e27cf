//! Collection of an importance matrix, and merging of several.

use std::path::PathBuf;

use base::{OutputFile, Progress, Unit};
use calibrate::CalibrationTokens;
use checkpoint::Adapter;
use imatrix::Importance;
use runtime::Compute;
use tensor::{Error, Result};

use super::rounding::{names, sequences};
use crate::model::Model;
use crate::options::TextOptions;

/// Collects an importance matrix on a text like llama-imatrix, or merges files of other chunks.
#[derive(Clone, Debug)]
pub struct Calibrate {
    /// The model: a checkpoint folder or a GGUF file. `None` to merge files only.
    pub model: Option<PathBuf>,
    /// Adapters (LoRA) that are merged into the checkpoint, in order.
    pub adapters: Vec<Adapter>,
    /// The text.
    pub text: TextOptions,
    /// Tokens per chunk of plain text; the most tokens of a conversation.
    pub context: usize,
    /// Importance matrix files to merge.
    pub merge: Vec<PathBuf>,
    /// The GGUF file to write.
    pub out: PathBuf,
    /// Replaces an existing file.
    pub force: bool,
    /// Arithmetic: vector instructions and the kernel of matrix products.
    pub compute: Compute,
}

/// The result of [`Calibrate`].
#[derive(Clone, Debug)]
pub struct Calibrated {
    /// The importance matrix as written.
    pub importance: Importance,
    /// Number of expert matrices without tokens; they have the mean of the others.
    pub unseen_matrices: usize,
}

impl Calibrate {
    /// A collection with chunks of 512 tokens.
    pub fn new(model: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Calibrate {
        Calibrate {
            model: Some(model.into()),
            adapters: Vec::new(),
            text: TextOptions::default(),
            context: 512,
            merge: Vec::new(),
            out: out.into(),
            force: false,
            compute: Compute::detect(),
        }
    }

    /// Adds a text.
    #[must_use]
    pub fn text(mut self, file: impl Into<PathBuf>) -> Calibrate {
        self.text.files.push(file.into());
        self
    }

    /// Collects, merges and writes.
    ///
    /// # Errors
    /// `Target` for an existing file; `Recipe` for a model without a text, or a text without a model; `Malformed` or
    /// `Unsupported` for model and text; `Io`.
    pub fn run(&self, progress: &dyn Progress) -> Result<Calibrated> {
        if self.out.exists() && !self.force {
            return Err(Error::exists(self.out.display(), "the output exists already")
                .help("Use ‹force› to replace it."));
        }
        // open before hours of work, and not only after them
        let output = OutputFile::sequential(&self.out)?;
        let mut found = match (&self.model, self.text.files.is_empty()) {
            (Some(model), false) => Some(
                self.collect(&Model::open_with(model, &self.adapters)?.with_compute(self.compute), progress)?,
            ),
            (Some(_), true) => {
                return Err(
                    Error::recipe("calibrate", "no text to calibrate on").help("Give one with ‹text›.")
                );
            }
            (None, false) => {
                return Err(Error::recipe("calibrate", "a text, but no model to calibrate")
                    .help("Give a checkpoint."));
            }
            (None, true) => None,
        };
        for path in &self.merge {
            let other = Importance::read(path)?;
            match &mut found {
                Some(found) => found.merge(other).map_err(|e| e.within(path.display()))?,
                None => found = Some(other),
            }
        }
        let importance = found.ok_or_else(|| Error::recipe("calibrate", "nothing to write"))?;
        let bytes = importance.to_bytes().map_err(|e| e.within(self.out.display()))?;
        output.publish_with(&bytes)?;
        let unseen_matrices = importance.iter().map(|(_, entry)| entry.unseen().count()).sum();
        Ok(Calibrated { importance, unseen_matrices })
    }

    fn collect(&self, model: &Model, progress: &dyn Progress) -> Result<Importance> {
        model.notes().iter().for_each(|note| progress.note(note));
        let sequences = sequences(&self.text, self.context, &model.reader(), progress)?;
        let tokens: u64 = sequences.iter().map(|sequence| sequence.len() as u64).sum();
        let steps = tokens * model.config().layers() as u64;
        let task = progress.begin("calibrating", steps, Unit::Steps);
        let text = CalibrationTokens {
            sequences: &sequences,
            names: names(&self.text.files),
            memory: self.text.memory,
            compute: self.compute,
            progress: &|tokens| task.advance(tokens),
        };
        calibrate::importance(&model.runtime()?, model.inventory(), &text)
            .map_err(|e| e.within(model.path().display()))
    }
}
