//! What `gemma-convert generate` takes. Weights are read from the file where they are multiplied, so they are in the
//! system's page cache and not in the process: the peak of its resident set is the program, the tokenizer, keys and
//! values, and what the largest piece of the prompt needs between layers.
//!
//! The counts follow `crates/runtime`: a prompt goes through in pieces (`Model::forward_last`), keys and values are in
//! `cache.rs`, matrices of a row a token in `attention.rs`, `ffn.rs` and `moe.rs`, rows of the per-layer table in
//! `table.rs`. The allocator keeps what attention has freed while the feed-forward network runs, so the two are added.

use gemma::{Attention, Config, ModelSpec};
use plan::{Artifact, OutputTensor};
use runtime::{PLE_CACHE_BYTES, QUERIES_AT_A_TIME, SCRATCH_BYTES};
use tensor::DType;

use super::{Conditions, entries};

const F32: u64 = 4;

/// Positions that a layer holds when it holds most: a window, before it lets go of what a piece has pushed out.
pub(super) fn cells(config: &Config, attention: Attention, conditions: Conditions) -> u64 {
    let window = config.window.saturating_sub(1).saturating_add(conditions.together());
    match attention {
        Attention::Full => conditions.context,
        Attention::Sliding => conditions.context.min(window),
    }
}

/// Matrices between layers while a piece of the prompt goes through, and rows of the per-layer table.
pub(super) fn working(config: &Config, artifact: &Artifact, conditions: Conditions) -> u64 {
    let tensors = |role: &'static str| artifact.tensors().filter(move |tensor| tensor.role == role);
    let row_bytes = |tensor: &OutputTensor| tensor.desc.row_bytes();
    let table: u64 = tensors("per_layer_token_embd").map(row_bytes).sum();
    let is_bf16 = tensors("ffn_down").any(|tensor| tensor.desc.dtype == DType::BF16);
    let scores = F32 * (QUERIES_AT_A_TIME as u64).min(conditions.together()) * conditions.context;
    // those of the head, and a copy without what may not be said
    let logits = 2 * F32 * config.vocab;
    conditions.together() * F32 * values(config, is_bf16)
        + (PLE_CACHE_BYTES as u64).min(table * conditions.context)
        + conditions.threads * (SCRATCH_BYTES as u64 + scores)
        + logits
}

/// Values a token. Only the last token goes through layers that share K/V.
fn values(config: &Config, is_bf16: bool) -> u64 {
    let owners = || (0..config.layers()).filter(|&layer| !config.shares_kv(layer));
    let queries = owners().map(|layer| config.heads * config.head_dim_of(layer)).max().unwrap_or(0);
    let ffn = owners().map(|layer| config.ffn_of(layer)).max().unwrap_or(0);
    // the stream, and with per-layer embeddings what it was at first
    let stream = if config.ple > 0 { 2 } else { 1 } * config.hidden;
    // what is multiplied with AMX tiles is copied: as three BF16 values for BF16 weights, as two for others
    let halves = if is_bf16 { 3 } else { 2 };
    // the norm of the input, the output, and between them two matrices and a copy
    let attention = 2 * config.hidden + 2 * queries + queries * halves / 2;
    let dense = 2 * config.hidden + 2 * ffn + ffn * halves / 2;
    // the dense network's output, the input and the output of experts, and what some of them give
    let experts = if config.experts.is_some() { 5 * config.hidden } else { 0 };
    stream + attention + dense + experts
}

/// The program and its tokenizer, when the model is open and at most while it is being opened, which takes tables that are
/// let go of. Measured: 7.3 MB, and so many bytes a token or merge.
pub(super) fn process(model: &ModelSpec, is_gguf: bool) -> (u64, u64) {
    let (open, opening) = if is_gguf { (148, 178) } else { (104, 104) };
    let process = |bytes| 7_300_000 + bytes * entries(model);
    (process(open), process(opening))
}
