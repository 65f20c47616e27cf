//! Detects weights with a quantisation that this crate does not read. Names and types of the tensors decide, not
//! `config.json`, whose entry is often left over from training.

use serde_json::Value;
use tensor::{DType, Error, Result};

use crate::float8::is_fp8;
use crate::pieces::Entry;
use crate::table::table;

/// Config fields that describe quantisation. `quantization` is MLX's.
const FIELDS: [&str; 3] = ["quantization_config", "quantization", "compression_config"];

/// Refuses quantised weights. If the config describes quantisation but no weight is quantised, the fields are removed
/// from the config and a note is returned. `sfp8`: the metadata of some shard declares SFP8.
///
/// # Errors
/// `Unsupported`, naming the quantisation and a tensor. `file_of` names the file of an entry.
pub(crate) fn check(
    entries: &[Entry],
    config: &mut Value,
    sfp8: bool,
    file_of: &dyn Fn(&Entry) -> String,
) -> Result<Option<String>> {
    let said = FIELDS.iter().find_map(|field| Some((*field, said(config, field)?)));
    let method = said.as_ref().and_then(|(_, value)| value.get("quant_method")?.as_str());
    let ending = |entry: &&Entry, suffixes: &[String]| {
        suffixes.iter().any(|suffix| entry.desc.name.ends_with(suffix.as_str()))
    };
    let rows = table().quantised.iter();
    let mut by_name = rows
        .filter(|row| {
            row.methods.is_empty() || method.is_some_and(|m| row.methods.iter().any(|own| own == m))
        })
        .filter_map(|row| Some((row.name.as_str(), entries.iter().find(|e| ending(e, &row.suffixes))?)));
    if let Some((name, entry)) = by_name.next() {
        return Err(refused(name, entry, file_of));
    }
    let Some((field, value)) = &said else { return Ok(None) };
    let fp8 = is_fp8(&serde_json::json!({ "quantization_config": value })).unwrap_or(false);
    let coded = |entry: &&Entry| match entry.desc.dtype {
        DType::BF16 | DType::F16 | DType::F32 | DType::F64 | DType::I64 | DType::BOOL => false,
        DType::U8 => !sfp8,
        DType::F8_E4M3 => !fp8,
        _ => true,
    };
    if let Some(entry) = entries.iter().find(coded) {
        let known = method.and_then(|method| table().methods.get(method));
        let name = match (known, method) {
            (None, None) if value["format"] == "sfp8" => {
                "SFP8 by its config.json, but its __metadata__ format is not sfp8"
            }
            (Some(name), _) => name.as_str(),
            (None, Some(method)) => method,
            (None, None) if *field == "quantization" => "MLX",
            (None, None) => "in a way that config.json does not name",
        };
        return Err(refused(name, entry, file_of));
    }
    let real = |entry: &Entry| match entry.desc.dtype {
        DType::U8 => sfp8,
        DType::F8_E4M3 => fp8,
        _ => false,
    };
    if entries.iter().any(real) {
        return Ok(None);
    }
    let name = method.map_or_else(String::new, |method| format!(" ({method})"));
    let note =
        format!("config.json has a {field}{name}, but no weight is quantised: it is left over, and ignored");
    let fields = [config.as_object_mut()];
    fields.into_iter().flatten().for_each(|fields| FIELDS.iter().for_each(|f| drop(fields.shift_remove(*f))));
    if let Some(text) = config.get_mut("text_config").and_then(Value::as_object_mut) {
        FIELDS.iter().for_each(|field| drop(text.shift_remove(*field)));
    }
    Ok(Some(note))
}

/// The value of a key in the config, else in its `text_config`.
fn said(config: &Value, field: &str) -> Option<Value> {
    let of = |config: &Value| config.get(field).filter(|value| !value.is_null()).cloned();
    of(config).or_else(|| of(config.get("text_config")?))
}

fn refused(name: &str, entry: &Entry, file_of: &dyn Fn(&Entry) -> String) -> Error {
    Error::unsupported(
        format!("{}: tensor {}", file_of(entry), entry.desc.name),
        format!("this checkpoint is already quantised: {name}"),
    )
    .expected(
        "weights in bf16, f16 or f32, or FP8 of compressed-tensors with a scale a row or a tensor",
        format!("{} {:?}", entry.desc.dtype, entry.desc.shape),
    )
    .help("Give the BF16 checkpoint that it was made from: quantising twice adds up the errors.")
}
