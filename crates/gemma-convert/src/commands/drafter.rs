//! A draft model of either kind from either container, held against the model that it drafts for.

use std::path::{Path, PathBuf};

use ::checkpoint::Checkpoint;
use ::eval::ModelInfo;
use ::gemma::{Config, Inventory, Kind, Model};
use ::gguf::GgufSet;
use ::runtime::{Draft, Drafter, Weights};
use ::text::Tokenizer;
use tensor::{Result, TensorSource};

use crate::commands::opened::{Given, Opened};
use crate::commands::verify::info;

/// The architecture of a GGUF that holds an assistant.
const ASSISTANT: &str = "gemma4-assistant";

/// A draft model that can be run.
pub(crate) struct OpenedDraft {
    path: PathBuf,
    given: Given,
    config: Config,
    inventory: Inventory,
}

impl OpenedDraft {
    /// Opens a checkpoint folder or a GGUF file (any part of a split) whose tokens are those of `target`.
    pub(crate) fn new(path: &Path, target: &Opened) -> Result<OpenedDraft> {
        let (draft, tokenizer) =
            if path.is_dir() { OpenedDraft::checkpoint(path)? } else { OpenedDraft::gguf(path)? };
        ::gemma::same_tokens(&tokens(&tokenizer, &draft.config), &tokens(&target.tokenizer, target.config()))
            .map_err(|e| e.within(path.display()))?;
        Ok(draft)
    }

    fn checkpoint(path: &Path) -> Result<(OpenedDraft, Tokenizer)> {
        let checkpoint = Checkpoint::open(path)?;
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?;
        let open = if ::gemma::is_assistant(checkpoint.config()) { Model::open_draft } else { Model::open };
        let Model { config, inventory, .. } = open(&checkpoint)?;
        let draft =
            OpenedDraft { path: path.to_owned(), given: Given::Folder(checkpoint), config, inventory };
        Ok((draft, tokenizer))
    }

    fn gguf(path: &Path) -> Result<(OpenedDraft, Tokenizer)> {
        let set = GgufSet::open(path)?;
        let read = || -> Result<_> {
            let architecture: &str = set.metadata().required("general.architecture")?;
            let config = match architecture {
                ASSISTANT => Config::draft_from_metadata(set.metadata(), set.tensors())?,
                _ => Config::from_metadata(set.metadata(), set.tensors())?,
            };
            let inventory = ::gemma::gguf_inventory(&config, set.tensors())?;
            Ok((config, inventory, Tokenizer::from_metadata(set.metadata())?))
        };
        let (config, inventory, tokenizer) = read().map_err(|e| e.within(path.display()))?;
        let draft = OpenedDraft { path: path.to_owned(), given: Given::Gguf(set), config, inventory };
        Ok((draft, tokenizer))
    }

    /// The draft model that runs, for a target of this config.
    pub(crate) fn runtime(&self, target: &Config) -> Result<Draft<'_>> {
        let source = self.given.artifact().source();
        let draft = match self.config.kind {
            Kind::Draft => Drafter::new(&self.config, source, &self.inventory, target).map(Draft::Assistant),
            _ => Weights::new(source, &self.inventory)
                .and_then(|weights| ::runtime::Model::new(&self.config, weights))
                .and_then(|model| Draft::of_model(model, target)),
        };
        draft.map_err(|e| e.within(self.path.display()))
    }

    /// What a report says of it.
    pub(crate) fn info(&self) -> ModelInfo {
        info(&self.path, Some(&self.config), self.given.artifact(), Some(&self.inventory))
    }
}

/// The text of every token of the vocabulary.
fn tokens<'a>(tokenizer: &'a Tokenizer, config: &Config) -> Vec<&'a str> {
    (0..config.vocab as u32).map(|id| tokenizer.token(id).unwrap_or_default()).collect()
}
