//! The description of a GGUF as a source of conversions, from its keys.

use checkpoint::{ChatTemplates, Checkpoint, ModelCard};
use gguf::{Metadata, Value};
use serde_json::Value as Json;
use tensor::{Error, Result, TensorDesc, TensorSource};

use crate::formats::{self, TypePolicy};
use crate::ollama::is_ollama;
use crate::{Config, Inventory, ModelSpec, Vocabulary, gguf_inventory};

/// Key of the default chat template; other templates have a name behind it.
const TEMPLATE: &str = "tokenizer.chat_template";

/// Whether keys are those of an mmproj file.
pub fn is_mmproj(keys: &Metadata) -> bool {
    keys.typed::<&str>("general.architecture").ok().flatten() == Some(&formats::mmproj_keys().architecture)
}

impl ModelSpec {
    /// Reads the config by `config`, and accounts for every tensor.
    pub(crate) fn of_keys(
        checkpoint: &Checkpoint,
        keys: &Metadata,
        config: fn(&Metadata, &[TensorDesc]) -> Result<Config>,
    ) -> Result<ModelSpec> {
        let file = checkpoint.shards().first().map_or(checkpoint.dir(), |shard| &shard.path);
        let within = |e: Error| e.within(file.display());
        if is_mmproj(keys) {
            return Err(Error::unsupported(file.display(), "an mmproj file: it has towers, and no text model")
                .expected("the GGUF of a text model", "clip")
                .help("`gemma-convert convert` makes other types of it, with ‹mmproj›; `gemma-convert edit` changes its keys."));
        }
        if is_ollama(keys, checkpoint.tensors()) {
            return Err(Error::unsupported(
                file.display(),
                "a file of Ollama's converter, which llama.cpp does not load: towers among the tensors of the text model, or a tokenizer \
                 that is said to be SentencePiece's",
            )
            .help("`gemma-convert edit` with ‹stock› writes the text model and the mmproj file of llama.cpp, with the same weights."));
        }
        let config = config(keys, checkpoint.tensors()).map_err(within)?;
        let inventory = gguf_inventory(&config, checkpoint.tensors()).map_err(within)?;
        Ok(ModelSpec {
            inventory: kept_by_llama_quantize(inventory),
            vocabulary: vocabulary(keys).map_err(within)?,
            templates: templates(keys).map_err(within)?,
            generation: None,
            processor: None,
            card: ModelCard::default(),
            json: Json::Null,
            json_is_as_stored: true,
            notes: Vec::new(),
            files: Vec::new(),
            fingerprint: checkpoint.fingerprint()?,
            keys: Some(keys.clone()),
            config,
        })
    }
}

/// Tensors that no preset quantizes keep the type that they have in a GGUF, as in llama-quantize.
fn kept_by_llama_quantize(mut inventory: Inventory) -> Inventory {
    for found in &mut inventory.text {
        let slot = &mut found.slot;
        let is_flat = gguf::ggml_shape(&slot.shape).len() < 2;
        if slot.type_policy == TypePolicy::Keep || is_flat && slot.type_policy == TypePolicy::Recipe {
            slot.type_policy = TypePolicy::Copy;
        }
    }
    inventory
}

pub(crate) fn vocabulary(keys: &Metadata) -> Result<Vocabulary> {
    let texts = |key: &str| {
        let texts: Option<&[String]> = keys.typed(&format!("tokenizer.ggml.{key}"))?;
        Ok(texts.unwrap_or_default().to_vec())
    };
    let types: Option<&[i32]> = keys.typed("tokenizer.ggml.token_type")?;
    Ok(Vocabulary {
        tokens: texts("tokens")?,
        types: types.unwrap_or_default().to_vec(),
        merges: texts("merges")?,
        special: Vec::new(),
        add: Vec::new(),
        special_as_text: Vec::new(),
        notes: Vec::new(),
    })
}

pub(crate) fn templates(keys: &Metadata) -> Result<ChatTemplates> {
    let default = keys.typed::<&str>(TEMPLATE)?.map(str::to_owned);
    let named = keys.iter().filter_map(|(key, value)| match value {
        Value::Str(text) => Some((key.strip_prefix(TEMPLATE)?.strip_prefix('.')?.to_owned(), text.clone())),
        _ => None,
    });
    Ok(ChatTemplates { default, named: named.collect(), note: None })
}
