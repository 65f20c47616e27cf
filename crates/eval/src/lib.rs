//! Evaluation: two models over a corpus, layer by layer.
//!
//! | file | idea |
//! |---|---|
//! | `stream.rs` | the one loop that takes a text through the layers of a model; calibration uses it too |
//! | `evaluate.rs`, `token.rs` | two models over one text; negative log-likelihood and KL divergence of a token |
//! | `log_sum_exp.rs` | sums of exponentials over pieces of a row of logits |
//! | `statistics.rs`, `figures.rs` | perplexity, KL divergence, Δp and their intervals; the structures that hold them |
//! | `logits_file.rs` | llama-perplexity's file of base logits |
//!
//! Work runs on the caller's rayon pool.

mod evaluate;
mod figures;
mod log_sum_exp;
mod logits_file;
mod statistics;
pub mod stream;
mod token;

pub use evaluate::{Base, EvalOptions, evaluate, mean_divergences, predictions, work};
pub use figures::{Along, DeltaP, Document, EvaluatedText, Kld, ModelInfo, Perplexity};
pub use log_sum_exp::{ExpSums, exp_sums};
pub use logits_file::{LogitsFile, LogitsWriter};
pub use statistics::{Figures, summarise};
pub use token::{Against, Token};
