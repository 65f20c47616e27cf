//! A checkpoint folder understood: its config, its tensors by role, its tokenizer and companions.

use checkpoint::{ChatTemplates, Checkpoint, ModelCard};
use serde_json::Value;
use tensor::{Result, TensorSource};

use crate::config::ModelKind;
use crate::{Config, Inventory, Vocabulary, card, chat, inventory, sampling};

/// Everything about a checkpoint but its weights.
#[derive(Debug)]
pub struct ModelSpec {
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
    /// `config.json`, see [`Checkpoint::config`].
    pub json: Value,
    /// Whether that is what the file says.
    pub json_is_as_stored: bool,
    /// In what the folder is not as transformers would have saved it, and what was done about it: for people.
    pub notes: Vec<String>,
    /// All files of the folder by name, with their sizes.
    pub files: Vec<(String, u64)>,
    /// See [`Checkpoint::fingerprint`].
    pub fingerprint: [u8; 32],
}

impl ModelSpec {
    /// Reads config, tokenizer and companions, and accounts for every tensor.
    ///
    /// # Errors
    /// What [`Config::from_json`], [`inventory::inventory`] and [`Vocabulary::new`] refuse, with the file it is in.
    pub fn open(checkpoint: &Checkpoint) -> Result<ModelSpec> {
        ModelSpec::with(checkpoint, Config::from_json)
    }

    /// As [`ModelSpec::open`], for a draft model and nothing else.
    ///
    /// # Errors
    /// Those of [`ModelSpec::open`].
    pub fn open_draft(checkpoint: &Checkpoint) -> Result<ModelSpec> {
        ModelSpec::with(checkpoint, Config::draft_from_json)
    }

    /// As [`ModelSpec::open`] or, for a draft model, [`ModelSpec::open_draft`].
    ///
    /// # Errors
    /// Those of [`ModelSpec::open`].
    pub fn open_any(checkpoint: &Checkpoint) -> Result<ModelSpec> {
        ModelSpec::with(checkpoint, Config::any_from_json)
    }

    fn with(checkpoint: &Checkpoint, config: fn(&Value) -> Result<Config>) -> Result<ModelSpec> {
        let dir = checkpoint.dir().display();
        let config = Config::with_weights(checkpoint, config).map_err(|e| e.within(&dir))?;
        let file_of = |index: usize| {
            let shard = checkpoint.location(index).map(|l| &checkpoint.shards()[l.shard]);
            shard.map_or_else(|| dir.to_string(), |shard| shard.path.display().to_string())
        };
        let inventory = inventory::inventory(&config, checkpoint.tensors(), &file_of)?;
        let tokenizer = checkpoint.tokenizer()?;
        let vocabulary = Vocabulary::new(
            &tokenizer,
            checkpoint.tokenizer_config()?.as_ref(),
            checkpoint.config(),
            config.vocab,
        )
        .map_err(|e| e.within(&dir))?;
        let (templates, generation) = (checkpoint.chat_templates()?, checkpoint.generation_config()?);
        let card = checkpoint.model_card()?;
        let mut notes: Vec<_> = checkpoint.notes().iter().map(|note| note.text.clone()).collect();
        notes.extend(checkpoint.beside_note());
        notes.extend_from_slice(&config.notes);
        notes.extend_from_slice(&vocabulary.notes);
        notes.extend(templates.note.clone());
        if config.kind != ModelKind::Draft {
            notes.extend(chat::without_template(
                &templates,
                checkpoint.config(),
                generation.as_ref(),
                &vocabulary,
            ));
        }
        notes.extend(chat::unknown_ends(generation.as_ref(), &vocabulary));
        notes.extend(card::left_out(&card));
        Ok(ModelSpec {
            inventory,
            vocabulary,
            templates,
            generation,
            card,
            json: checkpoint.config().clone(),
            json_is_as_stored: checkpoint.config_is_as_stored(),
            notes,
            files: checkpoint.files()?,
            fingerprint: checkpoint.fingerprint()?,
            config,
        })
    }

    /// What a user of a GGUF has to know about its conversations.
    pub fn gguf_notes(&self) -> Option<String> {
        chat::taken_apart(&self.templates, &self.vocabulary)
    }

    /// Whether everybody can sample with the values of `generation_config.json`, which go into outputs as they are.
    ///
    /// # Errors
    /// `Malformed`, naming the first value that is out of range.
    pub fn check_sampling(&self) -> Result<()> {
        self.generation.as_ref().map_or(Ok(()), sampling::check)
    }
}
