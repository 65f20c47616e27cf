//! The metadata keys of a GGUF: the table `formats/gemma4.keys.toml` (for draft models `gemma4-assistant.keys.toml`),
//! filled with the values of a checkpoint.

mod mmproj;
mod of_gguf;
mod of_layers;

use std::collections::BTreeMap;

use checkpoint::{ChatTemplates, ModelCard};
use gguf::{Metadata, Value};
use serde_json::Value as Json;
use tensor::{Error, Result};

use crate::config::{Attention, Config, ModelKind};
use crate::formats::{self, KeyRow, KeyType, Keys};
use crate::{ModelSpec, Vocabulary, card};

pub use mmproj::{MmprojSources, mmproj_metadata};
pub use of_gguf::{metadata_of_gguf, mmproj_metadata_of_gguf, value_type};
pub use of_layers::metadata_of_layers;

/// The sources of a file's metadata.
#[derive(Clone, Copy, Debug)]
pub struct KeySources<'a> {
    /// The text model's config.
    pub config: &'a Config,
    /// The tokenizer.
    pub vocabulary: &'a Vocabulary,
    /// The chat templates.
    pub templates: &'a ChatTemplates,
    /// The content of `generation_config.json`.
    pub generation: Option<&'a Json>,
    /// The front matter of the checkpoint's README.
    pub card: &'a ModelCard,
    /// `[metadata]` of the recipe; takes precedence over the card.
    pub names: &'a BTreeMap<String, Json>,
    /// `[kv]` of the recipe: key → value, of the type in the table.
    pub overrides: &'a BTreeMap<String, Json>,
    /// The numbers of parameters, for the size label.
    pub parameters: Parameters,
}

/// Numbers of parameters, for the size label.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parameters {
    /// Parameters outside the experts.
    pub shared: u64,
    /// Parameters of one expert, summed over the layers.
    pub one_expert: u64,
    /// Experts per layer; 0 in a dense model.
    pub experts: u64,
}

impl Parameters {
    /// The numbers for tensors of these shapes. Those of three dimensions have all `experts`.
    pub fn of<'a>(shapes: impl Iterator<Item = &'a [u64]>, experts: u64) -> Parameters {
        let (mut shared, mut all) = (0, 0);
        for shape in shapes {
            let of = if shape.len() >= 3 { &mut all } else { &mut shared };
            *of += shape.iter().product::<u64>();
        }
        Parameters { shared, one_expert: all / experts.max(1), experts }
    }
}

/// The version of ggml's quantised layouts that this crate's types have.
const QUANTIZATION_VERSION: u32 = 2;

/// The metadata of a text model's GGUF, in file order. `file_type` is llama.cpp's number of the preset.
///
/// # Errors
/// `Malformed` if a value does not fit its type, `Recipe` for an override that does not fit or has an unknown key.
pub fn metadata(from: &KeySources<'_>, file_type: u32) -> Result<Metadata> {
    let table = formats::keys(from.config.kind);
    fill(from, table, rows(table, from.vocabulary), &|name| fact(from, name, file_type))
}

/// The metadata of an adapter, in file order.
pub(crate) fn adapter_metadata(from: &KeySources<'_>, alpha: f32) -> Result<Metadata> {
    let table = formats::adapter_keys();
    fill(from, table, table.key.iter().collect(), &|name| match name {
        "type" => Some("adapter".into()),
        "adapter_type" => Some("lora".into()),
        "alpha" => Some(Fact::Typed(Value::F32(alpha))),
        _ => fact(from, name, 0),
    })
}

/// The values of `rows`, then the overrides.
fn fill(
    from: &KeySources<'_>,
    table: &'static Keys,
    rows: Vec<&'static KeyRow>,
    fact: &dyn Fn(&str) -> Option<Fact>,
) -> Result<Metadata> {
    let mut metadata = Metadata::new();
    for row in rows {
        if row.key.ends_with(".*") {
            card::listed(from, row, &mut metadata);
            continue;
        }
        let key = row.key.replace("{arch}", &table.architecture);
        if key == "tokenizer.chat_template" {
            named_templates(from.templates, &mut metadata);
        }
        if let Some(fact) = fact(&row.value)
            && let Some(value) = fact.typed(&key, row.kind).map_err(|e| from.blame(row, e))?
        {
            metadata.insert(key, value);
        }
    }
    set(table, from.overrides, &mut metadata)?;
    Ok(metadata)
}

