//! Evaluation of artifacts and their base on one text. Each weight is read once, and logits are not stored.
//!
//! As many batches as fit in memory pass layer i, before layer i + 1. Between layers only their hidden states are kept. Then the
//! heads of all models are multiplied with the rows of one batch after the other, in slices of the vocabulary, and [`Row`]
//! accumulates the results of each artifact.

use std::ops::Range;

use base::Part;
use gemma::Config;
use ndarray::s;
use quant::Simd;
use rayon::prelude::*;
use runtime::{Batch, Matrix, Model, RowMajor, activation_bytes_per_token};
use tensor::{Error, Result};
use text::Sequence;

use crate::token::Row;
use crate::{LogitsFile, LogitsWriter, Token, stream};

/// The most scored positions whose logits are computed together; they are of one batch.
const ROWS: usize = 2048;
/// Tokens per slice of the vocabulary; with [`ROWS`], logits of 64 MiB per model.
const PIECE: usize = 8192;
/// Scored positions computed together if whole rows are written to a file.
const WHOLE_ROWS: usize = 64;

/// The base that the artifacts are compared with.
pub enum Base<'a> {
    /// A model, which reads the same text.
    Model(&'a Model<'a>),
    /// The logits of a model, in llama-perplexity's format.
    Logits(&'a LogitsFile),
}

/// Soft tokens of the images and sounds in a text, `[soft tokens, hidden]`, by the number of the file.
#[derive(Clone, Copy, Debug, Default)]
pub struct SoftTokens<'a> {
    /// Those that the artifacts read.
    pub artifact: &'a [Matrix],
    /// Those that the base reads, if it is a model.
    pub base: &'a [Matrix],
}

/// Options of [`evaluate`].
pub struct EvalOptions<'a> {
    /// The most bytes for all hidden states between two layers; at least one batch is read at a time.
    pub memory: u64,
    /// The part of the text: some of its batches.
    pub part: Part,
    /// Soft tokens of the sequences; empty for text alone.
    pub soft_tokens: SoftTokens<'a>,
    /// Writer for the logits of the base, or of the first artifact if the base is not a model.
    pub logits: Option<&'a mut LogitsWriter>,
    /// Gets progress steps, whose sum is [`work`].
    pub progress: &'a (dyn Fn(u64) + Sync),
}

/// The number of progress steps: tokens times layers and heads.
pub fn work(configs: &[&Config], sequences: &[Sequence], part: Part) -> u64 {
    let tokens = stream::part_tokens(sequences, part);
    configs.iter().map(|config| (config.layers() + 1) as u64 * tokens).sum()
}

