//! What a text says about a model's weights: which columns matter, and how to round them so that errors cancel.
//!
//! - [`importance()`]: Σx² of each column, in llama.cpp's importance files (`collect.rs`; of what is looked up: `table.rs`).
//! - [`round`]: rounding with error feedback, layer after layer, each for what the rounded layers before it give
//!   (`round.rs`, `both.rs`; what a matrix is rounded for: `watch.rs`, `inputs.rs`, `head.rs`; the
//!   matrix: `hessian.rs`, `factor.rs`, `rows.rs`).
//! - [`sensitivity`]: what rounding each tensor alone costs in predictions (`sensitivity.rs`, `roundings.rs`).
//!
//! All stream: hidden states of the whole text, one layer's weights a few rows at a time. The work runs on the caller's
//! rayon pool.

mod both;
mod chosen;
mod collect;
mod factor;
mod head;
mod hessian;
mod inputs;
mod overlay;
mod round;
mod roundings;
mod rows;
mod sensitivity;
mod square;
mod store;
mod table;
mod tokens;
mod watch;

pub use chosen::{Method, TensorReport};
pub use collect::importance;
pub use round::{Target, passes, round, rounds};
pub use sensitivity::{sample, sensitivity, sensitivity_id, sensitivity_work};
pub use store::{RoundedTensors, Store, id};
pub use tokens::CalibrationTokens;
