//! Calibration of the tied head: the Gram matrix H = Σ x·xᵀ of the original model's normalised last hidden states.
//!
//! The head is also the token embedding. A correction for errors of x would be an error of the embedding, so there is none.
//! Error feedback makes the error of each single value a little larger; the head gains more than the embedding loses.

use runtime::{Batch, Model};
use tensor::Result;

use crate::capture::Captured;
use crate::layer_stats::{CapturedPair, LayerStats, RoundingTarget};
use crate::paired_streams::PairedStream;
use eval::stream;

/// The role of the tied embedding.
pub(crate) const ROLE: &str = "token_embd";

/// The statistics to quantize the head with. Runs copies of the batches through all layers of `model`; `done` gets the number
/// of tokens of each batch and layer.
///
/// # Errors
/// `Malformed` for hidden states that are not finite; `Io`.
pub(crate) fn prepare(
    model: &Model<'_>,
    streams: &[PairedStream],
    done: &dyn Fn(u64),
) -> Result<RoundingTarget> {
    let mut batches: Vec<Batch> = streams.iter().map(|stream| stream.original.clone()).collect();
    stream::layers(model, &mut batches, done)?;
    let mut input = LayerStats::new(model.config().hidden as usize, 0);
    for (batch, PairedStream { starts, held_out, .. }) in batches.iter().zip(streams) {
        let seen = Captured::of(model.norm(batch.hidden())?);
        // the same stream twice: no correction
        input.add(0, &CapturedPair { original: &seen, rounded: &seen, starts, held_out: *held_out }, &[]);
        // one batch is enough: validation of all rows of the vocabulary takes long
        if *held_out {
            break;
        }
    }
    Ok(input.prepare(None).without_correction())
}
