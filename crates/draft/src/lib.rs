//! Draft models for speculative decoding: extraction from a target model, layer selection, acceptance rate.
//!
//! ```
//! # let folder = testkit::fixtures("checkpoints/31b");
//! # use checkpoint::Checkpoint;
//! # use gemma::ModelSpec;
//! use draft::Extraction;
//! use tensor::TensorSource;
//!
//! # let checkpoint = Checkpoint::open(&folder)?;
//! # let target = ModelSpec::open(&checkpoint)?;
//! // four of the layers of a model as a model of its own
//! let draft = Extraction::new(&target, checkpoint.tensors(), &[0, 1, 3, 5])?;
//! assert_eq!(draft.config.layers(), 4);
//! let weights = draft.source(&checkpoint, quant::Simd::detect()); // the layers are 0 to 3 there
//! assert!(weights.tensors().iter().all(|desc| !desc.name.contains("layers.5.")));
//! # Ok::<(), tensor::Error>(())
//! ```
//!
//! | file | idea |
//! |---|---|
//! | `extraction.rs` | some layers of a model as a model of its own |
//! | `layer_selection.rs` | the layers whose draft agrees best with the target, by measurement |
//! | `agreement.rs` | overlap of two models' predictions along a text |
//! | `rollout.rs` | greedy text of the target, and the number of correct draft tokens along it |
//! | `measure.rs` | overlaps, rollouts and a timed run: the job of `draft measure` |
//! | `report.rs` | acceptance rate and speed-up by burst size: the document of `draft measure --json` |
//!
//! The draft models of the runtime (assistants, and models with a KV cache of their own) are `runtime::Drafter`; the
//! decode loop is in `generate`. Work runs on the caller's rayon pool.

mod agreement;
mod extraction;
mod layer_selection;
mod measure;
mod report;
mod rollout;

pub use agreement::{Overlap, overlaps, own_overlaps};
pub use extraction::{Description, ExtractedWeights, Extraction, check_count, check_layers};
pub use layer_selection::{LayerSelection, choose_layers};
pub use measure::{TokenRoles, measure, measure_work};
pub use report::{Burst, DRAFT_SCHEMA, DraftReport, LONGEST, Measured};
pub use rollout::{Rollout, RolloutOptions, rollout};
