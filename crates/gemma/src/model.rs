//! A checkpoint folder understood: its config, its tensors by role, its tokenizer and companions.

use checkpoint::{ChatTemplates, Checkpoint, ModelCard};
use serde_json::Value;
use tensor::{Result, TensorSource};

use crate::{Config, Inventory, Vocabulary, tensors};

/// Everything about a checkpoint but its weights.
#[derive(Debug)]
pub struct Model {
    /// The text model.
    pub config: Config,
    /// Its tensors, and what the checkpoint holds besides.
    pub inventory: Inventory,
    /// Its tokenizer.
    pub vocabulary: Vocabulary,
    /// Its chat templates.
    pub templates: ChatTemplates,
    /// `generation_config.json`.
    pub generation: Option<Value>,
    /// The front matter of its README.
    pub card: ModelCard,
    /// `config.json` as it is.
    pub json: Value,
    /// All files of the folder by name, with their sizes.
    pub files: Vec<(String, u64)>,
    /// See [`Checkpoint::fingerprint`].
    pub fingerprint: [u8; 32],
}

impl Model {
    /// Reads config, tokenizer and companions, and accounts for every tensor.
    ///
    /// # Errors
    /// What [`Config::from_json`], [`tensors::inventory`] and [`Vocabulary::new`] refuse, with the file it is in.
    pub fn open(checkpoint: &Checkpoint) -> Result<Model> {
        Model::with(checkpoint, Config::from_json)
    }

    /// As [`Model::open`], for a draft model and nothing else.
    ///
    /// # Errors
    /// Those of [`Model::open`].
    pub fn open_draft(checkpoint: &Checkpoint) -> Result<Model> {
        Model::with(checkpoint, Config::draft_from_json)
    }

    fn with(checkpoint: &Checkpoint, config: fn(&Value) -> Result<Config>) -> Result<Model> {
        let dir = checkpoint.dir().display();
        let config = config(checkpoint.config()).map_err(|e| e.within(&dir))?;
        let file_of = |index: usize| {
            let shard = checkpoint.location(index).map(|l| &checkpoint.shards()[l.shard]);
            shard.map_or_else(|| dir.to_string(), |shard| shard.path.display().to_string())
        };
        let inventory = tensors::inventory(&config, checkpoint.tensors(), &file_of)?;
        let vocabulary = Vocabulary::new(
            &checkpoint.tokenizer()?,
            checkpoint.tokenizer_config()?.as_ref(),
            checkpoint.config(),
            config.vocab,
        )
        .map_err(|e| e.within(&dir))?;
        Ok(Model {
            inventory,
            vocabulary,
            templates: checkpoint.chat_templates()?,
            generation: checkpoint.generation_config()?,
            card: checkpoint.model_card()?,
            json: checkpoint.config().clone(),
            files: checkpoint.files()?,
            fingerprint: checkpoint.fingerprint()?,
            config,
        })
    }
}