/// Sets the keys of a recipe's `[kv]`.
fn set(table: &'static Keys, overrides: &BTreeMap<String, Json>, metadata: &mut Metadata) -> Result<()> {
    for (key, json) in overrides {
        let place = format!("recipe: [kv] {key}");
        let row = row_of(table, key).ok_or_else(|| {
            Error::recipe(&place, "such a file has no such key")
                .help("The tables formats/gemma4*.keys.toml list the keys.")
        })?;
        let value = convert(key, row.kind, json).map_err(|e| {
            Error::recipe(&place, "the value does not fit the key's type").expected(
                type_name(row.kind),
                e.expected_found().map_or("something else", |(_, found)| found),
            )
        })?;
        // an unwritten value would have no effect, and the model's own value would stay
        let value = value.ok_or_else(|| {
            Error::recipe(&place, "empty values are not written").expected(type_name(row.kind), json)
        })?;
        metadata.insert(key.clone(), value);
    }
    Ok(())
}

/// Whether the table of keys for this kind of model lists the key.
pub fn is_known_key(kind: ModelKind, key: &str) -> bool {
    key.starts_with("tokenizer.chat_template.")
        || key == "tokenizer.chat_templates"
        || is_in(formats::keys(kind), key)
}

/// Whether the table of keys of mmproj files lists the key.
pub fn is_known_mmproj_key(key: &str) -> bool {
    is_in(formats::mmproj_keys(), key)
}

fn is_in(table: &Keys, key: &str) -> bool {
    let holds = |row: &KeyRow| {
        let name = row.key.replace("{arch}", &table.architecture);
        match name.strip_suffix('*') {
            Some(start) => key.starts_with(start),
            None => name == key,
        }
    };
    table.key.iter().any(holds)
}

impl<'a> KeySources<'a> {
    /// The sources in a checkpoint, with the names and overrides of a recipe.
    pub fn of(
        model: &'a ModelSpec,
        names: &'a BTreeMap<String, Json>,
        overrides: &'a BTreeMap<String, Json>,
        parameters: Parameters,
    ) -> KeySources<'a> {
        KeySources {
            config: &model.config,
            vocabulary: &model.vocabulary,
            templates: &model.templates,
            generation: model.generation.as_ref(),
            card: &model.card,
            names,
            overrides,
            parameters,
        }
    }

    /// Attributes the error to the recipe if the value comes from it.
    fn blame(&self, row: &KeyRow, error: Error) -> Error {
        let Some(field) = row.value.strip_prefix("card.").filter(|field| self.names.contains_key(*field))
        else {
            return error;
        };
        let (expected, found) = error.expected_found().unwrap_or_default();
        Error::recipe(format!("recipe: [metadata] {field}"), error.problem()).expected(expected, found)
    }
}

