//! The description of a GGUF as a source of conversions, from its keys.

use checkpoint::{ChatTemplates, Checkpoint, ModelCard};
use gguf::{Metadata, Value};
use serde_json::Value as Json;
use tensor::{Error, Result, TensorDesc, TensorSource};

use crate::formats::TypePolicy;
use crate::{Config, Inventory, ModelSpec, Vocabulary, gguf_inventory};

/// Key of the default chat template; other templates have a name behind it.
const TEMPLATE: &str = "tokenizer.chat_template";

impl ModelSpec {
    /// Reads the config by `config`, and accounts for every tensor.
    pub(crate) fn of_keys(
        checkpoint: &Checkpoint,
        keys: &Metadata,
        config: fn(&Metadata, &[TensorDesc]) -> Result<Config>,
    ) -> Result<ModelSpec> {
        let file = checkpoint.shards().first().map_or(checkpoint.dir(), |shard| &shard.path);
        let within = |e: Error| e.within(file.display());
        if keys.typed::<&str>("general.architecture").map_err(within)? == Some("clip") {
            return Err(Error::unsupported(file.display(), "an mmproj file is not converted to another type")
                .expected("the GGUF of a text model", "clip")
                .help("Convert the checkpoint with ‹mmproj›. `gemma-convert edit` changes the keys of an mmproj file."));
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

fn vocabulary(keys: &Metadata) -> Result<Vocabulary> {
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

fn templates(keys: &Metadata) -> Result<ChatTemplates> {
    let default = keys.typed::<&str>(TEMPLATE)?.map(str::to_owned);
    let named = keys.iter().filter_map(|(key, value)| match value {
        Value::Str(text) => Some((key.strip_prefix(TEMPLATE)?.strip_prefix('.')?.to_owned(), text.clone())),
        _ => None,
    });
    Ok(ChatTemplates { default, named: named.collect(), note: None })
}
