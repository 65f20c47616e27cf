//! Ollama: the content of a store as `ollama create` writes it.
//!
//! A store has blobs, named by their SHA-256, and manifests, named by the model. A manifest lists layers: the GGUF files,
//! a license, parameters. The config of the model is a blob too.
//!
//! | file | idea |
//! |---|---|
//! | `name.rs` | names of models |
//! | `files.rs` | the kind of each GGUF file; the files of a model among others |
//! | `check.rs` | properties without which Ollama does not load a file, or computes something else |
//! | `model.rs` | a checked model with license, parameters, renderer |
//! | `params.rs`, `license.rs` | parameters and license, from the keys of the text model |
//! | `documents.rs`, `go_json.rs` | config and manifest, with the bytes of Go's JSON encoder |
//! | `packed.rs` | the report of a packed model |
//! | `modelfile.rs` | the same model as a Modelfile |
//! | `blob.rs`, `store.rs` | blobs by hard link or copy; the store |
//!
//! Source: ollama/ollama v0.33.0 (`types/model`, `manifest`, `server/create.go`, `server/images.go`, `fs/ggml`, `parser`).

mod blob;
mod check;
mod documents;
mod files;
mod go_json;
mod license;
mod model;
mod modelfile;
mod name;
mod packed;
mod params;
mod store;

pub use documents::{OllamaConfig, OllamaDraft, OllamaLayer, OllamaManifest};
pub use files::{OllamaFile, OllamaRole};
pub use model::OllamaModel;
pub(crate) use model::{REQUIRES, REQUIRES_FOR_DRAFTS};
pub use name::OllamaName;
pub use packed::{OllamaPacked, PackedFile};
pub use params::OllamaParams;
pub use store::{OllamaStore, Placement, StoredBlob, StoredModel};
