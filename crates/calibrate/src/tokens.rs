//! The text of a calibration.

use std::ops::Range;

use eval::stream;
use gemma::Config;
use runtime::Compute;

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

    /// Runs of sequences whose hidden states fit into the memory together.
    pub(crate) fn groups(&self, config: &Config) -> Vec<Range<usize>> {
        stream::groups_in_memory(self.sequences, config, self.memory)
    }
}
