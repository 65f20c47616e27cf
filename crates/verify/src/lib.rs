//! Verification of an artifact: its structure and weights against its checkpoint, and the report.
//!
//! ```
//! # let path = testkit::fixtures("checkpoints/e2b");
//! use checkpoint::Checkpoint;
//! use verify::{Severity, structure_alone};
//!
//! // without the checkpoint that an artifact was made from: its parts against each other
//! let folder = Checkpoint::open(&path)?;
//! let (_, findings) = structure_alone(&folder)?;
//! assert!(findings.iter().all(|finding| finding.severity != Severity::Failure));
//! # Ok::<(), tensor::Error>(())
//! ```
//!
//! | file | idea |
//! |---|---|
//! | `artifact.rs` | a GGUF or a folder of safetensors, and the storage of each tensor |
//! | `manifest.rs` | lookup of the artifact's entry in a manifest |
//! | `provenance.rs`, `expected.rs` | the recipe of the artifact; the keys and tensors that follow from it |
//! | `importance_file.rs` | search for the imatrix of the artifact |
//! | `digests.rs` | digests of tensors in the keys of a GGUF |
//! | `structure.rs`, `keys.rs`, `values.rs` | comparison of keys and tensors; severities; differences in words |
//! | `unread.rs` | parts that llama.cpp does not read: padding, trailing bytes, keys of later parts |
//! | `folder.rs`, `obeyed.rs` | other contents of a folder of safetensors; the files that readers obey |
//! | `alone.rs`, `alone_weights.rs` | checks without a checkpoint |
//! | `errors.rs`, `row_errors.rs`, `sums.rs`, `limits.rs`, `summary.rs` | error of each weight; limits by type; figures by role |
//! | `reencode.rs`, `reencode/`, `outliers.rs` | comparison of bytes with a second quantization; outlier rows |
//! | `features.rs` | soft tokens of images and sounds in both |
//! | `integers.rs` | tensors of integers |
//! | `bundle.rs` | the constants of a bundle of LiteRT-LM |
//! | `diagnose.rs`, `diagnose/` | causes of wrong tensors |
//! | `pair.rs` | whether a text model and an mmproj file are of one checkpoint |
//! | `usual.rs` | the usual error of each type |
//! | `contents.rs` | the files of a folder against its manifests |
//! | `report.rs`, `set_report.rs` | the report documents, of an artifact and of a set |
//!
//! Presentation of reports is left to the crate `report`. Work runs on the caller's rayon pool.

mod alone;
mod alone_weights;
mod artifact;
mod bundle;
mod contents;
mod diagnose;
mod digests;
mod errors;
mod expected;
mod features;
mod folder;
mod form;
mod importance_file;
mod integers;
mod keys;
mod limits;
mod manifest;
mod obeyed;
mod outliers;
mod pair;
mod provenance;
mod reencode;
mod report;
mod row_errors;
mod set_report;
mod structure;
mod summary;
mod sums;
mod unread;
mod usual;
mod values;

pub use alone::{is_draft, structure_alone};
pub use alone_weights::{weights_alone, weights_of};
pub use artifact::{Artifact, Stored, is_mmproj};
pub use bundle::{bundle_file, bundle_weights, of_bundle};
pub use contents::contents;
pub use errors::{TensorComparison, tensor_errors};
pub use expected::{Expected, ExpectedTensor, Rounding, Values};
pub use features::{FeatureErrors, StageError, StageErrors};
pub use folder::Folder;
pub use form::form;
pub use importance_file::recorded_importance;
pub use pair::differing_weights;
pub use provenance::Provenance;
pub use report::*;
pub use row_errors::RowErrors;
pub use set_report::{SetReport, Unverified};
pub use structure::structure;
pub use usual::usual_error;
