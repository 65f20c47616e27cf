//! Calibration: statistics of a model's activations on a text, and quantization that uses them.
//!
//! ```
//! # let folder = testkit::fixtures("checkpoints/e2b");
//! # use checkpoint::Checkpoint;
//! # use gemma::ModelSpec;
//! # use runtime::{Compute, Model, Weights};
//! use calibrate::{CalibrationTokens, importance};
//!
//! # let checkpoint = Checkpoint::open(&folder)?;
//! # let ModelSpec { config, inventory, .. } = ModelSpec::open(&checkpoint)?;
//! # let compute = Compute::detect();
//! # let model = Model::new(&config, Weights::new(&checkpoint, &inventory, compute)?)?;
//! let text = CalibrationTokens {
//!     sequences: &[vec![2, 100, 101, 102]],
//!     names: vec!["calib.txt".to_owned()],
//!     memory: 1 << 30,
//!     compute,
//!     progress: &|_| (),
//! };
//! let imatrix = importance(&model, &inventory, &text)?;
//! assert_eq!(imatrix.get("blk.0.attn_q.weight").unwrap().counts(), [4]);
//! # Ok::<(), tensor::Error>(())
//! ```
//!
//! - [`importance()`]: the importance matrix (imatrix), Σx² of each input column (`imatrix.rs`; of the per-layer embedding
//!   table: `ple_imatrix.rs`; exact sums: `square_sums.rs`; those of a part of the text: `importance_sums.rs`).
//! - [`ldlq()`]: quantization with error feedback (LDLQ, the method of GPTQ), layer after layer, each on the activations of the
//!   quantized layers before it (`ldlq.rs`, `paired_streams.rs`; activations: `capture.rs`; Gram matrices and corrections:
//!   `layer_stats.rs`, `gram.rs`, `lm_head.rs`; LDL factorisation: `ldl.rs`; one matrix: `quantize_matrix.rs`, `select.rs`;
//!   resuming: `resume.rs`; groups of layers that are independent of each other: `groups.rs`).
//! - [`sensitivity()`]: the KL divergence that quantizing each tensor alone causes (`sensitivity.rs`, `fake_quant.rs`).
//!
//! All of them work layer by layer: the hidden states of the whole text are in memory, and of the weights a few rows of one
//! layer. Work runs on the caller's rayon pool.

mod capture;
mod fake_quant;
mod gram;
mod groups;
mod imatrix;
mod importance_sums;
mod layer_stats;
mod ldl;
mod ldlq;
mod lm_head;
mod overlay;
mod paired_streams;
mod ple_imatrix;
mod quantize_matrix;
mod resume;
mod select;
mod sensitivity;
mod square_sums;
mod tokens;

pub use self::imatrix::{importance, importance_sums};
pub use groups::{LayerGroup, layer_groups};
pub use importance_sums::ImportanceSums;
pub use ldlq::{QuantTarget, ldlq, ldlq_memory, ldlq_passes, supports_ldlq};
pub use resume::{CalibrationStore, RoundedTensors, store_id};
pub use select::{Method, TensorReport};
pub use sensitivity::{sample, sensitivity, sensitivity_id, sensitivity_work};
pub use tokens::CalibrationTokens;
