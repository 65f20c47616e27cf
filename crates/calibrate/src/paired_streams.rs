//! Paired activation streams: the text goes through the original model and through the model with the quantized prefix.

use runtime::{Batch, Model};
use tensor::Result;

use eval::stream;

/// Every n-th sequence is held out for validation.
const HELD_OUT: usize = 8;
/// The most tokens that are held out: enough to compare two quantizations of a matrix.
const HELD_OUT_TOKENS: usize = 2048;

/// The hidden states of one batch in both models.
pub(crate) struct PairedStream {
    pub(crate) original: Batch,
    pub(crate) rounded: Batch,
    /// Rows of the first tokens of the sequences.
    pub(crate) starts: Vec<usize>,
    pub(crate) held_out: bool,
}

impl PairedStream {
    pub(crate) fn new((original, held_out): (Batch, bool)) -> PairedStream {
        let starts = original.sequences().map(|rows| rows.start).collect();
        PairedStream { starts, rounded: original.clone(), original, held_out }
    }

    /// Lets the quantized prefix be that of the original model.
    pub(crate) fn begin_anew(&mut self) {
        self.rounded = self.original.clone();
    }
}

/// The embedded batches of the text, calibration batches first, then held-out ones (flag `true`).
pub(crate) fn embed(model: &Model<'_>, sequences: &[Vec<u32>]) -> Result<Vec<(Batch, bool)>> {
    let (training, held_out) = split(sequences);
    let [training, held_out] = [training, held_out].map(|sequences| stream::embed(model, &sequences));
    let flagged = |held_out| move |batch| (batch, held_out);
    Ok(training?.into_iter().map(flagged(false)).chain(held_out?.into_iter().map(flagged(true))).collect())
}

/// Calibration sequences and held-out sequences.
fn split(sequences: &[Vec<u32>]) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    let (mut training, mut held_out) = (Vec::new(), Vec::new());
    let mut tokens = 0;
    for (number, sequence) in sequences.iter().enumerate() {
        let last = number + 1 == sequences.len() && held_out.is_empty();
        if (number % HELD_OUT == HELD_OUT - 1 && tokens < HELD_OUT_TOKENS) || last {
            tokens += sequence.len();
            held_out.push(sequence.clone());
        } else {
            training.push(sequence.clone());
        }
    }
    (training, held_out)
}
