//! Adapters (LoRA) of PEFT and mlx-lm, merged into a checkpoint as its rows are read.
//!
//! A merged row has the bits that `merge_and_unload` of PEFT gives it (`delta.rs`). [`Checkpoint::with_adapters`] accounts
//! for every tensor of an adapter: it is used, named in a note as without effect, or an error.
//!
//! [`Checkpoint::with_adapters`]: crate::Checkpoint::with_adapters

pub(crate) mod delta;
mod folder;
mod merge;
mod mlx;
mod part;
mod peft;
mod peft_config;
mod product;

pub use folder::{AdaptedTensor, AdapterFile, AdapterFolder};
pub use merge::{Adapter, MergedAdapter};
pub use product::{Adaptation, LowRankFactors, LowRankProduct};
