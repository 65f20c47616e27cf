//! Verification of an artifact: the settings. The steps are in `verification_steps.rs` and `predictions.rs`.

use std::path::PathBuf;

use base::{FileKind, OutputFile, Progress};
use checkpoint::Adapter;
use plan::Thresholds;
use runtime::Compute;
use tensor::{Error, Fault, Result};
use text::{MediaFile, Scored};
use verify::Report;

use super::against::Against;
use super::verification_steps::{Verification, run_all};
use super::{adapter_verification, bundle_verification};
use crate::model::ModelFile;
use crate::options::Chunks;

/// Verifies an artifact: compares a GGUF, a folder of safetensors or a bundle of LiteRT-LM with its checkpoint, or checks it alone.
#[derive(Clone, Debug)]
pub struct Verify {
    /// A GGUF file (any part of a split), a folder of safetensors, also of a draft model, or a bundle of LiteRT-LM.
    pub artifact: PathBuf,
    /// The base of the comparison: the checkpoint folder, a GGUF of the same model (for an mmproj file, another one), or
    /// llama-perplexity's file of base logits. Without a base the artifact is checked alone.
    pub base: Option<PathBuf>,
    /// Adapters (LoRA) that are merged into the base, in order.
    pub adapters: Vec<Adapter>,
    /// Images and sounds whose soft tokens are compared, for an mmproj file and its checkpoint.
    pub media: Vec<MediaFile>,
    /// The mmproj file of a text model, for the images and sounds that conversations name. A folder has towers of its own.
    pub mmproj: Option<PathBuf>,
    /// Texts to predict: plain text, or conversations in `.jsonl` files.
    pub texts: Vec<PathBuf>,
    /// Tokens per chunk of plain text; the most tokens of a conversation.
    pub context: usize,
    /// The chunks or conversations of the text to use; `None` for all.
    pub chunks: Option<Chunks>,
    /// The scored part of a conversation.
    pub scored: Scored,
    /// The recipe of the artifact, a name or a file; the default is that of its manifest, or else of its file type.
    pub recipe: Option<String>,
    /// The importance matrix of the artifact; by default it is searched for at the path in the manifest or the keys of
    /// the artifact, and beside the artifact.
    pub importance: Option<PathBuf>,
    /// Limits; the defaults are those of the recipe.
    pub thresholds: Thresholds,
    /// Runs later steps when an earlier one has failed.
    pub keep_going: bool,
    /// Fails without a manifest that describes the artifact.
    pub require_manifest: bool,
    /// Compares the weights.
    pub weights: bool,
    /// The most bytes of activation memory: hidden states of the text between two layers.
    pub text_memory: u64,
    /// A file for the logits of the base, or of the artifact without a base, in llama-perplexity's format.
    pub save_logits: Option<PathBuf>,
    /// Replaces an existing file at `save_logits` that is not a file of logits.
    pub force: bool,
    /// Arithmetic: vector instructions and the kernel of matrix products.
    pub compute: Compute,
}

impl Verify {
    /// A verification without a base.
    pub fn new(artifact: impl Into<PathBuf>) -> Verify {
        Verify {
            artifact: artifact.into(),
            base: None,
            adapters: Vec::new(),
            media: Vec::new(),
            mmproj: None,
            texts: Vec::new(),
            context: 512,
            chunks: None,
            scored: Scored::All,
            recipe: None,
            importance: None,
            thresholds: Thresholds::default(),
            keep_going: false,
            require_manifest: false,
            weights: true,
            text_memory: 1 << 30,
            save_logits: None,
            force: false,
            compute: Compute::detect(),
        }
    }

    /// Compares the artifact with this base.
    #[must_use]
    pub fn against(mut self, base: impl Into<PathBuf>) -> Verify {
        self.base = Some(base.into());
        self
    }

    /// Adds a text to predict.
    #[must_use]
    pub fn text(mut self, file: impl Into<PathBuf>) -> Verify {
        self.texts.push(file.into());
        self
    }