/// The rows of the table; those of special tokens in the tokenizer's order.
fn rows(table: &'static Keys, vocabulary: &Vocabulary) -> Vec<&'static KeyRow> {
    let mut rows: Vec<_> = table.key.iter().collect();
    if let Some(first) = rows.iter().position(|row| vocabulary.place(&row.value).is_some()) {
        let mut special =
            rows.extract_if(first.., |row| vocabulary.place(&row.value).is_some()).collect::<Vec<_>>();
        special.sort_by_key(|row| vocabulary.place(&row.value));
        rows.splice(first..first, special);
    }
    rows
}

fn row_of(table: &'static Keys, key: &str) -> Option<&'static KeyRow> {
    table.key.iter().find(|row| row.key.replace("{arch}", &table.architecture) == key)
}

/// A value before conversion to the key's type.
enum Fact {
    Json(Json),
    /// Large arrays, which are created with their type.
    Typed(Value),
}

impl Fact {
    fn typed(self, key: &str, kind: KeyType) -> Result<Option<Value>> {
        match self {
            Fact::Json(json) => convert(key, kind, &json),
            Fact::Typed(value) => Ok(Some(value)),
        }
    }
}

impl<T: Into<Json>> From<T> for Fact {
    fn from(value: T) -> Fact {
        Fact::Json(value.into())
    }
}

/// The value for a name in the table; `None` if this model has none.
fn fact(from: &KeySources<'_>, name: &str, file_type: u32) -> Option<Fact> {
    if let Some((source, field)) = name.split_once('.') {
        return match (source, field) {
            ("generation", "repetition_penalty") => {
                let config = from.generation?;
                config.get("penalty_repeat").or_else(|| config.get(field)).cloned().map(Fact::Json)
            }
            ("generation", _) => from.generation?.get(field).cloned().map(Fact::Json),
            ("card", _) => card::field(from, field).map(Fact::Json),
            ("file", "type") => Some(file_type.into()),
            ("file", "quantization_version") => Some(QUANTIZATION_VERSION.into()),
            _ => unreachable!("formats/gemma4*.keys.toml: value {name:?}; the table is tested"),
        };
    }
    model_fact(from.config, name).or_else(|| tokenizer_fact(from, name))
}

fn model_fact(config: &Config, name: &str) -> Option<Fact> {
    let layers = 0..config.layers();
    Some(match name {
        "architecture" => formats::keys(config.kind).architecture.clone().into(),
        "type" => "model".into(),
        "layers" => config.layers().into(),
        "context" => config.context.into(),
        "hidden" => config.hidden.into(),
        "heads" => config.heads.into(),
        "head_dim" => config.head_dim.into(),
        "full_head_dim" => config.full_head_dim.into(),
        "window" => config.window.into(),
        "shared_kv_layers" => config.shared_kv_layers.into(),
        "ple" => config.ple.into(),
        "causal" if config.causal => return None,
        "causal" => false.into(),
        "norm_eps" => config.norm_eps.into(),
        "rope_base" => config.rope.base.into(),
        "rope_base_swa" => config.rope_swa.base.into(),
        // without the key llama.cpp caps at 30, with 0 not at all; it does not cap draft models
        "softcap" if config.kind == ModelKind::Draft => config.softcap?.into(),
        "softcap" => config.softcap.unwrap_or(0.0).into(),
        "backbone" => config.draft.as_ref()?.backbone.into(),
        "centroids_used" => config.ordered()?.used.into(),
        "experts" => config.experts?.into(),
        "experts_used" => config.experts_used?.into(),
        "expert_ffn" => config.expert_ffn?.into(),
        // a number if all layers are equal by design, an array if the family allows differences
        "ffn" if config.double_wide => layers.map(|n| config.ffn_of(n)).collect::<Vec<_>>().into(),
        "ffn" => config.ffn.into(),
        "kv_heads" if config.full_kv_heads.is_some() => {
            layers.map(|n| config.kv_heads_of(n)).collect::<Vec<_>>().into()
        }
        "kv_heads" => config.kv_heads.into(),
        "sliding" => config.attention.iter().map(|&a| a == Attention::Sliding).collect::<Vec<_>>().into(),
        _ => return None,
    })
}

fn tokenizer_fact(from: &KeySources<'_>, name: &str) -> Option<Fact> {
    let vocabulary = from.vocabulary;
    let table = formats::vocabulary();
    Some(match name {
        // the 12B must not generate its image and audio markers
        "suppress_tokens" if from.config.kind == ModelKind::Unified => {
            Fact::Json(from.generation?.get(name)?.clone())
        }
        "suppress_tokens" => return None,
        "tokenizer_model" => table.tokenizer_model.clone().into(),
        "tokens" => Fact::Typed(vocabulary.tokens.clone().into()),
        "scores" => Fact::Typed(vec![table.score; vocabulary.tokens.len()].into()),
        "token_types" => Fact::Typed(vocabulary.types.clone().into()),
        "merges" if vocabulary.merges.is_empty() => return None,
        "merges" => Fact::Typed(vocabulary.merges.clone().into()),
        "chat_template" => from.templates.default.clone()?.into(),
        "add_space_prefix" => false.into(),
        // always true; the position of the key shows whether the tokenizer's files state it
        "add_bos_early" => vocabulary.add.iter().find(|(kind, _)| *kind == "bos").map(|_| true)?.into(),
        "add_bos_late" => true.into(),
        "add_eos" | "add_sep" => vocabulary.add.iter().find(|(kind, _)| *kind == &name[4..])?.1.into(),
        id => {
            let kind = id.strip_suffix("_id")?;
            vocabulary.special.iter().find(|(k, _)| *k == kind)?.1.into()
        }
    })
}

/// Inserts the templates other than the default, each under its own key, and the list of their names.
fn named_templates(templates: &ChatTemplates, metadata: &mut Metadata) {
    let safe = |name: &str| name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let mut names = Vec::new();
    for (name, template) in templates.named.iter().filter(|(name, _)| !name.is_empty()) {
        metadata.insert(format!("tokenizer.chat_template.{}", safe(name)), template.clone());
        names.push(safe(name));
    }
    if !names.is_empty() {
        metadata.insert("tokenizer.chat_templates", names);
    }
}

fn type_name(kind: KeyType) -> &'static str {
    match kind {
        KeyType::U32 => "an integer from 0 to 4294967295",
        KeyType::I32 => "an integer from -2147483648 to 2147483647",
        KeyType::F32 => "a number",
        KeyType::Bool => "true or false",
        KeyType::Str => "a string",
        KeyType::U32OrI32s => "an integer, or one integer per layer",
        KeyType::I32s => "a list of integers",
        KeyType::F32s => "a list of numbers",
        KeyType::Bools => "a list of true and false",
        KeyType::Strs => "a list of strings",
    }
}

/// Converts `json` to a GGUF value; `None` for null and for empty strings and lists, which are not written.
fn convert(key: &str, kind: KeyType, json: &Json) -> Result<Option<Value>> {
    let misfit =
        || Error::malformed(format!("key {key}"), "the value does not fit").expected(type_name(kind), json);
    if json.is_null() {
        return Ok(None);
    }
    let u32_of = |v: &Json| v.as_u64().and_then(|n| u32::try_from(n).ok());
    let i32_of = |v: &Json| v.as_i64().and_then(|n| i32::try_from(n).ok());
    let f32_of = |v: &Json| v.as_f64().map(|n| n as f32).filter(|n| n.is_finite());
    let value = match kind {
        KeyType::U32 => u32_of(json).map(Value::U32),
        KeyType::I32 => i32_of(json).map(Value::I32),
        KeyType::F32 => f32_of(json).map(Value::F32),
        KeyType::Bool => json.as_bool().map(Value::Bool),
        KeyType::Str => json.as_str().map(Value::from),
        KeyType::U32OrI32s if !json.is_array() => u32_of(json).map(Value::U32),
        KeyType::I32s | KeyType::U32OrI32s => list(json, i32_of),
        KeyType::F32s => list(json, f32_of),
        KeyType::Bools => list(json, Json::as_bool),
        KeyType::Strs => list(json, |v| v.as_str().map(str::to_owned)),
    };
    match value.ok_or_else(misfit)? {
        Value::Str(text) if text.is_empty() => Ok(None),
        Value::Array(items) if items.is_empty() => Ok(None),
        value => Ok(Some(value)),
    }
}

fn list<T>(json: &Json, item: impl Fn(&Json) -> Option<T>) -> Option<Value>
where
    Vec<T>: Into<Value>,
{
    json.as_array()?.iter().map(item).collect::<Option<Vec<T>>>().map(Into::into)
}