/// The predictions of the scored tokens of each sequence in the part by each artifact, and by the base if there is one, in order.
/// The base reads the text once for all artifacts. An artifact that cannot be read has an error in its place, and the others are
/// evaluated.
///
/// A token has the same bits in any company of artifacts, with any memory, and in any part.
///
/// # Errors
/// The errors of the base and of the file of logits. Those of an artifact, in its place: of the model; `Malformed` for a
/// vocabulary of another size than the base's.
pub fn evaluate(
    artifacts: &[&Model<'_>],
    base: Option<Base<'_>>,
    sequences: &[Sequence],
    mut options: EvalOptions<'_>,
) -> Result<Vec<Result<Vec<Token>>>> {
    let Some(first) = artifacts.first() else { return Ok(Vec::new()) };
    let (base_model, vocab) = match &base {
        Some(Base::Model(model)) => (Some(*model), model.config().vocab),
        Some(Base::Logits(file)) => (None, file.vocab() as u64),
        None => (None, first.config().vocab),
    };
    let mut results: Vec<Result<Vec<Token>>> =
        artifacts.iter().map(|artifact| same_vocabulary(artifact, vocab).map(|()| Vec::new())).collect();
    let models: Vec<_> = artifacts.iter().copied().chain(base_model).collect();
    for run in stream::runs(sequences, options.part, tokens_that_fit(&models, options.memory)) {
        let members = &sequences[run.clone()];
        let mut readings = Vec::new();
        for (model, tokens) in artifacts.iter().zip(&mut results).filter(|(_, tokens)| tokens.is_ok()) {
            match predictions(model, members, options.soft_tokens.artifact, options.progress) {
                Ok(states) => readings.push(Reading { model, states, tokens }),
                Err(error) => *tokens = Err(error),
            }
        }
        if readings.is_empty() {
            break;
        }
        let of_base =
            base_model.map(|model| predictions(model, members, options.soft_tokens.base, options.progress));
        let scored = Scored::new(run.start, scored_tokens(&sequences[..run.start]), members);
        scored.score(vocab as usize, &mut readings, (base.as_ref(), of_base.transpose()?), &mut options)?;
    }
    Ok(results)
}

fn scored_tokens(sequences: &[Sequence]) -> usize {
    sequences.iter().map(|sequence| sequence.scored.len()).sum()
}

fn same_vocabulary(artifact: &Model<'_>, vocab: u64) -> Result<()> {
    if artifact.config().vocab == vocab {
        return Ok(());
    }
    Err(Error::malformed("vocabulary", "the two models do not have the same")
        .expected(format!("{vocab} tokens"), artifact.config().vocab))
}

/// The number of tokens whose hidden states fit in memory, for the model that needs most.
fn tokens_that_fit(models: &[&Model<'_>], memory: u64) -> usize {
    let most = models.iter().map(|model| activation_bytes_per_token(model.config())).max().unwrap_or(1);
    // each model keeps the final hidden states for its head
    let heads: u64 = models.iter().map(|model| 4 * model.config().hidden).sum();
    (memory / (most + heads)).max(1) as usize
}

/// Mean KL divergence of each model's predictions from the base's, in nats per token. Each model comes with its hidden
/// states after the last layer, with as many rows as the base's.
///
/// # Errors
/// The errors of the models.
pub fn mean_divergences(base: (&Model<'_>, &Matrix), others: &[(&Model<'_>, Matrix)]) -> Result<Vec<f64>> {
    let rows = base.1.nrows();
    let normed = |(model, hidden): &(&Model<'_>, Matrix)| model.norm(hidden);
    let (of_base, states) = (base.0.norm(base.1)?, others.iter().map(normed).collect::<Result<Vec<_>>>()?);
    let mut sums = vec![vec![Row::new(0); rows]; others.len()];
    let (vocab, simd) = (base.0.config().vocab, base.0.compute().simd);
    for from in (0..vocab).step_by(PIECE) {
        let range = from..(from + PIECE as u64).min(vocab);
        let expected = base.0.logits(&of_base, range.clone())?;
        for ((sums, (model, _)), state) in sums.iter_mut().zip(others).zip(&states) {
            let logits = model.logits(state, range.clone())?;
            let take = |(row, sums): (usize, &mut Row)| {
                sums.take(simd, from as usize, logits.row_values(row), Some(expected.row_values(row)));
            };
            sums.par_iter_mut().enumerate().for_each(take);
        }
    }
    let kld = |row: &Row| row.finish_against(0).against.map_or(0.0, |against| against.kld);
    Ok(sums.iter().map(|sums| sums.iter().map(kld).sum::<f64>() / rows.max(1) as f64).collect())
}

/// The normalised final hidden states that predict the scored tokens: one row per scored token, in order. `soft_tokens` are those of the
/// files in the sequences, by their numbers.
///
/// # Errors
/// `Malformed` for a token beyond the vocabulary, and for soft tokens of another width; `Io` for a source that cannot be read.
///
/// # Panics
/// When there are no soft tokens for a file, or more or fewer than its positions.
pub fn predictions(
    model: &Model<'_>,
    sequences: &[Sequence],
    soft_tokens: &[Matrix],
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Matrix> {
    let mut batches = stream::embed_with(model, sequences, soft_tokens)?;
    let mut rest = sequences;
    for batch in &mut batches {
        let (members, others) = rest.split_at(batch.sequences().len());
        batch.want(predictors(batch, members));
        rest = others;
    }
    stream::layers(model, &mut batches, progress)?;
    let mut all = Matrix::zeros((0, model.config().hidden as usize));
    for batch in &batches {
        all.append_rows(&model.norm(batch.hidden())?);
    }
    Ok(all)
}

/// The rows of a batch that predict the scored tokens, which are those before them.
fn predictors(batch: &Batch, sequences: &[Sequence]) -> Vec<usize> {
    let members = batch.sequences().zip(sequences);
    members.flat_map(|(rows, s)| s.scored.iter().map(move |&position| rows.start + position - 1)).collect()
}

/// An artifact with its normalised final hidden states of a run of sequences, one row per scored token.
struct Reading<'r> {
    model: &'r Model<'r>,
    states: Matrix,
    tokens: &'r mut Result<Vec<Token>>,
}

/// The scored tokens of a run of sequences.
struct Scored {
    /// Index of the sequence, and the token.
    targets: Vec<(usize, u32)>,
    /// Those of each batch.
    batches: Vec<Range<usize>>,
    /// Index of the first of them among the scored tokens of all sequences.
    row: usize,
    /// Number of all tokens.
    all: usize,
}

impl Scored {
    /// `first` is the index of the first sequence.
    fn new(first: usize, row: usize, sequences: &[Sequence]) -> Scored {
        let targets = sequences.iter().enumerate().flat_map(|(number, s)| {
            s.scored.iter().map(move |&position| (first + number, s.tokens[position]))
        });
        let mut end = 0;
        let batches = stream::batches(sequences, Part::default()).into_iter().map(|batch| {
            let start = end;
            end += scored_tokens(&sequences[batch]);
            start..end
        });
        let all = sequences.iter().map(|s| s.tokens.len()).sum();
        Scored { targets: targets.collect(), batches: batches.collect(), row, all }
    }

    /// Ranges of at most `rows` tokens, each within a batch.
    fn spans(&self, rows: usize) -> impl Iterator<Item = Range<usize>> {
        let batches = self.batches.iter().cloned();
        batches.flat_map(move |batch| {
            batch.clone().step_by(rows).map(move |start| start..(start + rows).min(batch.end))
        })
    }

    /// Multiplies the heads and appends the tokens to those of each artifact. At a time there are logits of the base and of
    /// one artifact.
    fn score(
        &self,
        vocab: usize,
        readings: &mut [Reading<'_>],
        (base, of_base): (Option<&Base<'_>>, Option<Matrix>),
        options: &mut EvalOptions<'_>,
    ) -> Result<()> {
        let simd = readings[0].model.compute().simd;
        let (rows, piece) = if options.logits.is_some() { (WHOLE_ROWS, vocab) } else { (ROWS, PIECE) };
        let models = (readings.len() + usize::from(of_base.is_some())) as u64;
        for span in self.spans(rows) {
            let part = |states: &Matrix| states.slice(s![span.clone(), ..]).to_owned();
            let of_base = of_base.as_ref().map(part);
            let parts: Vec<Matrix> = readings.iter().map(|reading| part(&reading.states)).collect();
            let sums: Vec<Row> =
                self.targets[span.clone()].iter().map(|&(_, target)| Row::new(target)).collect();
            let mut sums = vec![sums; readings.len()];
            for from in (0..vocab).step_by(piece) {
                let slice = from as u64..(from + piece).min(vocab) as u64;
                let base_logits = match (base, &of_base) {
                    (Some(Base::Model(model)), Some(states)) => Some(model.logits(states, slice.clone())?),
                    (Some(Base::Logits(file)), _) => {
                        Some(stored(file, self.row + span.start..self.row + span.end, &slice)?)
                    }
                    _ => None,
                };
                let mut writer = options.logits.as_deref_mut();
                let mut write = |logits: &Matrix| match writer.take() {
                    Some(writer) => {
                        (0..logits.nrows()).try_for_each(|row| writer.write(logits.row_values(row)))
                    }
                    None => Ok(()),
                };
                if let (Some(logits), Some(_)) = (&base_logits, &of_base) {
                    write(logits)?;
                }
                for ((reading, part), sums) in readings.iter_mut().zip(&parts).zip(&mut sums) {
                    if reading.tokens.is_err() {
                        continue;
                    }
                    match reading.model.logits(part, slice.clone()) {
                        Ok(logits) => {
                            take(simd, from, &logits, (base, base_logits.as_ref()), sums);
                            write(&logits)?;
                        }
                        Err(error) => *reading.tokens = Err(error),
                    }
                }
            }
            for (reading, sums) in readings.iter_mut().zip(&sums) {
                let Ok(tokens) = reading.tokens else { continue };
                tokens.extend(sums.iter().zip(&self.targets[span.clone()]).map(|(sums, &(document, _))| {
                    match base {
                        None => sums.finish(document),
                        Some(Base::Model(_)) => sums.finish_against(document),
                        Some(Base::Logits(_)) => sums.finish_against_stored(document),
                    }
                }));
            }
            let done = |rows: usize| (rows * self.all / self.targets.len()) as u64;
            (options.progress)((done(span.end) - done(span.start)) * models);
        }
        Ok(())
    }
}

/// Adds a slice of the vocabulary, from token `from` on, to the sums of each row.
fn take(
    simd: Simd,
    from: usize,
    artifact: &Matrix,
    (base, of_base): (Option<&Base<'_>>, Option<&Matrix>),
    sums: &mut [Row],
) {
    sums.par_iter_mut().enumerate().for_each_init(Vec::new, |copy, (row, sums)| {
        let (artifact, of_base) = (artifact.row_values(row), of_base.map(|logits| logits.row_values(row)));
        match (base, of_base) {
            (Some(Base::Logits(_)), Some(stored)) => {
                copy.clear();
                copy.extend_from_slice(stored);
                sums.take_stored(simd, from, artifact, copy);
            }
            (_, of_base) => sums.take(simd, from, artifact, of_base),
        }
    });
}

/// Rows of a file of logits, `[rows, tokens]`, for a slice of the vocabulary.
fn stored(file: &LogitsFile, rows: Range<usize>, slice: &Range<u64>) -> Result<Matrix> {
    let (first, width) = (slice.start as usize, (slice.end - slice.start) as usize);
    let mut logits = Matrix::zeros((rows.len(), width));
    let values = logits.values_mut().par_chunks_mut(width).enumerate();
    values.try_for_each_init(Vec::new, |bytes, (row, out)| file.read(rows.start + row, first, bytes, out))?;
    Ok(logits)
}
