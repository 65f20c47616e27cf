//! Long texts in parts: which sequences go through a layer together, and what they take between two layers.

use std::ops::Range;

use gemma::Config;

/// Tokens that go through a layer at a time: enough to make the decoding of a weight cheap, few enough for what a layer
/// needs besides.
pub const BATCH_TOKENS: usize = 1024;

/// Runs of sequences, given by their lengths, of at most so many tokens together; a longer one is by itself.
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

/// Bytes of a token between two layers: the hidden state and, for per-layer embeddings, the embedding; K/V that shared
/// layers will read.
pub fn activation_bytes_per_token(config: &Config) -> u64 {
    let streams = if config.ple > 0 { 2 } else { 1 };
    let full_heads = config.full_kv_heads.unwrap_or(config.kv_heads);
    let shared = match config.shared_kv_layers {
        0 => 0,
        _ => 2 * (config.kv_heads * config.head_dim + full_heads * config.full_head_dim),
    };
    4 * (streams * config.hidden + shared)
}