    /// Sets the largest accepted mean KL divergence, in nats per token.
    #[must_use]
    pub fn max_kld(mut self, limit: f64) -> Verify {
        self.thresholds.max_kld = Some(limit);
        self
    }

    /// Verifies the artifact. Its faults are findings in the report, not errors.
    ///
    /// # Errors
    /// `Recipe` for options that do not fit; `Malformed` or `Unsupported` for files that cannot be read at all; `Io`.
    pub fn run(&self, progress: &dyn Progress) -> Result<Report> {
        let logits = self.begin()?;
        if litert::Bundle::is_one(&self.artifact) {
            return bundle_verification::verify(self, logits, progress);
        }
        let file = ModelFile::open(&self.artifact)?.with_simd(self.compute.simd);
        if let ModelFile::Gguf(set) = &file
            && gemma::is_adapter(set.metadata())
        {
            return adapter_verification::verify(self, set);
        }
        let base = self.open_base()?;
        let mut verification = Verification::new(self.clone(), file, base.as_ref());
        run_all(self, &mut [&mut verification], base.as_ref(), logits, progress)?;
        verification.finish()
    }

    /// Checks the limits, and opens the file for logits.
    pub(super) fn begin(&self) -> Result<Option<OutputFile>> {
        self.thresholds.check().map_err(|e| {
            let option = format!("‹{}›", e.place());
            e.moved(Fault::Recipe, option)
        })?;
        let replacing = |path: &PathBuf| OutputFile::replacing(path, FileKind::Logits, self.force);
        self.save_logits.as_ref().map(replacing).transpose()
    }

    /// Refuses settings that have no effect on these artifacts.
    pub(super) fn check_effects(&self, all: &[&mut Verification<'_>], base: Option<&Against>) -> Result<()> {
        if all.iter().all(|one| one.is_mmproj) && !self.texts.is_empty() {
            return Err(Error::recipe(
                "‹text›",
                "an mmproj file makes no predictions without its text model",
            )
            .help("Verify the text model with the text."));
        }
        let limited = [
            (self.thresholds.max_kld, "‹max_kld›"),
            (self.thresholds.max_ppl_ratio, "‹max_ppl_ratio›"),
            (self.thresholds.min_top1, "‹min_top1›"),
        ];
        let is_measured = base.is_some() && self.predicts(base);
        if let Some((_, limit)) = limited.iter().find(|(limit, _)| limit.is_some() && !is_measured) {
            return Err(Error::recipe(limit, "a limit of a figure that is not measured")
                .help("Give the checkpoint with ‹against›, and a text with ‹text›."));
        }
        if self.thresholds.max_feature_error.is_some() && self.media.is_empty() {
            return Err(Error::recipe("‹max_feature_error›", "a limit of a figure that is not measured")
                .help("Give images or sounds with ‹image› and ‹audio›, for an mmproj file."));
        }
        if self.mmproj.is_some() && self.texts.is_empty() {
            return Err(Error::recipe("‹mmproj›", "has no effect without conversations that name images or sounds")
                .help("Give them with ‹text›, in a .jsonl file. To verify the mmproj file, name it as the artifact."));
        }
        if !self.media.is_empty() && !all.iter().any(|one| one.is_mmproj) {
            return Err(Error::recipe(
                "‹image›, ‹audio›",
                "only towers make soft tokens of images and sounds",
            )
            .expected("an mmproj file", "a text model"));
        }
        Ok(())
    }

    pub(super) fn open_base(&self) -> Result<Option<Against>> {
        if self.base.is_none() && !self.adapters.is_empty() {
            return Err(Error::recipe("‹lora›", "an adapter, but no checkpoint to merge it into")
                .help("Give the checkpoint with ‹against›."));
        }
        self.base.as_deref().map(|path| Against::open(path, &self.adapters, self.compute)).transpose()
    }
}
