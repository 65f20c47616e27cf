//! Measurement of a draft model against its target.

use std::path::PathBuf;

use base::{Progress, Unit};
use checkpoint::Adapter;
use draft::{DraftReport, TokenRoles};
use eval::Invocation;
use runtime::Compute;
use tensor::Result;
use text::{Cut, Reader, Scored};

use super::model_info::hashed_files;
use super::rounding::corpus;
use crate::TOOL;
use crate::draft_model::DraftModel;
use crate::model::Model;
use crate::options::Chunks;

/// Measures a draft model: agreement with its target along a text, acceptance rate and speed-up by burst size.
#[derive(Clone, Debug)]
pub struct DraftMeasure {
    /// An assistant or a model of the same vocabulary: checkpoint folder or GGUF file.
    pub draft: PathBuf,
    /// The target: checkpoint folder or GGUF file.
    pub target: PathBuf,
    /// Adapters (LoRA) that are merged into the target, in order.
    pub adapters: Vec<Adapter>,
    /// Plain text, or conversations in `.jsonl` files.
    pub text: Vec<PathBuf>,
    /// Tokens per chunk of plain text; the most tokens of a conversation.
    pub context: usize,
    /// The chunks or conversations of the text to use.
    pub chunks: Chunks,
    /// Arithmetic: vector instructions and the kernel of matrix products.
    pub compute: Compute,
}

impl DraftMeasure {
    /// A measurement with eight chunks of 512 tokens.
    pub fn new(draft: impl Into<PathBuf>, target: impl Into<PathBuf>) -> DraftMeasure {
        DraftMeasure {
            draft: draft.into(),
            target: target.into(),
            adapters: Vec::new(),
            text: Vec::new(),
            context: 512,
            chunks: Chunks(0..8),
            compute: Compute::detect(),
        }
    }

    /// Adds a text.
    #[must_use]
    pub fn text(mut self, file: impl Into<PathBuf>) -> DraftMeasure {
        self.text.push(file.into());
        self
    }

    /// Measures the draft model.
    ///
    /// # Errors
    /// `Recipe` without a text; `Malformed` or `Unsupported` for the models and the text; `Io`.
    pub fn run(&self, progress: &dyn Progress) -> Result<DraftReport> {
        let target = Model::open_with(&self.target, &self.adapters)?.with_compute(self.compute);
        let opened_draft = DraftModel::open(&self.draft, &target)?;
        let model = target.runtime()?;
        let draft = opened_draft.runtime(target.config(), self.compute)?;
        let reader = target.reader();
        let reader = Reader { context: reader.context.min(draft.context()), ..reader };
        let cut = Cut { context: self.context, most: Some(self.chunks.0.end), scored: Scored::Answers };
        let corpus = corpus(&self.text, &reader, &cut, self.chunks.0.start, progress)?;
        let task = progress.begin("measuring", draft::measure_work(&corpus), Unit::Steps);
        let roles = TokenRoles { end: target.tokenizer.end_of_generation(), suppressed: &target.suppressed };
        let measured = draft::measure(&model, &draft, roles, &corpus, &|done| task.advance(done))?;
        Ok(DraftReport {
            tool: TOOL.to_owned(),
            draft: opened_draft.info(),
            target: target.info(&self.target),
            run: Invocation {
                files: hashed_files(self.text.iter().map(PathBuf::as_path))?,
                ..Invocation::default()
            },
            ..measured
        })
    }
}
