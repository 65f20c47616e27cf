//! From a recipe and a model to a plan: every output tensor, its input, type, file and offset.
//!
//! Planning reads nothing and writes nothing; a plan can be printed, compared and digested. `convert`
//! executes it. Where a type comes from is data: `formats/gguf-presets.toml`, `formats/safetensors-schemes.toml`,
//! `formats/offload.toml` and the recipes.

mod budget;
mod build;
mod calibration;
mod companions;
mod device_map;
mod digests;
mod draft;
mod lattice;
mod manifest;
mod names;
mod offload;
mod output;
mod presets;
mod recipe;
mod rules;
mod safetensors;
#[cfg(feature = "schema")]
mod schema;
mod schemes;
mod sensitivity;
mod similar;
mod size;
mod steering;
mod type_names;
mod types;
mod with_draft;

pub use budget::{Allocation, Budget, allocate, check_budget};
pub use build::{CALIBRATION, Request, Shards, plan};
pub use calibration::{Calibration, CalibrationMethod};
pub use companions::is_companion;
pub use device_map::device_map;
pub use digests::{TENSOR_DIGESTS, digest_of_entry, with_digests};
pub use lattice::{Lattice, to_survey};
pub use manifest::{
    ArtifactEntry, CalibrationEntry, FileEntry, MANIFEST_SUFFIX, MAX_MANIFEST, Manifest, Repacked,
};
pub use names::stem;
pub use offload::Offloaded;
pub use output::{Format, Output};
pub use presets::{Preset, preset_names};
pub use recipe::{MaskedEmbedding, Recipe, Thresholds, TypeRule, Types, UnusedKv, Via};
pub use safetensors::{OFFLOAD, OTHER};
pub use schemes::{Scheme, scheme_names};
pub use sensitivity::{Cost, Sensitivity, TYPES};
pub use size::byte_size;
pub use steering::{Given, ImportanceKeys, ImportanceSource};
pub use types::{
    Artifact, Dropped, InputFile, Origin, OutputFile, OutputTensor, Pieces, Plan, Stored, StoredPiece,
    StoredScale, Target, hex,
};
pub use with_draft::WithDraft;
