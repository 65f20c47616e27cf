//! Collection of an importance matrix, and merging of several.

use std::path::PathBuf;

use base::{OutputFile, Part, Progress, Unit};
use calibrate::{CalibrationTokens, ImportanceSums};
use checkpoint::Adapter;
use imatrix::Importance;
use runtime::Compute;
use tensor::{Error, Result};

use super::importance_parts::{self, TextSource};
use super::rounding::{names, sequences};
use super::text_parts::{MadePart, TextJob};
use crate::model::Model;
use crate::options::TextOptions;
use crate::requests::refuse_existing;

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
        refuse_existing(&self.out, self.force)?;
        // open before hours of work, and not only after them
        let output = OutputFile::sequential(&self.out)?;
        let mut found = match (&self.model, self.text.files.is_empty()) {
            (None, true) => None,
            (None, false) => {
                return Err(Error::recipe("calibrate", "a text, but no model to calibrate")
                    .help("Give a checkpoint."));
            }
            (Some(_), _) => {
                let model = self.open()?;
                let text = self.sequences(&model, progress)?;
                let (sums, source) = self.collect(&model, &text, Part::default(), progress)?;
                Some(source.importance(&sums)?)
            }
        };
        for path in &self.merge {
            let other = Importance::read(path)?;
            match &mut found {
                Some(found) => found.merge(other).map_err(|e| e.within(path.display()))?,
                None => found = Some(other),
            }
        }
        let importance = found.ok_or_else(|| Error::recipe("calibrate", "nothing to write"))?;
        Calibrated::write(importance, output)
    }

    /// Collects on one part of the text. [`Join`](super::Join) writes the file when all parts are there.
    ///
    /// # Errors
    /// Those of [`run`](Self::run); `Recipe` for files to merge.
    pub fn run_part(&self, part: Part, progress: &dyn Progress) -> Result<MadePart> {
        if !self.merge.is_empty() {
            return Err(Error::recipe(format!("‹part› {part}"), "files are not merged in parts")
                .help("Merge them with the joined file, by a command of its own."));
        }
        refuse_existing(&self.out, self.force)?;
        let model = self.open()?;
        let text = self.sequences(&model, progress)?;
        let of = TextJob {
            kind: importance_parts::IMPORTANCE,
            out: &self.out,
            fingerprint: &model.fingerprint()?,
            texts: &self.text.files,
            sequences: &text,
            compute: self.compute,
        };
        let folder = of.folder(part)?;
        let (sums, source) = self.collect(&model, &text, part, progress)?;
        importance_parts::record(&folder, &sums, source).map(|record| of.made(part, record))
    }

    fn open(&self) -> Result<Model> {
        let Some(model) = &self.model else {
            return Err(Error::recipe("calibrate", "no model to calibrate").help("Give a checkpoint."));
        };
        if self.text.files.is_empty() {
            return Err(Error::recipe("calibrate", "no text to calibrate on").help("Give one with ‹text›."));
        }
        Ok(Model::open_with(model, &self.adapters)?.with_compute(self.compute))
    }

    fn sequences(&self, model: &Model, progress: &dyn Progress) -> Result<Vec<Vec<u32>>> {
        model.notes().iter().for_each(|note| progress.note(note));
        sequences(&self.text, self.context, &model.reader(), progress)
    }

    fn collect(
        &self,
        model: &Model,
        sequences: &[Vec<u32>],
        part: Part,
        progress: &dyn Progress,
    ) -> Result<(ImportanceSums, TextSource)> {
        let steps = eval::stream::part_tokens(sequences, part) * model.config().layers() as u64;
        let task = progress.begin("calibrating", steps, Unit::Steps);
        let text = CalibrationTokens {
            sequences,
            names: names(&self.text.files),
            memory: self.text.memory,
            compute: self.compute,
            progress: &|tokens| task.advance(tokens),
        };
        let sums = calibrate::importance_sums(&model.runtime()?, model.inventory(), &text, part)
            .map_err(|e| e.within(model.path().display()))?;
        Ok((sums, TextSource::of(&text)))
    }
}

impl Calibrated {
    /// Writes the file.
    pub(crate) fn write(importance: Importance, output: OutputFile) -> Result<Calibrated> {
        let bytes = importance.to_bytes().map_err(|e| e.within(output.path().display()))?;
        output.publish_with(&bytes)?;
        let unseen_matrices = importance.iter().map(|(_, entry)| entry.unseen().count()).sum();
        Ok(Calibrated { importance, unseen_matrices })
    }
}
