//! A Hugging Face model folder: `config.json`, tokenizer, chat template, model card and safetensors shards.
//!
//! ```
//! # let folder = testkit::fixtures("checkpoints/e2b");
//! use checkpoint::Checkpoint;
//! use tensor::TensorSource;
//!
//! let checkpoint = Checkpoint::open(&folder)?;
//! assert_eq!(checkpoint.config()["model_type"], "gemma4");
//!
//! let desc = &checkpoint.tensors()[0];
//! let mut row = vec![0; desc.row_bytes() as usize];
//! checkpoint.read_rows(0, 0, &mut row)?;
//! # Ok::<(), tensor::Error>(())
//! ```
//!
//! [`Checkpoint::open`] reads and checks the headers of all shards, but no weights; rows are read on demand from their
//! position in the file. [`SafetensorsWriter`] writes one safetensors file, row by row.
//!
//! Weights that are quantised already are presented as the values they encode (`float8.rs`: FP8 of compressed-tensors and
//! our SFP8; `quantised.rs`: the kinds of other programs), and layouts saved by other programs in the layout of
//! transformers (`view.rs`).
//!
//! Adapters (LoRA) are merged into the rows as they are read: [`Checkpoint::with_adapters`].
//!
//! A GGUF can take the place of a folder: [`Checkpoint::open_gguf`].
//!
//! [`Sbs`] lists the contents of gemma.cpp's container. The crate knows no model and no other container (PyTorch's
//! `.bin` is refused with advice). It does not interpret the values of `config.json`: callers get the raw JSON.

mod adapter;
mod card;
mod channels;
mod experts;
mod files;
mod fingerprint;
mod float8;
mod folder;
mod from_gguf;
mod header;
mod inputs;
mod names;
mod open;
mod pieces;
mod quantised;
mod recorded;
mod round;
mod sbs;
mod shards;
mod table;
mod tables;
mod template;
mod tokenizer;
mod view;
mod writer;

pub use adapter::{
    Adaptation, AdaptedTensor, Adapter, AdapterFile, AdapterFolder, LowRankFactors, LowRankProduct,
    MergedAdapter,
};
pub use card::ModelCard;
pub use float8::{Scale, StoredEncoding, decode, is_fp8, multiply};
pub use folder::absent;
pub use from_gguf::adapter_into_gguf;
pub use inputs::Companion;
pub use open::{Checkpoint, Location, SET, Shard};
pub use pieces::{PackedRows, Piece};
pub use quantised::is_read_on_open;
pub use sbs::{Sbs, SbsBlob, SbsTensor, is_sbs};
pub use template::ChatTemplates;
pub use tokenizer::{AddedToken, TokenizerFile};
pub use view::{Note, Topic};
pub use writer::{SafetensorsLayout, SafetensorsWriter};
