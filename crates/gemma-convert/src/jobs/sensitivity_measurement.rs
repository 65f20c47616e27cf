//! Measurement of the sensitivity of each tensor on a text, whole or in parts.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use base::{JobParts, OutputFile, Part, Progress, Unit, write_whole};
use calibrate::{CalibrationTokens, sample, sensitivity, sensitivity_id, sensitivity_work};
use checkpoint::{Adapter, Checkpoint};
use plan::Sensitivity;
use runtime::{Compute, Weights};
use tensor::{Error, Result, TensorSource};
use text::Tokenizer;

use super::rounding::{names, sequences};
use super::text_parts::{self, MadePart, TextJob};
use crate::model::{open_checkpoint, reader};
use crate::options::TextOptions;
use crate::requests::refuse_existing;

/// Default tokens per chunk of text.
pub(crate) const CONTEXT: usize = 512;

/// The kind of job in parts.
pub(crate) const SENSITIVITY: &str = "sensitivity";

/// The extension of the file with what a part has measured so far.
const MEASURED: &str = "measured";

/// The largest size of a sensitivity file in bytes; it has a line for each tensor and type.
const MAX_SENSITIVITIES: u64 = 16 << 20;

/// Reads a sensitivity file.
pub(crate) fn read(path: &Path) -> Result<Sensitivity> {
    let json = base::read_bounded(path, MAX_SENSITIVITIES)?;
    Sensitivity::parse(&json).map_err(|e| e.within(path.display()))
}

/// The content of a sensitivity file.
fn json(sensitivity: &Sensitivity) -> Vec<u8> {
    serde_json::to_vec_pretty(sensitivity).expect("sensitivities are plain data")
}

/// A measurement job with its output file.
pub(crate) struct Measure<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) model: &'a gemma::ModelSpec,
    pub(crate) text: &'a TextOptions,
    pub(crate) context: usize,
    /// The output file, which is rewritten after each pass.
    pub(crate) out: &'a Path,
    /// Replaces a file of another model or text.
    pub(crate) force: bool,
    pub(crate) compute: Compute,
}

