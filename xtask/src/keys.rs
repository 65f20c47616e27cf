//! The cases of `fixtures/golden/keys`: a checkpoint changed in its companion files, and the keys of a GGUF as text.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use gguf::{Array, GgufSet, Value};
use serde_json::{Map, Value as Json};
use sha2::{Digest, Sha256};

/// One way to change the companions of a checkpoint.
#[derive(serde::Deserialize)]
pub struct Case {
    /// What it is about.
    pub name: String,
    /// The model card names the model, so that its name is not taken from the folder.
    #[serde(default)]
    pub named: bool,
    #[serde(default)]
    files: Map<String, Json>,
    #[serde(default)]
    patch: Map<String, Json>,
}

impl Case {
    /// Makes `folder` the checkpoint `base` with this change. Weights are linked.
    pub fn make(&self, base: &Path, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        for entry in fs::read_dir(base)? {
            let entry = entry?;
            let to = folder.join(entry.file_name());
            if to.extension().is_some_and(|e| e == "safetensors") {
                std::os::unix::fs::symlink(entry.path(), to)?;
            } else {
                fs::copy(entry.path(), to)?;
            }
        }
        for (name, content) in &self.files {
            let path = folder.join(name);
            match content {
                Json::Null => fs::remove_file(&path)?,
                Json::String(text) => fs::write(&path, text)?,
                json => fs::write(&path, serde_json::to_vec(json)?)?,
            }
        }
        for (name, values) in &self.patch {
            let path = folder.join(name);
            let mut json: Json = serde_json::from_slice(&fs::read(&path)?)?;
            for (pointer, value) in values.as_object().context("patch: pointers and values")? {
                let (parent, key) = pointer.rsplit_once('/').context("patch: a JSON pointer")?;
                json.pointer_mut(parent).context("patch: no such place")?[key] = value.clone();
            }
            fs::write(&path, serde_json::to_vec(&json)?)?;
        }
        Ok(())
    }
}

/// Key, type and value of every key of a file, in order. Long values are told by their SHA-256.
pub fn of_file(path: &Path) -> Result<Vec<[String; 3]>> {
    let set = GgufSet::open(path).map_err(|e| anyhow::anyhow!("{e}"))?;
    let row = |(key, value): (&str, &Value)| [key.to_owned(), value.type_name(), text(value)];
    Ok(set.metadata().iter().map(row).collect())
}

fn text(value: &Value) -> String {
    let text = format!("{value:?}");
    match value {
        Value::Array(items) if Array::len(items) > 16 => {
            Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
        }
        _ => text,
    }
}
