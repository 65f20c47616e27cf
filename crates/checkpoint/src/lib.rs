//! A Hugging Face model folder: `config.json`, tokenizer, chat template, model card and safetensors shards.
//!
//! [`Checkpoint::open`] reads and checks the headers of all shards, and nothing of the weights; rows are then
//! read where they lie. [`SafetensorsWriter`] writes one safetensors file, row by row.
//!
//! Weights stored as 8-bit floats (FP8 of compressed-tensors, our SFP8) are presented as the numbers they stand for, and the
//! forms in which other programs save a model as the form in which transformers saves it (`view.rs`).
//!
//! Of gemma.cpp's container [`Sbs`] lists what is in it. Knows no model and no other container (PyTorch's `.bin` is refused with advice). What the values of
//! `config.json` mean is the business of the caller, so it is handed out raw.

mod card;
mod experts;
mod files;
mod float8;
mod folder;
mod header;
mod inputs;
mod names;
mod open;
mod pieces;
mod quantised;
mod sbs;
mod shards;
mod table;
mod tables;
mod template;
mod tokenizer;
mod view;
mod writer;

pub use card::ModelCard;
pub use float8::{Scale, StoredEncoding, decode, is_fp8, multiply};
pub use folder::absent;
pub use inputs::Companion;
pub use open::{Checkpoint, Location, SET, Shard};
pub use pieces::Piece;
pub use sbs::{Sbs, SbsBlob, SbsTensor, is_sbs};
pub use template::ChatTemplates;
pub use tokenizer::{AddedToken, TokenizerFile};
pub use view::{Note, Topic};
pub use writer::{SafetensorsLayout, SafetensorsWriter};
