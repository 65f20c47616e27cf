//! The report of a packed model: the document of `pack ollama --json`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

use super::documents::OllamaConfig;
use super::files::OllamaRole;
use super::model::OllamaModel;
use super::store::StoredModel;

/// A model that was packed for Ollama.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct OllamaPacked {
    /// The version of the document: it grows when a key changes its meaning or goes.
    pub schema: u32,
    /// The model in a store, unless a Modelfile was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<StoredModel>,
    /// The Modelfile, if one was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modelfile: Option<PathBuf>,
    /// The files of the model.
    pub files: Vec<PackedFile>,
    /// The config.
    pub config: OllamaConfig,
    /// The sampling parameters.
    pub params: BTreeMap<String, f64>,
    /// The abilities that Ollama will show.
    pub capabilities: Vec<String>,
}

/// A file of a packed model.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PackedFile {
    /// The use of the file.
    pub role: OllamaRole,
    /// The file.
    pub path: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
}

impl OllamaPacked {
    /// The report of a model that is in a store or in a Modelfile.
    pub fn new(model: &OllamaModel, store: Option<StoredModel>, modelfile: Option<PathBuf>) -> OllamaPacked {
        let file = |file: &super::OllamaFile| PackedFile {
            role: file.role,
            path: file.path().to_owned(),
            bytes: file.bytes(),
        };
        OllamaPacked {
            schema: 1,
            store,
            modelfile,
            files: model.files().map(file).collect(),
            config: model.config(),
            params: model.params.values(),
            capabilities: model.capabilities().into_iter().map(str::to_owned).collect(),
        }
    }
}
