//! The forward pass of every Gemma 4 variant, in f32, as plain formulas: the text model, and the towers of images and sounds.
//!
//! ```
//! # let folder = testkit::fixtures("checkpoints/e2b");
//! use checkpoint::Checkpoint;
//! use gemma::ModelSpec;
//! use runtime::{Compute, KvCache, Model, RowMajor, Weights, argmax};
//!
//! let checkpoint = Checkpoint::open(&folder)?;
//! let ModelSpec { config, inventory, .. } = ModelSpec::open(&checkpoint)?;
//! let model = Model::new(&config, Weights::new(&checkpoint, &inventory, Compute::detect())?)?;
//!
//! let hidden = model.forward(&[2, 100, 101], &mut KvCache::new(&config), |_, _| ())?;
//! let logits = model.head(&hidden)?; // one row a token
//! let next = argmax(logits.row_values(2));
//! assert!((next as u64) < config.vocab);
//! # Ok::<(), tensor::Error>(())
//! ```
//!
//! Read [`Model::part`] first: it is the model on one page, and each line of it is a file here.
//!
//! | file | idea |
//! |---|---|
//! | `model.rs` | embedding, layers, head: the forward pass |
//! | `attention.rs`, `rope.rs`, `cache.rs` | attention; rotary position embedding (RoPE); KV cache |
//! | `ffn.rs`, `moe.rs` | the dense feed-forward network; the mixture of experts beside it |
//! | `ple.rs`, `ple_cache.rs` | per-layer embeddings (PLE) of E2B and E4B; LRU cache of rows of their table |
//! | `hooks.rs` | observers of the inputs and outputs of each matrix, for calibration |
//! | `speculative/` | draft models for speculative decoding: assistants, and draft sessions along a sequence |
//! | `norm.rs`, `math.rs`, `sin_cos.rs` | RMS norm; exp, tanh, gelu; sine and cosine |
//! | `weights.rs`, `matmul.rs`, `matrix.rs` | tensors by role; products with weights that are decoded a few rows at a time |
//! | `segments.rs` | a prompt of tokens, images and sounds |
//! | `batch.rs`, `batching.rs` | sequences between two layers; grouping of sequences by token count, activation memory |
//! | `compute.rs` | vector instructions and kernel, by name |
//! | `gemm.rs` | products of matrices in memory, over the `gemm` crate |
//! | `towers/` | images and sounds to soft tokens |
//! | `matmul/` | products on Intel AMX tiles, with f32 values split into BF16 values |
//!
//! The source of the formulas is `models/gemma4/modeling_gemma4.py` of huggingface/transformers, whose results in
//! f32 this crate reproduces, and `src/models/gemma4.cpp` of ggml-org/llama.cpp for what a GGUF means.
//!
//! The unit of work is one layer over a [`Batch`] of independent sequences: a model that is larger than memory
//! is read once, layer by layer, for any number of sequences.
//!
//! Not in this crate: image and sound files, training, sampling, tokenization, file formats. Work runs on the caller's rayon
//! pool.

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
mod segments;
mod sin_cos;
mod speculative;
pub mod towers;
mod weights;

pub use attention::QUERIES_AT_A_TIME;
pub use batch::Batch;
pub use batching::{BATCH_TOKENS, activation_bytes_per_token, group_by_tokens};
pub use cache::KvCache;
pub use compute::Compute;
pub use hooks::{Expert, Input, Mixture, Observer};
pub use math::{exp, gelu};
pub use matmul::{Kernel, SCRATCH_BYTES};
pub use matrix::{Matrix, RowMajor, argmax};
pub use model::{LayerPart, Model, Stage};
pub use ple_cache::{PLE_CACHE_BYTES, PleCacheReads};
pub use segments::{Segment, tokens as segment_tokens};
pub use speculative::{Assistant, AssistantOutput, DraftSession, Drafter, TargetState};
pub use weights::{LayerWeights, Weight, Weights};