impl Measure<'_> {
    /// Measures the sensitivity of each tensor that the file does not have yet.
    ///
    /// # Errors
    /// `Target` for a file of another model or text, `Malformed` for a text that is too short, `Io`.
    pub(crate) fn run(&self, progress: &dyn Progress) -> Result<Sensitivity> {
        let sequences = self.sequences(progress)?;
        let id = sensitivity_id(&self.model.fingerprint, &sequences, self.compute);
        let known = read(self.out).ok();
        if self.out.exists() && !self.force && known.as_ref().is_none_or(|known| known.id != id) {
            return Err(Error::target(
                self.out.display(),
                "the file exists already, and is not of this model and text",
            )
            .help("Use ‹force› to replace it."));
        }
        // check before the work, and not only after it
        drop(OutputFile::sequential(self.out)?);
        let keep = |found: &Sensitivity| write_whole(self.out, |file| file.write_all(&json(found)));
        self.measure(&sequences, Part::default(), (self.out, known), &keep, progress)
    }

    /// Measures the sensitivities of one part. What it has measured before is in the folder of the parts.
    fn run_part(&self, part: Part, progress: &dyn Progress) -> Result<MadePart> {
        refuse_existing(self.out, self.force)?;
        let sequences = self.sequences(progress)?;
        let of = TextJob {
            kind: SENSITIVITY,
            out: self.out,
            fingerprint: &self.model.fingerprint,
            texts: &self.text.files,
            sequences: &sequences,
            compute: self.compute,
        };
        let folder = of.folder(part)?;
        let path = folder.file(MEASURED);
        let keep = |found: &Sensitivity| {
            folder.write(MEASURED, true, |file| file.write_at(&json(found), 0)).map(drop)
        };
        let found = self.measure(&sequences, part, (&path, read(&path).ok()), &keep, progress)?;
        let record = folder.record(&found, true)?;
        // the record has all of it
        let _ = fs::remove_file(path);
        Ok(of.made(part, record))
    }

    /// The tokens to measure on.
    fn sequences(&self, progress: &dyn Progress) -> Result<Vec<Vec<u32>>> {
        let tokenizer = Tokenizer::from_checkpoint(self.checkpoint)?;
        let reader = reader(&tokenizer, self.model);
        Ok(sample(&sequences(self.text, self.context, &reader, progress)?))
    }

    /// Measures what `known`, the content of `path`, does not have. `keep` rewrites it after each pass.
    fn measure(
        &self,
        sequences: &[Vec<u32>],
        part: Part,
        (path, known): (&Path, Option<Sensitivity>),
        keep: &dyn Fn(&Sensitivity) -> Result<()>,
        progress: &dyn Progress,
    ) -> Result<Sensitivity> {
        let Measure { checkpoint, model, compute, .. } = *self;
        let tokens = sequences.iter().map(|sequence| sequence.len() as u64).sum();
        let (config, inventory) = (&model.config, &model.inventory);
        let work = sensitivity_work(config, inventory, checkpoint.tensors(), tokens, part);
        let task = progress.begin("measuring sensitivities", work, Unit::Steps);
        let text = CalibrationTokens {
            sequences,
            names: names(&self.text.files),
            memory: self.text.memory,
            compute,
            progress: &|tokens| task.advance(tokens),
        };
        let base_model = runtime::Model::new(config, Weights::new(checkpoint, inventory, compute)?)?;
        let mut kept = None;
        let mut keep = |found: &Sensitivity| {
            keep(found)?;
            kept.get_or_insert_with(|| {
                base::keeps(format!(
                    "the sensitivities measured so far are in {}: the same command resumes from there",
                    path.display()
                ))
            });
            Ok(())
        };
        let of = (&model.fingerprint[..], part);
        sensitivity(&base_model, (checkpoint, inventory), &text, of, known, &mut keep)
    }
}

/// Makes the sensitivity file from all of its parts. Returns its path.
///
/// # Errors
/// `Target` for an existing file, `Malformed` for parts that are damaged or contradict each other, `Io`.
pub(crate) fn join(parts: &JobParts, folder: &Path, force: bool) -> Result<(PathBuf, Sensitivity)> {
    let out = text_parts::output(parts, folder)?;
    refuse_existing(&out, force)?;
    let mut found: Sensitivity = parts.parts[0].content()?;
    for part in &parts.parts[1..] {
        found.add(part.content()?).map_err(|e| e.within(format!("part {}", part.part)))?;
    }
    write_whole(&out, |file| file.write_all(&json(&found)))?;
    parts.remove_from(folder);
    Ok((out, found))
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
        self.opened(progress, |job| job.run(progress))
    }

    /// Measures the tensors of one part. [`Join`](super::Join) writes the file when all parts are there.
    ///
    /// # Errors
    /// Those of [`run`](Self::run).
    pub fn run_part(&self, part: Part, progress: &dyn Progress) -> Result<MadePart> {
        self.opened(progress, |job| job.run_part(part, progress))
    }

    fn opened<T>(&self, progress: &dyn Progress, run: impl FnOnce(&Measure<'_>) -> Result<T>) -> Result<T> {
        if self.text.files.is_empty() {
            return Err(Error::recipe("sensitivity", "no text to measure on").help("Give one with ‹text›."));
        }
        let checkpoint = open_checkpoint(&self.model, &self.adapters)?.with_simd(self.compute.simd);
        let model = gemma::ModelSpec::open(&checkpoint)?;
        model.notes.iter().for_each(|note| progress.note(note));
        run(&Measure {
            checkpoint: &checkpoint,
            model: &model,
            text: &self.text,
            context: self.context,
            out: &self.out,
            force: self.force,
            compute: self.compute,
        })
    }
}
