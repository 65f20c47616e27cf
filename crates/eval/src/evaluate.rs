//! Evaluation of two models on one text. Each weight is read once, and logits are not stored.
//!
//! As many sequences as fit in memory pass layer i, batch by batch, before layer i + 1. Between layers only their
//! hidden states are kept. Then the heads of both models are multiplied in slices of the vocabulary, and [`Row`]
//! accumulates the results.

use gemma::Config;
use ndarray::s;
use rayon::prelude::*;
use runtime::{Batch, Matrix, Model, RowMajor, activation_bytes_per_token};
use tensor::{Error, Result};
use text::Sequence;

use crate::token::Row;
use crate::{LogitsFile, LogitsWriter, Token, stream};

/// Scored positions whose logits are computed together.
const ROWS: usize = 2048;
/// Tokens per slice of the vocabulary; with [`ROWS`], logits of 64 MiB per model.
const PIECE: usize = 8192;
/// Scored positions computed together if whole rows are written to a file.
const WHOLE_ROWS: usize = 64;

/// The base that the artifact is compared with.
pub enum Base<'a> {
    /// A model, which reads the same text.
    Model(&'a Model<'a>),
    /// The logits of a model, in llama-perplexity's format.
    Logits(&'a LogitsFile),
}

/// Soft tokens of the images and sounds in a text, `[soft tokens, hidden]`, by the number of the file.
#[derive(Clone, Copy, Debug, Default)]
pub struct SoftTokens<'a> {
    /// Those that the artifact reads.
    pub artifact: &'a [Matrix],
    /// Those that the base reads, if it is a model.
    pub base: &'a [Matrix],
}

/// Options of [`evaluate`].
pub struct EvalOptions<'a> {
    /// The most bytes for all hidden states between two layers.
    pub memory: u64,
    /// Soft tokens of the sequences; empty for text alone.
    pub soft_tokens: SoftTokens<'a>,
    /// Writer for the logits of the base, or of the artifact if there is no base.
    pub logits: Option<&'a mut LogitsWriter>,
    /// Gets progress steps, whose sum is [`work`].
    pub progress: &'a (dyn Fn(u64) + Sync),
}

/// The number of progress steps: tokens times layers and heads.
pub fn work(configs: &[&Config], sequences: &[Sequence]) -> u64 {
    let tokens: usize = sequences.iter().map(|s| s.tokens.len()).sum();
    configs.iter().map(|config| (config.layers() + 1) as u64 * tokens as u64).sum()
}

/// The predictions of the scored tokens of each sequence by the artifact, and by the base if there is one, in order.
///
/// # Errors
/// The errors of the models and files; `Malformed` for vocabularies of different sizes.
pub fn evaluate(
    artifact: &Model<'_>,
    base: Option<Base<'_>>,
    sequences: &[Sequence],
    mut options: EvalOptions<'_>,
) -> Result<Vec<Token>> {
    let vocab = artifact.config().vocab;
    let base_vocab = match &base {
        Some(Base::Model(model)) => model.config().vocab,
        Some(Base::Logits(file)) => file.vocab() as u64,
        None => vocab,
    };
    if base_vocab != vocab {
        return Err(Error::malformed("vocabulary", "the two models do not have the same")
            .expected(format!("{base_vocab} tokens"), vocab));
    }
    let (models, soft_tokens): (Vec<&Model<'_>>, _) = match &base {
        Some(Base::Model(model)) => {
            (vec![artifact, model], vec![options.soft_tokens.artifact, options.soft_tokens.base])
        }
        _ => (vec![artifact], vec![options.soft_tokens.artifact]),
    };
    let mut tokens = Vec::new();
    for group in stream::groups(sequences, tokens_that_fit(&models, options.memory)) {
        let members = &sequences[group.clone()];
        let states = models
            .iter()
            .zip(&soft_tokens)
            .map(|(model, soft_tokens)| predictions(model, members, soft_tokens, options.progress))
            .collect::<Result<Vec<_>>>()?;
        score(&models, &states, base.as_ref(), group.start, members, &mut options, &mut tokens)?;
    }
    Ok(tokens)
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

/// Multiplies the heads and appends the scored tokens of these sequences to `tokens`. `first` is the index of the first
/// sequence.
fn score(
    models: &[&Model<'_>],
    states: &[Matrix],
    base: Option<&Base<'_>>,
    first: usize,
    sequences: &[Sequence],
    options: &mut EvalOptions<'_>,
    tokens: &mut Vec<Token>,
) -> Result<()> {
    let targets: Vec<(usize, u32)> = sequences
        .iter()
        .enumerate()
        .flat_map(|(number, s)| s.scored.iter().map(move |&position| (first + number, s.tokens[position])))
        .collect();
    let (vocab, simd) = (models[0].config().vocab as usize, models[0].compute().simd);
    let (rows, piece) = if options.logits.is_some() { (WHOLE_ROWS, vocab) } else { (ROWS, PIECE) };
    let all: usize = sequences.iter().map(|s| s.tokens.len()).sum();
    for start in (0..targets.len()).step_by(rows) {
        let span = start..(start + rows).min(targets.len());
        let stored_row = tokens.len();
        let mut sums: Vec<Row> = targets[span.clone()].iter().map(|&(_, target)| Row::new(target)).collect();
        let parts: Vec<Matrix> =
            states.iter().map(|state| state.slice(s![span.clone(), ..]).to_owned()).collect();
        for from in (0..vocab).step_by(piece) {
            let range = from..(from + piece).min(vocab);
            let logits = models
                .iter()
                .zip(&parts)
                .map(|(model, part)| model.logits(part, range.start as u64..range.end as u64))
                .collect::<Result<Vec<_>>>()?;
            let base_logits = logits.get(1);
            sums.par_iter_mut().enumerate().try_for_each_init(Vec::new, |bytes, (row, sums)| {
                let artifact = logits[0].row_values(row);
                if let Some(Base::Logits(file)) = base {
                    let mut stored = vec![0.0; range.len()];
                    file.read(stored_row + row, range.start, bytes, &mut stored)?;
                    sums.take_stored(simd, range.start, artifact, &mut stored);
                } else {
                    sums.take(simd, range.start, artifact, base_logits.map(|logits| logits.row_values(row)));
                }
                Ok(())
            })?;
            if let (Some(writer), Some(logits)) = (&mut options.logits, logits.last()) {
                (0..logits.nrows()).try_for_each(|row| writer.write(logits.row_values(row)))?;
            }
        }
        for (sums, &(document, _)) in sums.iter().zip(&targets[span.clone()]) {
            tokens.push(match base {
                None => sums.finish(document),
                Some(Base::Model(_)) => sums.finish_against(document),
                Some(Base::Logits(_)) => sums.finish_against_stored(document),
            });
        }
        let done = |rows: usize| (rows * all / targets.len()) as u64;
        (options.progress)((done(span.end) - done(span.start)) * models.len() as u64);
    }
    Ok(())
}
