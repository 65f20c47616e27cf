//! Releases of finished GGUF files: names by which llama.cpp finds them, model card, checksums; a model in an Ollama store, or a
//! Modelfile for `ollama create`.
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
//! | module | idea |
//! |---|---|
//! | `hub_files` | the files that `llama-server -hf OWNER/NAME:TAG` picks by their names |
//! | `card` | the model card |
//! | `checksums` | SHA256SUMS |
//! | `ollama` | stores and Modelfiles |
//!
//! Not covered: how the files were made, upload, adapters.

pub mod card;
pub mod checksums;
pub mod hub_files;
pub mod ollama;
