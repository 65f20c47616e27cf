//! The chat templates, chosen as transformers does (`tokenization_utils_base.py`, `_from_pretrained`).
//!
//! `chat_template.jinja` with `additional_chat_templates/*.jinja` takes precedence; then the `chat_template` key of
//! `tokenizer_config.json`; then `chat_template.json`, which only processors read. llama.cpp's converter
//! (`gguf-py/gguf/vocab.py`) reads the key first: where the two differ, it writes the other template. Unlike there, a
//! value of the wrong type is an error instead of a warning.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tensor::{Error, Result};

use crate::files;

/// The templates of a model; most have only a default one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatTemplates {
    /// The template to use unless another is requested by name.
    pub default: Option<String>,
    /// Other templates as (name, template), in file order; those from a folder are sorted by name.
    pub named: Vec<(String, String)>,
    /// Note for people, if two sources have different templates.
    pub note: Option<String>,
}

pub(crate) fn read(dir: &Path, tokenizer_config: Option<&Value>) -> Result<ChatTemplates> {
    let key = tokenizer_config.and_then(|c| c.get("chat_template"));
    let of_key = key.map(|value| from_value(value, &dir.join("tokenizer_config.json"))).transpose()?;
    if let Some(default) = files::text_lf(&dir.join("chat_template.jinja"))? {
        let other = of_key.and_then(|templates| templates.default).filter(|other| *other != default);
        let note = other.map(|_| {
            "chat_template.jinja and the chat_template of tokenizer_config.json differ: chat_template.jinja takes \
             precedence, as in transformers"
                .to_owned()
        });
        // an empty file is no template
        let default = Some(default).filter(|text| !text.trim().is_empty());
        return Ok(ChatTemplates { default, named: additional(dir)?, note });
    }
    if let Some(templates) = of_key {
        return Ok(templates);
    }
    let path = dir.join("chat_template.json");
    match files::json::<Value>(&path)? {
        Some(json) => from_value(json.get("chat_template").unwrap_or(&Value::Null), &path),
        None => Ok(ChatTemplates::default()),
    }
}

/// A string, or a list of `{"name": …, "template": …}`; of two with the same name the last one is used.
fn from_value(value: &Value, path: &Path) -> Result<ChatTemplates> {
    let wrong = |found: &Value| {
        Error::malformed(format!("{}: chat_template", path.display()), "not a template")
            .expected("a string or a list of {name, template}", found)
    };
    let mut templates = ChatTemplates::default();
    match value {
        Value::Null => {}
        Value::String(text) => templates.default = Some(text.clone()),
        Value::Array(list) => {
            for entry in list {
                match (entry.get("name"), entry.get("template")) {
                    (Some(Value::String(name)), Some(Value::String(text))) => {
                        templates.add(name, text.clone())
                    }
                    _ => return Err(wrong(entry)),
                }
            }
        }
        other => return Err(wrong(other)),
    }
    Ok(templates)
}

fn additional(dir: &Path) -> Result<Vec<(String, String)>> {
    let dir = dir.join("additional_chat_templates");
    let Ok(entries) = fs::read_dir(&dir) else { return Ok(Vec::new()) };
    let mut paths: Vec<_> = entries.flatten().map(|e| e.path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "jinja"));
    paths.sort();
    let mut templates = ChatTemplates::default();
    for path in paths {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if let Some(text) = files::text_lf(&path)? {
            templates.add(&name, text);
        }
    }
    Ok(templates.named)
}

impl ChatTemplates {
    fn add(&mut self, name: &str, text: String) {
        if name == "default" {
            self.default = Some(text);
        } else if let Some(same) = self.named.iter_mut().find(|(n, _)| n == name) {
            same.1 = text;
        } else {
            self.named.push((name.to_owned(), text));
        }
    }
}
