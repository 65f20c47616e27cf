//! The text of a calibration.

use std::ops::Range;

use base::Part;
use eval::stream;
use gemma::Config;
use runtime::{BATCH_TOKENS, Compute, activation_bytes_per_token, group_by_tokens};

/// Token sequences to calibrate with, and the memory for their hidden states.
pub struct CalibrationTokens<'a> {
    /// Token ids, BOS first; each sequence is read from position 0.
    pub sequences: &'a [Vec<u32>],
    /// Names of the files that the text is from.
    pub names: Vec<String>,
    /// Bytes for all hidden states between two layers.
    pub memory: u64,
    /// Arithmetic of the forward passes and of rounding.
    pub compute: Compute,
    /// Gets the number of tokens that have gone through one more layer.
    pub progress: &'a (dyn Fn(u64) + Sync),
}

impl CalibrationTokens<'_> {
    /// Tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }

    /// Tokens of the longest sequence.
    pub fn longest(&self) -> usize {
        self.sequences.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Runs of sequences of one part whose hidden states fit into the memory together. Runs consist of whole batches of the text.
    pub(crate) fn runs(&self, config: &Config, part: Part) -> Vec<Range<usize>> {
        let (batches, lengths) = batches(self.sequences, part);
        let most = self.memory / activation_bytes_per_token(config);
        let runs = group_by_tokens(lengths.iter().map(|&length| length as usize), most as usize);
        runs.into_iter().map(|run| batches[run.start].start..batches[run.end - 1].end).collect()
    }
}

/// Tokens of one part of a text.
pub fn part_tokens(sequences: &[Vec<u32>], part: Part) -> u64 {
    batches(sequences, part).1.iter().sum()
}

/// The batches of one part of a text, with their numbers of tokens. The batches of the whole text are cut into parts, so that each batch has
/// the same sequences for any number of parts.
fn batches(sequences: &[Vec<u32>], part: Part) -> (Vec<Range<usize>>, Vec<u64>) {
    let all = stream::groups(sequences, BATCH_TOKENS);
    let length = |batch: &Range<usize>| sequences[batch.clone()].iter().map(|s| s.len() as u64).sum();
    let lengths: Vec<u64> = all.iter().map(length).collect();
    let units = part.units(&lengths);
    (all[units.clone()].to_vec(), lengths[units].to_vec())
}
