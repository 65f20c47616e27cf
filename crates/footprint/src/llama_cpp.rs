//! Memory of llama.cpp, version b0.3.36 (ggml-org/llama.cpp): one sequence, a CPU, flash attention `auto`.
//!
//! KV cells: `llama_context::llama_context` (src/llama-context.cpp) rounds the context up, `llama_kv_cache_iswa`
//! (src/llama-kv-cache-iswa.cpp) gives sliding layers a window and a batch. KV-shared layers have none
//! (`n_layer_kv_from_start`), and all others have keys and values, even if both come from one projection.
//!
//! The compute buffer depends on llama.cpp's graph allocator. The formula here is a fit to the output of llama-server
//! for the five published sizes, within a tenth. Tools that may need the logits of a whole batch (llama-completion,
//! llama-perplexity) reserve, and print, 512 MiB for those; the part that they do not use is never touched. K/V in
//! f32 make the buffer larger.

use gemma::{Attention, Config, ModelSpec};

use super::{Conditions, entries};

/// Contexts, and the cells of sliding layers, are multiples of this.
const PAD: u64 = 256;

const F32: u64 = 4;

/// KV cells of a layer with its own K/V.
pub(super) fn cells(config: &Config, attention: Attention, conditions: Conditions) -> u64 {
    let context = conditions.context.next_multiple_of(PAD);
    match attention {
        Attention::Full => context,
        Attention::Sliding => {
            context.min(config.window.saturating_add(conditions.together())).next_multiple_of(PAD)
        }
    }
}

/// Bytes of the compute buffer, and of the logits of one token.
pub(super) fn working(config: &Config, conditions: Conditions) -> u64 {
    let ffn = (0..config.layers()).map(|layer| config.ffn_of(layer)).max().unwrap_or(0);
    let per_layer = config.layers() as u64 * config.ple;
    let experts = config.experts.and(config.experts_used).unwrap_or(0);
    let experts = experts * (3 * config.expert_ffn.unwrap_or(0) + config.hidden);
    let matrices = F32 * (4 * ffn + config.hidden + per_layer + experts);
    // a mask for each kind of layer, in f16
    let masks: u64 = [Attention::Sliding, Attention::Full]
        .into_iter()
        .filter(|kind| config.attention.contains(kind))
        .map(|kind| 2 * cells(config, kind, conditions))
        .sum();
    conditions.together() * (matrices + masks) + F32 * config.vocab
}

/// Bytes of the program and its tokenizer, as measured with `llama-tokenize`: 10 MB, and 155 per token or merge.
pub(super) fn process(model: &ModelSpec) -> u64 {
    10_000_000 + 155 * entries(model)
}
