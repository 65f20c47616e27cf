//! Text generation: sampling and speculative decoding, a loop over `runtime`.
//!
//! ```
//! # let folder = testkit::fixtures("checkpoints/e2b");
//! # use checkpoint::Checkpoint;
//! # use gemma::ModelSpec;
//! # use runtime::{Compute, Model, Weights};
//! use runtime::Segment;
//! use generate::{Sampler, Sampling, TokenStream};
//!
//! # let checkpoint = Checkpoint::open(&folder)?;
//! # let ModelSpec { config, inventory, .. } = ModelSpec::open(&checkpoint)?;
//! # let model = Model::new(&config, Weights::new(&checkpoint, &inventory, Compute::detect())?)?;
//! let greedy = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };
//! let mut sampler = Sampler::new(greedy);
//! let mut stream = TokenStream::alone(&model, &[], &[Segment::Tokens(&[2, 100, 101])]);
//! for left in (1..=3).rev() {
//!     println!("{}", stream.next_token(left, &mut sampler)?);
//! }
//! # Ok::<(), tensor::Error>(())
//! ```
//!
//! | file | idea |
//! |---|---|
//! | `sampling.rs` | greedy choice, top-k, top-p, min-p, temperature; tokens for a seed are the same on every machine |
//! | `speculative.rs` | draft tokens, rejection sampling |
//! | `decode.rs` | the next token, with or without a draft model |

mod decode;
mod sampling;
mod speculative;

pub use decode::{AloneDecoder, TokenStream, mask_suppressed};
pub use sampling::{Sampler, Sampling};
pub use speculative::{DraftCounts, SpeculativeDecoder};
