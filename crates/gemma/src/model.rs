//! The description of a checkpoint folder, or of a GGUF in its place: config, tensors by role, tokenizer and companion files.

use checkpoint::{ChatTemplates, Checkpoint, ModelCard};
use gguf::Metadata;
use serde_json::Value;
use tensor::{Result, TensorDesc, TensorSource};

use crate::config::ModelKind;
use crate::processor::check_processor;
use crate::towers::Towers;
use crate::{Config, Inventory, Vocabulary, card, chat, inventory, sampling};

/// All facts about a checkpoint except its weights.
#[derive(Debug)]
pub struct ModelSpec {
    /// The text model's config.
    pub config: Config,
    /// The tensors of the text model, and the checkpoint's other tensors.
    pub inventory: Inventory,
    /// The tokenizer.
    pub vocabulary: Vocabulary,
    /// The chat templates.
    pub templates: ChatTemplates,
    /// The content of `generation_config.json`.
    pub generation: Option<Value>,
    /// The content of `processor_config.json`, else of `preprocessor_config.json`.
    pub processor: Option<Value>,
    /// The front matter of the README.
    pub card: ModelCard,
    /// The content of `config.json`, see [`Checkpoint::config`].
    pub json: Value,
    /// Whether `json` equals the content of the file.
    pub json_is_as_stored: bool,
    /// Notes for the user: differences of the folder from one that transformers saves, and how they were handled.
    pub notes: Vec<String>,
    /// All files of the folder by name, with their sizes in bytes.
    pub files: Vec<(String, u64)>,
    /// The fingerprint, see [`Checkpoint::fingerprint`].
    pub fingerprint: [u8; 32],
    /// The keys of the GGUF that takes the place of a folder. There are no companion files then.
    pub keys: Option<Metadata>,
}

/// Reader of a config, from `config.json` or from the keys and tensors of a GGUF.
pub(crate) struct ConfigReader {
    pub(crate) of_json: fn(&Value) -> Result<Config>,
    pub(crate) of_keys: fn(&Metadata, &[TensorDesc]) -> Result<Config>,
}

impl ModelSpec {
    /// Reads config, tokenizer and companion files, and accounts for every tensor.
    ///
    /// # Errors
    /// Errors of [`Config::from_json`], [`inventory::inventory`] and [`Vocabulary::new`], with the file.
    pub fn open(checkpoint: &Checkpoint) -> Result<ModelSpec> {
        ModelSpec::with(
            checkpoint,
            &ConfigReader { of_json: Config::from_json, of_keys: Config::from_metadata },
        )
    }

    /// Like [`ModelSpec::open`], for draft models only.
    ///
    /// # Errors
    /// Those of [`ModelSpec::open`].
    pub fn open_draft(checkpoint: &Checkpoint) -> Result<ModelSpec> {
        ModelSpec::with(
            checkpoint,
            &ConfigReader { of_json: Config::draft_from_json, of_keys: Config::draft_from_metadata },
        )
    }

    /// Like [`ModelSpec::open`] or, for a draft model, [`ModelSpec::open_draft`].
    ///
    /// # Errors
    /// Those of [`ModelSpec::open`].
    pub fn open_any(checkpoint: &Checkpoint) -> Result<ModelSpec> {
        ModelSpec::with(
            checkpoint,
            &ConfigReader { of_json: Config::any_from_json, of_keys: Config::any_from_metadata },
        )
    }

    fn with(checkpoint: &Checkpoint, read: &ConfigReader) -> Result<ModelSpec> {
        if let Some(keys) = checkpoint.keys() {
            return ModelSpec::of_keys(checkpoint, keys, read.of_keys);
        }
        let dir = checkpoint.dir().display();
        let config = Config::with_weights(checkpoint, read.of_json).map_err(|e| e.within(&dir))?;
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
            processor: checkpoint.processor_config()?,
            card,
            json: checkpoint.config().clone(),
            json_is_as_stored: checkpoint.config_is_as_stored(),
            notes,
            files: checkpoint.files()?,
            fingerprint: checkpoint.fingerprint()?,
            config,
            keys: None,
        })
    }

    /// The fields for images in the processor config: its block `image_processor`, or the file itself.
    pub fn image_processor(&self) -> Option<&Value> {
        let processor = self.processor.as_ref()?;
        Some(processor.get("image_processor").filter(|block| block.is_object()).unwrap_or(processor))
    }

    /// Refuses a processor config that asks for another preparation of images or sounds than is built in.
    ///
    /// # Errors
    /// `Unsupported`, with the first field of another value.
    pub fn check_processor(&self, towers: &Towers) -> Result<()> {
        check_processor(self.processor.as_ref(), self.image_processor(), towers)
    }

    /// A note about conversations for users of a GGUF.
    pub fn gguf_notes(&self) -> Option<String> {
        chat::taken_apart(&self.templates, &self.vocabulary)
    }

    /// Checks that the values of `generation_config.json`, which are copied into outputs, are valid for sampling.
    ///
    /// # Errors
    /// `Malformed`, with the first value that is out of range.
    pub fn check_sampling(&self) -> Result<()> {
        self.generation.as_ref().map_or(Ok(()), sampling::check)
    }
}
