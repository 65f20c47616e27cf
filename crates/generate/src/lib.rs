//! Text generation: sampling and speculative decoding, a loop over `runtime`.
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
