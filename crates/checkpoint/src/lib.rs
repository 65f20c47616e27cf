//! A Hugging Face model folder: `config.json`, tokenizer, chat template, model card and safetensors shards.
//!
//! [`Checkpoint::open`] reads and checks the headers of all shards, and nothing of the weights; rows are then
//! read where they lie. [`SafetensorsWriter`] writes one safetensors file, row by row.
//!
//! Knows no model and no other container (PyTorch's `.bin` is refused with advice). What the values of
//! `config.json` mean is the business of the caller, so it is handed out raw.

mod card;
mod files;
mod header;
mod layout;
mod open;
mod template;
mod tokenizer;
mod writer;

pub use card::ModelCard;
pub use open::{Checkpoint, Location, Shard};
pub use template::ChatTemplates;
pub use tokenizer::{AddedToken, Tokenizer};
pub use writer::SafetensorsWriter;
