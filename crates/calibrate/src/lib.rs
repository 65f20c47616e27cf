//! What a text says about a model's weights: which columns matter, and how to round them so that errors cancel.
//!
//! - [`importance()`]: Σx² of each column, in llama.cpp's importance files (`collect.rs`; of what is looked up: `table.rs`).
//! - [`ldlq`]: rounding with error feedback, layer after layer, each for what the rounded layers before it give
//!   (`round.rs`, `both.rs`; what a matrix is rounded for: `watch.rs`, `inputs.rs`, `head.rs`; the
//!   matrix: `hessian.rs`, `factor.rs`, `rows.rs`).
//! - [`sensitivity`]: what rounding each tensor alone costs in predictions (`sensitivity.rs`, `roundings.rs`).
//!
//! All stream: hidden states of the whole text, one layer's weights a few rows at a time. The work runs on the caller's
//! rayon pool.

mod capture;
mod fake_quant;
mod gram;
mod imatrix;
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
mod square;
mod tokens;

pub use self::imatrix::importance;
pub use ldlq::{QuantTarget, ldlq, ldlq_passes, supports_ldlq};
pub use resume::{CalibrationStore, RoundedTensors, store_id};
pub use select::{Method, TensorReport};
pub use sensitivity::{sample, sensitivity, sensitivity_id, sensitivity_work};
pub use tokens::CalibrationTokens;
