//! Whether an artifact is what its checkpoint says, and how well.
//!
//! | file | idea |
//! |---|---|
//! | `artifact.rs` | a GGUF or a folder of safetensors, and how each of its tensors is stored |
//! | `manifest.rs` | which entry of which manifest it is of |
//! | `provenance.rs`, `expected.rs` | which recipe the artifact is of; what it should be therefore |
//! | `importance_file.rs` | the importance that steered the rounding, where it is at hand |
//! | `digests.rs` | digests of tensors in the keys of a GGUF |
//! | `structure.rs`, `keys.rs`, `values.rs` | keys and tensors against that; which differences matter; what they are |
//! | `unread.rs` | padding, trailing bytes, keys of later parts |
//! | `folder.rs`, `obeyed.rs` | what a folder of safetensors holds besides; what of it readers obey |
//! | `alone.rs`, `alone_weights.rs` | an artifact without its checkpoint |
//! | `errors.rs`, `limits.rs`, `summary.rs` | weights against those of the base; what is too far; the figures by role |
//! | `reencode.rs`, `reencode/`, `outliers.rs` | bytes against those that the checkpoint gives; rows against the rest of their tensor |
//! | `integers.rs` | tensors of integers |
//! | `diagnose.rs`, `diagnose/` | why a tensor is wrong |
//! | `report.rs` | what is found: the document that everything ends in |
//!
//! Nothing here knows how a report is shown. Work runs on the caller's rayon pool.

mod alone;
mod alone_weights;
mod artifact;
mod diagnose;
mod digests;
mod errors;
mod expected;
mod folder;
mod form;
mod importance_file;
mod integers;
mod keys;
mod limits;
mod manifest;
mod obeyed;
mod outliers;
mod provenance;
mod reencode;
mod report;
mod structure;
mod summary;
mod unread;
mod values;

pub use alone::{is_draft, structure_alone};
pub use alone_weights::{weights_alone, weights_of};
pub use artifact::{Artifact, Stored};
pub use errors::{tensor_errors, weights};
pub use expected::{Expected, ExpectedTensor, Rounding, Values};
pub use folder::Folder;
pub use form::form;
pub use provenance::Provenance;
pub use report::*;
pub use structure::structure;
