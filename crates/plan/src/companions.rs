//! Companion files of safetensors: config, tokenizer, templates, card, licence. They are copied unchanged, except
//! `config.json` if the description of the weights changes or it lacks the dialect that some programs read.

use gemma::ModelSpec;
use serde_json::{Map, Value as Json};
use tensor::{Error, Result};

use crate::artifact::PlannedFile;
use crate::schemes::table;

const CONFIG: &str = "config.json";

/// Changes of the weights that the config has to state.
pub(crate) struct Change<'a> {
    /// Only the text model of a multimodal checkpoint is written.
    pub(crate) text_only: bool,
    /// The `quantization_config` of quantised weights.
    pub(crate) quantization: Option<&'a Json>,
    /// Floats of another type were converted to BF16.
    pub(crate) rounded: bool,
}

/// The companion files, ordered by name.
///
/// # Errors
/// `Unsupported` when transformers has no text model for this architecture.
pub(crate) fn files(model: &ModelSpec, change: &Change<'_>) -> Result<Vec<PlannedFile>> {
    let config = config(model, change)?;
    let names = model.files.iter().filter(|(name, _)| table().companions.hold(name, change.text_only));
    let files = names.map(|(name, bytes)| match &config {
        Some(config) if name == CONFIG => json(CONFIG, config),
        _ => PlannedFile {
            name: name.clone(),
            bytes: *bytes,
            header: Vec::new(),
            tensors: Vec::new(),
            copy: Some(name.clone()),
        },
    });
    Ok(files.collect())
}

/// Whether the name is that of a companion file of a model.
pub fn is_companion(name: &str) -> bool {
    table().companions.hold(name, false)
}

/// A JSON file, indented as transformers does.
pub(crate) fn json(name: &str, value: &Json) -> PlannedFile {
    let header = format!("{value:#}\n").into_bytes();
    PlannedFile { name: name.to_owned(), bytes: header.len() as u64, header, tensors: Vec::new(), copy: None }
}

/// The new config, or `None` to copy that of the checkpoint.
fn config(model: &ModelSpec, change: &Change<'_>) -> Result<Option<Json>> {
    let mut config = model.json.clone();
    if change.text_only {
        config = Json::Object(text_config(model)?);
    }
    config = gemma::both_dialects(&config, &model.config);
    if let Some(fields) = config.as_object_mut() {
        fields.shift_remove("quantization_config");
        if let Some(quantization) = change.quantization {
            fields.insert("quantization_config".to_owned(), quantization.clone());
        }
        if change.rounded {
            name_bf16(fields);
        }
    }
    // `None` only if a byte copy says the same
    Ok((config != model.json || !model.json_is_as_stored).then_some(config))
}

/// The config of the text model alone, as transformers saves it.
fn text_config(model: &ModelSpec) -> Result<Map<String, Json>> {
    let architecture = &model.config.architecture;
    let alone = table().text_only.get(architecture).ok_or_else(|| {
        Error::unsupported(
            "config.json: architectures",
            "transformers has no text model of its own for this one",
        )
        .expected(table().text_only.keys().cloned().collect::<Vec<_>>().join(", "), architecture)
    })?;
    let mut config = Map::from_iter([("architectures".to_owned(), Json::from(vec![alone.as_str()]))]);
    let text = model.json["text_config"].as_object();
    config.extend(text.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
    if let Some(name) = gemma::model_type(alone).filter(|_| !config.contains_key("model_type")) {
        config.insert("model_type".to_owned(), name.into());
    }
    for key in ["dtype", "tie_word_embeddings", "transformers_version"] {
        if let Some(value) = model.json.get(key).filter(|_| !config.contains_key(key)) {
            config.insert(key.to_owned(), value.clone());
        }
    }
    Ok(config)
}

/// Sets `dtype` (`torch_dtype`) to BF16 where it is present, in the config and its nested configs.
fn name_bf16(fields: &mut Map<String, Json>) {
    for (key, value) in fields {
        match value {
            Json::String(name) if key == "dtype" || key == "torch_dtype" => *name = "bfloat16".to_owned(),
            Json::Object(inner) if key.ends_with("_config") => name_bf16(inner),
            _ => {}
        }
    }
}
