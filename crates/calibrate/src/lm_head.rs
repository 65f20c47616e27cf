//! What the head is rounded for: H = Σ x·xᵀ of what the layers of the original give, normalised.
//!
//! The head is the embedding too. What would be made up for in one use, errors of x say, would be an error in the other:
//! so nothing is. That errors of rounding are fed back makes each value's a little larger, which costs the embedding less than
//! the head gains.

use runtime::{Batch, Model};
use tensor::Result;

use crate::capture::Captured;
use crate::layer_stats::{CapturedPair, LayerStats, RoundingTarget};
use crate::paired_streams::PairedStream;
use eval::stream;

/// Its role.
pub(crate) const ROLE: &str = "token_embd";

/// What to round for: takes copies of the batches through all layers of `model`. `done` is told the tokens of each.
///
/// # Errors
/// What the model says.
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
        // held against itself: then there is nothing to make up for
        input.add(0, &CapturedPair { original: &seen, rounded: &seen, starts, held_out: *held_out }, &[]);
        // there are so many rows that it would take long to try each on more
        if *held_out {
            break;
        }
    }
    Ok(input.prepare(None).without_correction())
}
