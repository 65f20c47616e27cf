//! Knowledge about Gemma 4: its variants, the role of each tensor, the names and keys of its GGUF files.
//!
//! ```
//! # let folder = testkit::fixtures("checkpoints/e2b");
//! use checkpoint::Checkpoint;
//! use gemma::ModelSpec;
//!
//! let model = ModelSpec::open(&Checkpoint::open(&folder)?)?;
//! assert_eq!(model.config.layers(), 8);
//!
//! let mut slots = model.inventory.text.iter().map(|found| &found.slot);
//! let query = slots.find(|slot| slot.gguf == "blk.0.attn_q.weight").unwrap();
//! assert_eq!((query.role, query.layer), ("attn_q", Some(0)));
//! # Ok::<(), tensor::Error>(())
//! ```
//!
//! Everything that can be a table is one, in `formats/`: names and shapes of tensors, keys in their order, token
//! types, named sizes. The code here fills the tables with the values of `config.json` and of the tokenizer.
//! Container formats are in `gguf` and `checkpoint`, the choice of types in `plan`.

mod adapter;
mod card;
mod chat;
mod config;
mod draft;
mod formats;
mod from_gguf;
mod head;
mod hub_name;
mod inventory;
mod keys;
mod llama_cpp;
mod model;
mod model_of_gguf;
mod ollama;
mod processor;
mod sampling;
mod special_tokens;
pub mod towers;
mod variant;
mod vocabulary;

pub use adapter::{AdapterInventory, AdapterPair, adapter_metadata, is_adapter};
pub use card::FIELDS as METADATA_FIELDS;
pub use config::dialects::both_dialects;
pub use config::{Attention, Config, ModelKind, Rope};
pub use draft::{DraftConfig, Ordered, is_assistant, same_tokens};
pub use formats::TypePolicy;
pub use from_gguf::{ROPE_FREQS, gguf_inventory};
pub use hub_name::title as hub_title;
pub use inventory::{Exclusion, Found, Inventory, Slot, inventory, is_role};
pub use keys::{
    KeySources, MmprojSources, Parameters, is_known_key, is_known_mmproj_key, metadata, metadata_of_gguf,
    metadata_of_layers, mmproj_metadata, mmproj_metadata_of_gguf, value_type,
};
pub use llama_cpp::KV_OWNERS;
pub use model::ModelSpec;
pub use model_of_gguf::is_mmproj;
pub use ollama::{Stock, StockFile, StockTensor, is_ollama};
pub use processor::Normalisation;
pub use variant::{Departure, variant_names};
pub use vocabulary::Vocabulary;

/// The `model_type` that transformers saves for an architecture of this family.
pub fn model_type(architecture: &str) -> Option<&'static str> {
    formats::defaults().model_type.get(architecture).map(String::as_str)
}
