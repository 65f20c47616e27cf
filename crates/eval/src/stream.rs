//! Text on its way through a model: as many sequences as the memory holds, layer by layer, so that each weight is read
//! once for all of them.

use std::ops::Range;

use gemma::Config;
use runtime::{BATCH_TOKENS, Batch, Model, bytes_of_token, runs};
use tensor::Result;

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
        groups(self.sequences, (self.memory / bytes_of_token(config)) as usize)
    }
}

/// Sequences in batches, embedded.
pub(crate) fn batches(model: &Model<'_>, sequences: &[Vec<u32>]) -> Result<Vec<Batch>> {
    let embed = |run: Range<usize>| {
        let tokens: Vec<&[u32]> = sequences[run].iter().map(Vec::as_slice).collect();
        model.embed(&tokens)
    };
    groups(sequences, BATCH_TOKENS).into_iter().map(embed).collect()
}

/// Batches through one layer; `done` is told the tokens of each.
pub(crate) fn pass(model: &Model<'_>, layer: usize, batches: &mut [Batch], done: &dyn Fn(u64)) -> Result<()> {
    batches.iter_mut().try_for_each(|batch| {
        model.layer(layer, batch)?;
        done(batch.hidden().rows() as u64);
        Ok(())
    })
}

/// Batches through all layers.
pub(crate) fn through(model: &Model<'_>, batches: &mut [Batch], done: &dyn Fn(u64)) -> Result<()> {
    (0..model.config().layers()).try_for_each(|layer| pass(model, layer, batches, done))
}

fn groups(sequences: &[Vec<u32>], tokens: usize) -> Vec<Range<usize>> {
    runs(sequences.iter().map(Vec::len), tokens)
}
