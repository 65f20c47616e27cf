//! A model with everything that is needed to talk to it, from either container.

use std::path::Path;

use ::checkpoint::Checkpoint;
use ::gemma::{Config, Inventory, Model};
use ::gguf::GgufSet;
use ::text::Tokenizer;
use tensor::{Error, Result, TensorSource};

/// A model that can be run.
pub(crate) struct Opened {
    pub(crate) config: Config,
    pub(crate) inventory: Inventory,
    pub(crate) source: Box<dyn TensorSource>,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: Option<String>,
    /// Tokens that must not be said.
    pub(crate) suppressed: Vec<u32>,
}

impl Opened {
    /// Opens a checkpoint folder or a GGUF file (any part of a split).
    pub(crate) fn new(path: &Path) -> Result<Opened> {
        if path.is_dir() {
            let checkpoint = Checkpoint::open(path)?;
            let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?;
            let Model { config, inventory, templates, generation, .. } = Model::open(&checkpoint)?;
            let suppressed = generation.as_ref().and_then(|g| g.get("suppress_tokens")?.as_array());
            let suppressed =
                suppressed.into_iter().flatten().filter_map(|id| u32::try_from(id.as_u64()?).ok());
            let (suppressed, template) = (suppressed.collect(), templates.default);
            return Ok(Opened {
                config,
                inventory,
                source: Box::new(checkpoint),
                tokenizer,
                template,
                suppressed,
            });
        }
        let set = GgufSet::open(path)?;
        let within = |e: Error| e.within(path.display());
        let metadata = set.metadata();
        let config = Config::from_metadata(metadata, set.tensors()).map_err(within)?;
        let inventory = ::gemma::gguf_inventory(&config, set.tensors()).map_err(within)?;
        let tokenizer = Tokenizer::from_metadata(metadata).map_err(within)?;
        let template = metadata.typed::<&str>("tokenizer.chat_template").map_err(within)?.map(str::to_owned);
        let suppressed = metadata.typed::<&[i32]>("tokenizer.ggml.suppress_tokens").map_err(within)?;
        let suppressed =
            suppressed.unwrap_or_default().iter().filter_map(|&id| u32::try_from(id).ok()).collect();
        Ok(Opened { config, inventory, source: Box::new(set), tokenizer, template, suppressed })
    }
}
