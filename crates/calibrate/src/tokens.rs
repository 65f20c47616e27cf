//! The text of a calibration.

use std::ops::Range;

use base::Part;
use eval::stream;
use gemma::Config;
use runtime::{Compute, activation_bytes_per_token};

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
        stream::runs(self.sequences, part, (self.memory / activation_bytes_per_token(config)) as usize)
    }
}
