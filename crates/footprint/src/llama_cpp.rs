//! llama.cpp's rules, of version b0.3.36 (ggml-org/llama.cpp): one sequence, a processor, flash attention `auto`.
//!
//! Cells: `llama_context::llama_context` (src/llama-context.cpp) rounds the context up, `llama_kv_cache_iswa` (src/
//! llama-kv-cache-iswa.cpp) gives sliding layers a window and a batch. Layers that share K/V have none
//! (`n_layer_kv_from_start`), and the others have keys and values, also where both are one projection.
//!
//! Its compute buffer is what its allocator makes of a graph. The formula here is a fit to what llama-server prints for
//! the five published sizes, within a tenth. Tools that may ask for the logits of a whole batch (llama-completion,
//! llama-perplexity) reserve, and print, 512 MiB for those; what they do not ask for is never touched. K/V in f32 make it
//! larger.

use gemma::{Attention, Config, ModelSpec};

use super::{Conditions, entries};

/// Contexts, and the cells of sliding layers, are whole multiples of this.
const PAD: u64 = 256;

const F32: u64 = 4;

/// Cells of a layer with K/V of its own.
pub(super) fn cells(config: &Config, attention: Attention, conditions: Conditions) -> u64 {
    let context = conditions.context.next_multiple_of(PAD);
    match attention {
        Attention::Full => context,
        Attention::Sliding => {
            context.min(config.window.saturating_add(conditions.together())).next_multiple_of(PAD)
        }
    }
}

/// The compute buffer, and the logits of one token.
pub(super) fn working(config: &Config, conditions: Conditions) -> u64 {
    let ffn = (0..config.layers()).map(|layer| config.ffn_of(layer)).max().unwrap_or(0);
    let per_layer = config.layers() as u64 * config.ple;
    let experts = config.experts.and(config.experts_used).unwrap_or(0);
    let experts = experts * (3 * config.expert_ffn.unwrap_or(0) + config.hidden);
    let matrices = F32 * (4 * ffn + config.hidden + per_layer + experts);
    // a mask a kind of layer, in f16
    let masks: u64 = [Attention::Sliding, Attention::Full]
        .into_iter()
        .filter(|kind| config.attention.contains(kind))
        .map(|kind| 2 * cells(config, kind, conditions))
        .sum();
    conditions.together() * (matrices + masks) + F32 * config.vocab
}

/// The program and its tokenizer, as `llama-tokenize` takes them: 10 MB, and 155 bytes a token or merge.
pub(super) fn process(model: &ModelSpec) -> u64 {
    10_000_000 + 155 * entries(model)
}
