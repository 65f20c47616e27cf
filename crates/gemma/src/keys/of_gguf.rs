//! The keys of a file that is made from a GGUF: those of the source, in its order, with few changes.

use std::collections::BTreeMap;

use gguf::Metadata;
use serde_json::Value as Json;
use tensor::{Error, Result};

use super::{QUANTIZATION_VERSION, convert, is_in, row_of, set, type_name};
use crate::config::ModelKind;
use crate::formats::{self, KeyType, Keys};
use crate::towers::GELU_KEY;

/// Prefix of the keys of this program, which describe the tensors of one file.
const OURS: &str = "gemma-convert.";

const TYPE_KEY: &str = "general.file_type";
const VERSION_KEY: &str = "general.quantization_version";

/// The keys of a GGUF of another type, made from one with the keys `source`: like `llama-quantize`, which sets
/// `general.quantization_version` and `general.file_type` anew, at the end. `names` and `overrides` are `[metadata]` and `[kv]` of
/// the recipe.
///
/// # Errors
/// `Recipe` for an override that does not fit or has an unknown key.
pub fn metadata_of_gguf(
    source: &Metadata,
    kind: ModelKind,
    names: &BTreeMap<String, Json>,
    overrides: &BTreeMap<String, Json>,
    file_type: u32,
) -> Result<Metadata> {
    let table = formats::keys(kind);
    let mut metadata = of_source(source, table, names)?;
    metadata.append(VERSION_KEY, QUANTIZATION_VERSION);
    metadata.append(TYPE_KEY, file_type);
    set(table, overrides, &mut metadata)?;
    Ok(metadata)
}

/// The keys of an mmproj file of another type, made from one with the keys `source`: like the converter, which writes `general.file_type`
/// in its place. `exact_gelu` adds `clip.use_gelu`.
///
/// # Errors
/// `Recipe` for an override that does not fit or has an unknown key.
pub fn mmproj_metadata_of_gguf(
    source: &Metadata,
    names: &BTreeMap<String, Json>,
    overrides: &BTreeMap<String, Json>,
    file_type: u32,
    exact_gelu: bool,
) -> Result<Metadata> {
    let table = formats::mmproj_keys();
    let mut metadata = of_source(source, table, names)?;
    metadata.insert(TYPE_KEY, file_type);
    if exact_gelu {
        metadata.insert(GELU_KEY, true);
    }
    metadata.append(VERSION_KEY, QUANTIZATION_VERSION);
    set(table, overrides, &mut metadata)?;
    Ok(metadata)
}

/// The keys of a source without those of this program, with the `[metadata]` of the recipe.
fn of_source(source: &Metadata, table: &'static Keys, names: &BTreeMap<String, Json>) -> Result<Metadata> {
    let mut metadata = source.clone();
    let ours: Vec<String> =
        source.iter().map(|(key, _)| key.to_owned()).filter(|key| key.starts_with(OURS)).collect();
    ours.iter().for_each(|key| drop(metadata.remove(key)));
    for (field, json) in names {
        let place = format!("recipe: [metadata] {field}");
        let value = format!("card.{field}");
        let row = table.key.iter().find(|row| row.value == value && !row.key.ends_with('*'));
        let row = row.ok_or_else(|| {
            Error::recipe(&place, "a GGUF as the source of a conversion keeps the keys that it has for it")
                .help("`gemma-convert edit` changes keys of a finished file.")
        })?;
        let value = convert(&row.key, row.kind, json).map_err(|_| {
            Error::recipe(&place, "the value does not fit").expected(type_name(row.kind), json)
        })?;
        match value {
            Some(value) => drop(metadata.insert(row.key.clone(), value)),
            None => drop(metadata.remove(&row.key)),
        }
    }
    Ok(metadata)
}

/// The name of the type that a key of this family of files has, as [`gguf::Value::type_name`] spells it. `text` is the value, which
/// decides where a key may be a number or a list. `None` for an unknown key.
pub fn value_type(key: &str, text: &str) -> Option<&'static str> {
    let kinds = [ModelKind::Text, ModelKind::Draft].map(formats::keys);
    let tables = || kinds.into_iter().chain([formats::mmproj_keys()]);
    let kind = tables().find_map(|table| row_of(table, key)).map(|row| row.kind);
    // tokenizer.chat_template.NAME, general.base_model.0.name …
    let listed = |table: &Keys| is_in(table, key) || key.starts_with("tokenizer.chat_template.");
    let kind = kind.or_else(|| tables().any(listed).then_some(KeyType::Str))?;
    Some(match kind {
        KeyType::U32 => "u32",
        KeyType::I32 => "i32",
        KeyType::F32 => "f32",
        KeyType::Bool => "bool",
        KeyType::Str => "string",
        KeyType::U32OrI32s if text.trim_start().starts_with('[') => "array of i32",
        KeyType::U32OrI32s => "u32",
        KeyType::I32s => "array of i32",
        KeyType::F32s => "array of f32",
        KeyType::Bools => "array of bool",
        KeyType::Strs => "array of string",
    })
}
