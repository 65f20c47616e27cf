//! A draft model of either kind from either container, checked against its target.

use std::path::{Path, PathBuf};

use checkpoint::Checkpoint;
use eval::ModelInfo;
use gemma::{Config, Inventory, ModelKind};
use gguf::GgufSet;
use runtime::{Assistant, Compute, Drafter, Weights};
use tensor::{Result, TensorSource};
use text::Tokenizer;

use crate::jobs::model_info;
use crate::model::{Model, ModelFile};

/// An open draft model.
pub struct DraftModel {
    path: PathBuf,
    file: ModelFile,
    config: Config,
    inventory: Inventory,
}

impl DraftModel {
    /// Opens a checkpoint folder or a GGUF file (any part of a split) with the same tokens as `target`.
    ///
    /// # Errors
    /// `Malformed` for a damaged file or other tokens, `Unsupported` for another kind of model, `Io`.
    pub fn open(path: &Path, target: &Model) -> Result<DraftModel> {
        let (draft, tokenizer) =
            if path.is_dir() { DraftModel::checkpoint(path)? } else { DraftModel::gguf(path)? };
        gemma::same_tokens(&tokens(&tokenizer, &draft.config), &tokens(&target.tokenizer, target.config()))
            .map_err(|e| e.within(path.display()))?;
        Ok(draft)
    }

    fn checkpoint(path: &Path) -> Result<(DraftModel, Tokenizer)> {
        let checkpoint = Checkpoint::open(path)?;
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?;
        let gemma::ModelSpec { config, inventory, .. } = gemma::ModelSpec::open_any(&checkpoint)?;
        let draft =
            DraftModel { path: path.to_owned(), file: ModelFile::folder(checkpoint), config, inventory };
        Ok((draft, tokenizer))
    }

    fn gguf(path: &Path) -> Result<(DraftModel, Tokenizer)> {
        let set = GgufSet::open(path)?.mapped();
        let read = || -> Result<_> {
            let config = Config::any_from_metadata(set.metadata(), set.tensors())?;
            let inventory = gemma::gguf_inventory(&config, set.tensors())?;
            Ok((config, inventory, Tokenizer::from_metadata(set.metadata())?))
        };
        let (config, inventory, tokenizer) = read().map_err(|e| e.within(path.display()))?;
        let draft = DraftModel { path: path.to_owned(), file: ModelFile::Gguf(set), config, inventory };
        Ok((draft, tokenizer))
    }

    /// The draft model of the reference runtime, for a target with this config.
    ///
    /// # Errors
    /// `Malformed` for tensors of other shapes than the config's, or another vocabulary than the target's.
    pub fn runtime(&self, target: &Config, compute: Compute) -> Result<Drafter<'_>> {
        let source = self.file.artifact().source();
        let draft = match self.config.kind {
            ModelKind::Draft => {
                Assistant::new(&self.config, source, &self.inventory, target, compute).map(Drafter::Assistant)
            }
            ModelKind::Multimodal | ModelKind::Unified | ModelKind::Text => {
                Weights::new(source, &self.inventory, compute)
                    .and_then(|weights| runtime::Model::new(&self.config, weights))
                    .and_then(|model| Drafter::of_model(model, target))
            }
        };
        draft.map_err(|e| e.within(self.path.display()))
    }

    /// The draft model's entry in a report.
    pub fn info(&self) -> ModelInfo {
        model_info(&self.path, Some(&self.config), self.file.artifact(), Some(&self.inventory))
    }
}

/// The texts of all tokens of the vocabulary.
fn tokens<'a>(tokenizer: &'a Tokenizer, config: &Config) -> Vec<&'a str> {
    (0..config.vocab as u32).map(|id| tokenizer.token(id).unwrap_or_default()).collect()
}
