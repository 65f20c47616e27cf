//! Streaming of a text through the layers of a model: as many sequences as fit in memory pass each layer before the
//! next one, so each weight is read once for all of them.
//!
//! Evaluation and calibration use this loop. Between two layers only the hidden states of the sequences are kept.
//!
//! The batches of a text depend on its sequences alone. Products of a row are rounded differently where other rows are beside it, so
//! results have the same bits for any memory, and in any number of parts, because each batch has the same rows.

use std::ops::Range;

use base::Part;
use runtime::{BATCH_TOKENS, Batch, Matrix, Model, Segment, group_by_tokens};
use tensor::Result;
use text::Sequence;

/// Ranges of consecutive sequences with at most `tokens` tokens in total, or with one longer sequence.
pub fn groups<S: AsRef<[u32]>>(sequences: &[S], tokens: usize) -> Vec<Range<usize>> {
    group_by_tokens(sequences.iter().map(|sequence| sequence.as_ref().len()), tokens)
}

/// The batches of one part of a text.
pub fn batches<S: AsRef<[u32]>>(sequences: &[S], part: Part) -> Vec<Range<usize>> {
    let all = groups(sequences, BATCH_TOKENS);
    let lengths: Vec<u64> = all.iter().map(|batch| tokens(&sequences[batch.clone()])).collect();
    all[part.units(&lengths)].to_vec()
}

/// Runs of sequences of one part whose hidden states are kept together, at most `most` tokens or one batch. Runs consist of whole
/// batches of the text.
pub fn runs<S: AsRef<[u32]>>(sequences: &[S], part: Part, most: usize) -> Vec<Range<usize>> {
    let batches = batches(sequences, part);
    let lengths = batches.iter().map(|batch| tokens(&sequences[batch.clone()]) as usize);
    let runs = group_by_tokens(lengths, most);
    runs.into_iter().map(|run| batches[run.start].start..batches[run.end - 1].end).collect()
}

/// Tokens of one part of a text.
pub fn part_tokens<S: AsRef<[u32]>>(sequences: &[S], part: Part) -> u64 {
    batches(sequences, part).into_iter().map(|batch| tokens(&sequences[batch])).sum()
}

fn tokens<S: AsRef<[u32]>>(sequences: &[S]) -> u64 {
    sequences.iter().map(|sequence| sequence.as_ref().len() as u64).sum()
}

/// Embeds sequences of token ids, BOS first, in batches of [`BATCH_TOKENS`].
///
/// # Errors
/// `Malformed` for a token beyond the vocabulary; `Io` for a source that cannot be read.
pub fn embed<S: AsRef<[u32]>>(model: &Model<'_>, sequences: &[S]) -> Result<Vec<Batch>> {
    embed_as(model, sequences, |sequence| vec![Segment::Tokens(sequence.as_ref())])
}

/// As [`embed`], for sequences that may have soft tokens: those of each file, by its number.
///
/// # Errors
/// Those of [`embed`]; `Malformed` for soft tokens of another width than the model's.
///
/// # Panics
/// When there are no soft tokens for a file, or more or fewer than its positions.
pub fn embed_with<'s>(
    model: &Model<'_>,
    sequences: &'s [Sequence],
    soft_tokens: &'s [Matrix],
) -> Result<Vec<Batch>> {
    embed_as(model, sequences, |sequence| segments(sequence, soft_tokens))
}

fn embed_as<'s, S: AsRef<[u32]>>(
    model: &Model<'_>,
    sequences: &'s [S],
    segments: impl Fn(&'s S) -> Vec<Segment<'s>>,
) -> Result<Vec<Batch>> {
    let embed = |run: Range<usize>| {
        let segments: Vec<_> = sequences[run].iter().map(&segments).collect();
        model.embed_segments(&segments.iter().map(|segments| &segments[..]).collect::<Vec<_>>())
    };
    groups(sequences, BATCH_TOKENS).into_iter().map(embed).collect()
}

/// The tokens and soft tokens of a sequence, in order.
fn segments<'a>(sequence: &'a Sequence, soft_tokens: &'a [Matrix]) -> Vec<Segment<'a>> {
    let mut segments = Vec::with_capacity(2 * sequence.media.len() + 1);
    let mut at = 0;
    for span in &sequence.media {
        let rows = soft_tokens[span.file].view();
        assert_eq!(rows.nrows(), span.positions.len(), "soft tokens of file {}", span.file);
        segments.push(Segment::Tokens(&sequence.tokens[at..span.positions.start]));
        segments.push(if span.is_image { Segment::Image(rows) } else { Segment::Sound(rows) });
        at = span.positions.end;
    }
    segments.push(Segment::Tokens(&sequence.tokens[at..]));
    segments
}

/// Applies one layer to all batches. `done` gets the number of tokens of each batch.
///
/// # Errors
/// `Io` for a source that cannot be read.
pub fn layer(model: &Model<'_>, layer: usize, batches: &mut [Batch], done: &dyn Fn(u64)) -> Result<()> {
    batches.iter_mut().try_for_each(|batch| {
        model.layer(layer, batch)?;
        done(batch.embedded() as u64);
        Ok(())
    })
}

/// Applies all layers to all batches. `done` gets the number of tokens of each batch once per layer.
///
/// # Errors
/// `Io` for a source that cannot be read.
pub fn layers(model: &Model<'_>, batches: &mut [Batch], done: &dyn Fn(u64)) -> Result<()> {
    (0..model.config().layers()).try_for_each(|index| layer(model, index, batches, done))
}
