//! Batching by token count, and the activation memory of a token.

use std::ops::Range;

use gemma::Config;

/// Tokens in a batch: enough to amortise the decoding of weights, few enough for the buffers of a layer.
pub const BATCH_TOKENS: usize = 1024;

/// Groups consecutive sequences, given by their lengths, into ranges of at most `tokens` tokens. A longer sequence is a group
/// by itself.
pub fn group_by_tokens(lengths: impl IntoIterator<Item = usize>, tokens: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut room = 0;
    for (number, length) in lengths.into_iter().enumerate() {
        match runs.last_mut() {
            Some(run) if length <= room => run.end += 1,
            _ => {
                runs.push(number..number + 1);
                room = tokens.max(length);
            }
        }
        room -= length;
    }
    runs
}

/// Activation memory of a token between two layers, in bytes: the hidden state; the embedding, for models with per-layer
/// embeddings; keys and values for layers with KV sharing.
pub fn activation_bytes_per_token(config: &Config) -> u64 {
    let streams = if config.ple > 0 { 2 } else { 1 };
    let full_heads = config.full_kv_heads.unwrap_or(config.kv_heads);
    let shared = match config.shared_kv_layers {
        0 => 0,
        _ => 2 * (config.kv_heads * config.head_dim + full_heads * config.full_head_dim),
    };
    4 * (streams * config.hidden + shared)
}
