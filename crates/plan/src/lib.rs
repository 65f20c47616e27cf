//! Planning: a recipe and a model become a [`Plan`] that lists every output tensor with its input, type, file and
//! offset.
//!
//! ```
//! # let folder = testkit::fixtures("checkpoints/e2b");
//! use checkpoint::Checkpoint;
//! use gemma::ModelSpec;
//! use plan::{Recipe, Request, Shards, plan};
//!
//! let checkpoint = Checkpoint::open(&folder)?;
//! let model = ModelSpec::open(&checkpoint)?;
//! let recipe = Recipe::from_toml("types.preset = 'q4_0'", "mine")?;
//! let planned = plan(&model, &Shards::of(&checkpoint), &[Request::new("mine", recipe, "model")])?;
//!
//! let mut tensors = planned.artifacts[0].tensors();
//! let query = tensors.find(|tensor| tensor.desc.name == "blk.0.attn_q.weight").unwrap();
//! assert_eq!(query.desc.dtype, tensor::DType::Q4_0);
//! # Ok::<(), tensor::Error>(())
//! ```
//!
//! Planning does no I/O; a plan can be printed, compared and digested, and the crate `convert` executes it. The rules
//! for types are data: `formats/gguf-presets.toml`, `formats/safetensors-schemes.toml`, `formats/offload.toml` and
//! the recipes.

mod artifact;
mod budget;
mod bundle_recipe;
mod byte_size;
mod calibration;
mod companions;
mod copy;
mod device_map;
mod digests;
mod embedded;
mod gguf;
mod grid;
mod imatrix;
mod manifest;
mod masked_embedding;
mod mmproj;
mod mmproj_of_gguf;
mod names;
mod offload;
mod output;
mod presets;
mod recipe;
mod release;
mod request;
mod rules;
mod safetensors;
mod schema;
mod schemes;
mod sensitivity;
mod serde_dtype;
mod similar;
mod stock;

pub use self::gguf::CALIBRATION;
pub use self::imatrix::{GivenImportance, ImportanceKeys, ImportanceSource, column_weights};
pub use artifact::{
    Artifact, DraftTarget, Dropped, InputFile, Origin, OutputTensor, Pieces, Plan, PlannedFile, StoredChange,
    StoredPiece, StoredScale, StoredTensor,
};
pub use budget::{Allocation, Budget, allocate, check_budget};
pub use bundle_recipe::{BundleRecipe, BundleRecipeTypes, IntegerRule, IntegerType, ScaleRule};
pub use byte_size::byte_size;
pub use calibration::{Calibration, CalibrationMethod};
pub use companions::is_companion;
pub use copy::{Parts, copy};
pub use device_map::device_map;
pub use digests::{TENSOR_DIGESTS, digest_of_entry, with_digests, without_digests};
pub use grid::{GridPolicy, Lattice, to_survey};
pub use manifest::{
    AdapterEntry, ArtifactEntry, CalibrationEntry, FileEntry, FileRange, HubSource, MANIFEST_SUFFIX,
    MAX_MANIFEST, Manifest, PartHost, RepackedTensor, VerifiedBy,
};
pub use mmproj::tower_tensors;
pub use mmproj_of_gguf::plan_mmproj;
pub use names::stem;
pub use offload::Offloaded;
pub use output::{Format, Output};
pub use presets::{Preset, preset_names};
pub use recipe::{
    DraftRecipe, Gelu, MaskedEmbedding, Mmproj, Recipe, Thresholds, TypeRule, Types, UnusedKv, Via,
};
pub use release::{ReleaseDraft, ReleaseNames, ReleaseRecipe, ReleaseText, release_name, release_stem};
pub use request::{Request, Shards, plan};
pub use safetensors::{OFFLOAD, OTHER};
pub use schemes::{Scheme, scheme_names};
pub use sensitivity::{MEASURED_TYPES, Sensitivity, TensorCost};
pub use stock::plan_stock;
