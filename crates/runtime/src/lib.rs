//! What Gemma 4 computes: the text forward pass of every variant, in f32, with plain formulas.
//!
//! Read [`Model::part`] first: it is the model on one page, and each line of it is a file here.
//!
//! | file | idea |
//! |---|---|
//! | `model.rs` | embedding, layers, head: what follows what |
//! | `attention.rs`, `rope.rs`, `cache.rs` | queries against the keys that a layer sees; turning by position; what is kept |
//! | `ffn.rs`, `moe.rs` | the dense feed-forward network; the mixture of experts beside it |
//! | `ple.rs`, `table.rs` | per-layer embeddings (E2B, E4B); their table, read row by row |
//! | `observe.rs` | what goes into each matrix, for calibration |
//! | `draft.rs`, `guesser.rs` | draft models, which guess the next tokens of another; guessing along a sequence |
//! | `norm.rs`, `math.rs` | RMS norm; exp, tanh, gelu |
//! | `weights.rs`, `matmul.rs`, `matrix.rs` | tensors by role, decoded a few rows at a time where they are multiplied |
//! | `batch.rs`, `runs.rs` | sequences between two layers; long texts in parts |
//! | `compute.rs` | vector instructions and kernel, by name |
//! | `product.rs` | products of matrices in memory, over the `gemm` crate |
//! | `matmul/` | the same on AMX tiles, with f32 values as sums of BF16 values |
//!
//! The source of the formulas is `models/gemma4/modeling_gemma4.py` of huggingface/transformers, whose results in
//! f32 this crate reproduces, and `src/models/gemma4.cpp` of ggml-org/llama.cpp for what a GGUF means.
//!
//! The unit of work is one layer over a [`Batch`] of independent sequences: a model that is larger than memory
//! is read once, layer by layer, however many sequences there are.
//!
//! Left out: image and audio input, training, sampling. Where tensors come from and what text the
//! tokens stand for is the caller's business. Work runs on the caller's rayon pool.

mod attention;
mod batch;
mod batching;
mod cache;
mod compute;
mod ffn;
pub mod gemm;
mod hooks;
mod math;
mod matmul;
mod matrix;
mod model;
mod moe;
mod norm;
mod ple;
mod ple_cache;
mod rope;
mod speculative;
mod weights;

pub use attention::QUERIES_AT_A_TIME;
pub use batch::Batch;
pub use batching::{BATCH_TOKENS, activation_bytes_per_token, group_by_tokens};
pub use cache::KvCache;
pub use compute::Compute;
pub use hooks::{Expert, Input, Mixture, Observer};
pub use math::{exp, gelu};
pub use matmul::{Kernel, SCRATCH_BYTES};
pub use matrix::{Matrix, argmax};
pub use model::{LayerPart, Model, Stage};
pub use ple_cache::{PLE_CACHE_BYTES, PleCacheReads};
pub use speculative::{Assistant, AssistantOutput, DraftSession, Drafter, TargetState};
pub use weights::{LayerWeights, Weight, Weights};
