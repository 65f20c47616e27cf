//! Text on its way through a model: as many sequences as the memory holds, layer by layer, so that each weight is read
//! once for all of them.

use std::ops::Range;

use gemma::Config;
use runtime::{Batch, Model};
use tensor::Result;

/// Tokens that go through a layer at a time: enough to make the decoding of a weight cheap, few enough for what a layer
/// needs besides.
const BATCH_TOKENS: usize = 1024;

/// What is read, and how.
pub struct Text<'a> {
    /// Token ids, BOS first, each sequence by itself.
    pub sequences: &'a [Vec<u32>],
    /// Where they are from.
    pub names: Vec<String>,
    /// Bytes for all hidden states between two layers.
    pub memory: u64,
    /// Told how many more tokens have gone through how many layers.
    pub progress: &'a (dyn Fn(u64) + Sync),
}

impl Text<'_> {
    /// All tokens.
    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }

    /// Runs of sequences whose hidden states fit together, or one.
    pub(crate) fn groups(&self, config: &Config) -> Vec<Range<usize>> {
        runs(self.sequences, (self.memory / bytes_of_token(config)) as usize)
    }
}

/// Bytes of a token between two layers: the hidden state and, for per-layer embeddings, the embedding; K/V that shared
/// layers will read.
pub(crate) fn bytes_of_token(config: &Config) -> u64 {
    let streams = if config.ple > 0 { 2 } else { 1 };
    let full_heads = config.full_kv_heads.unwrap_or(config.kv_heads);
    let shared = match config.shared_kv_layers {
        0 => 0,
        _ => 2 * (config.kv_heads * config.head_dim + full_heads * config.full_head_dim),
    };
    4 * (streams * config.hidden + shared)
}

/// Sequences in batches, embedded.
pub(crate) fn batches(model: &Model<'_>, sequences: &[Vec<u32>]) -> Result<Vec<Batch>> {
    let embed = |run: Range<usize>| {
        let tokens: Vec<&[u32]> = sequences[run].iter().map(Vec::as_slice).collect();
        model.embed(&tokens)
    };
    runs(sequences, BATCH_TOKENS).into_iter().map(embed).collect()
}

/// Runs of sequences of at most so many tokens, or one.
fn runs(sequences: &[Vec<u32>], tokens: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut room = 0;
    for (number, sequence) in sequences.iter().enumerate() {
        match runs.last_mut() {
            Some(run) if sequence.len() <= room => run.end += 1,
            _ => {
                runs.push(number..number + 1);
                room = tokens.max(sequence.len());
            }
        }
        room -= sequence.len();
    }
    runs
}
