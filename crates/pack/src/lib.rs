//! Releases of finished GGUF files: a model in an Ollama store, or a Modelfile for `ollama create`.
//!
//! ```
//! use pack::ollama::OllamaName;
//!
//! let name: OllamaName = "gemma4-e2b:q4_0".parse()?;
//! assert_eq!(name.to_string(), "registry.ollama.ai/library/gemma4-e2b:q4_0");
//! assert_eq!(name.short(), "gemma4-e2b:q4_0");
//! # Ok::<(), tensor::Error>(())
//! ```
//!
//! [`ollama::OllamaModel::find`] finds text model, projector (mmproj) and draft model among GGUF files and checks that
//! Ollama can run them. [`ollama::OllamaStore::add`] puts them into a store.
//!
//! Not covered: how the files were made, upload, adapters.

pub mod ollama;
