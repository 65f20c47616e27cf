//! Evaluation: artifacts and their base over a corpus, layer by layer.
//!
//! ```
//! # let folder = testkit::fixtures("checkpoints/e2b");
//! # use checkpoint::Checkpoint;
//! # use gemma::ModelSpec;
//! # use runtime::{Compute, Model, Weights};
//! # use base::Part;
//! use eval::{Base, EvalOptions, SoftTokens, evaluate};
//!
//! # let checkpoint = Checkpoint::open(&folder)?;
//! # let ModelSpec { config, inventory, .. } = ModelSpec::open(&checkpoint)?;
//! # let open = || Model::new(&config, Weights::new(&checkpoint, &inventory, Compute::detect())?);
//! # let (artifact, base) = (open()?, open()?);
//! let sequences = [text::Sequence { tokens: vec![2, 100, 101, 102], scored: vec![2, 3], media: vec![] }];
//! let (part, soft_tokens) = (Part::default(), SoftTokens::default());
//! let options = EvalOptions { memory: 1 << 30, part, soft_tokens, logits: None, progress: &|_| () };
//! let mut results = evaluate(&[&artifact], Some(Base::Model(&base)), &sequences, options)?;
//!
//! let tokens = results.remove(0)?; // of the first artifact
//! assert_eq!(tokens.len(), 2); // one for each scored position
//! assert!(tokens[0].against.unwrap().kld.abs() < 1e-6); // both are the same model here
//! # Ok::<(), tensor::Error>(())
//! ```
//!
//! | file | idea |
//! |---|---|
//! | `stream.rs` | the loop that streams a text through the layers of a model, also for calibration |
//! | `evaluate.rs`, `token.rs` | evaluation of several models on one text; log-likelihood and KL divergence by token |
//! | `log_sum_exp.rs` | sums of exponentials over slices of a row of logits |
//! | `statistics.rs`, `figures.rs` | perplexity, KL divergence, Δp and their intervals; the types of these figures |
//! | `divergent.rs` | the tokens that diverge most, as text |
//! | `invocation.rs` | what a report needs to be repeated |
//! | `logits_file.rs` | llama-perplexity's file of base logits |
//!
//! Work runs on the caller's rayon pool.

mod divergent;
mod evaluate;
mod figures;
mod invocation;
mod log_sum_exp;
mod logits_file;
mod statistics;
pub mod stream;
mod token;

pub use divergent::{DivergentToken, FirstGuess, divergent_tokens};
pub use evaluate::{Base, EvalOptions, SoftTokens, evaluate, mean_divergences, predictions, work};
pub use figures::{Along, DeltaP, Document, EvaluatedText, Kld, ModelInfo, Perplexity};
pub use invocation::{HashedFile, Invocation};
pub use log_sum_exp::{ExpSums, exp_sums};
pub use logits_file::{LogitsFile, LogitsWriter};
pub use statistics::{Figures, summarise};
pub use token::{Against, Guess, Token};
