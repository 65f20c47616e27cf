//! Executes a plan: reads each file of the checkpoint once, sequentially, and writes all artifacts.
//!
//! ```
//! # let (folder, home) = (testkit::fixtures("checkpoints/e2b"), tempfile::tempdir().unwrap());
//! # let checkpoint = checkpoint::Checkpoint::open(&folder)?;
//! # let model = gemma::ModelSpec::open(&checkpoint)?;
//! # let recipe = plan::Recipe::from_toml("types.preset = 'q4_0'", "mine")?;
//! # let requests = [plan::Request::new("mine", recipe, "model")];
//! # let plan = plan::plan(&model, &plan::Shards::of(&checkpoint), &requests)?;
//! let options = convert::Options {
//!     folder: home.path().join("out"),
//!     sync: true,
//!     simd: quant::Simd::detect(),
//!     tool: "example".to_owned(),
//!     // and no imatrix, no tensors that are quantized already
//!     # named: None,
//!     # part: None,
//!     # force: false,
//!     # hash_input: convert::HashInput::Always,
//!     # importance: None,
//!     # rounded: Vec::new(),
//!     # groups: Vec::new(),
//!     # depends_on: Vec::new(),
//!     # calibrations: Vec::new(),
//!     # inputs: Vec::new(),
//!     # settings: Vec::new(),
//!     # source: None,
//! };
//! let finished = convert::run(&checkpoint, &plan, &options, &base::Silent)?;
//! assert_eq!(finished.artifacts[0].outputs[0].name, "model.gguf");
//! # Ok::<(), tensor::Error>(())
//! ```
//!
//! Workers take row blocks in input order, encode them for every artifact and write each result at its offset; memory
//! is workers × a block, whatever the model's size. The crate knows nothing of model architectures. An output gets
//! its final name only when it is complete and on disk; hashes are computed in the same pass.
//!
//! A run may be one of several parts (`part.rs`), processes on any machines that write into `parts-ID` (`part_outputs.rs`); [`join`] makes
//! the outputs of it.

mod checksum;
mod digests;
mod encode;
mod fp8_scales;
mod grid_survey;
mod hashed_output;
mod input_hashes;
mod join;
mod lora;
mod manifest;
mod part;
mod part_outputs;
mod pipeline;
mod preflight;
mod publish;
mod reencode;
mod repack_counts;
mod run;
mod schedule;
mod streamed;

pub use grid_survey::survey_grid;
pub use input_hashes::HashInput;
pub use join::{JoinOptions, join};
pub use lora::{LORA_TYPES, lora_bytes, lora_tensors};
pub use manifest::file_entry;
pub use part::{PartSize, TensorGroup, part_sizes};
pub use part_outputs::{CONVERSION, part_folder};
pub use preflight::{check, finished, not_the_source};
pub use publish::publish_named;
pub use reencode::{Buffers, Encoding, Scales, Steps};
pub use run::{Finished, Options, run, run_streamed};
pub use streamed::StreamedFiles;
