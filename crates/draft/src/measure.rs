//! A draft model measured against its target: agreement along a text, rollouts, and a timed run with the best burst
//! size.

use std::collections::BTreeSet;
use std::time::Instant;

use eval::EvaluatedText;
use generate::{Sampler, Sampling, SpeculativeDecoder};
use runtime::{Drafter, Model, Segment};
use tensor::Result;
use text::{Corpus, Sequence};

use crate::{DRAFT_SCHEMA, DraftReport, Measured, Rollout, RolloutOptions, overlaps, rollout};

/// Greedy decoding.
const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };

/// Tokens with a role in a rollout.
#[derive(Clone, Copy, Debug)]
pub struct TokenRoles<'a> {
    /// Tokens that end a rollout.
    pub end: &'a BTreeSet<u32>,
    /// Tokens that are never chosen.
    pub suppressed: &'a [u32],
}

/// Total of the progress of [`measure`].
pub fn measure_work(corpus: &Corpus) -> u64 {
    3 * corpus.scored_tokens()
}

/// Measures a draft model on a corpus. The report lacks the names of the program and of the two models.
///
/// # Errors
/// `Malformed` for a token beyond the vocabulary; `Io` for a source that cannot be read.
pub fn measure(
    target: &Model<'_>,
    draft: &Drafter<'_>,
    roles: TokenRoles<'_>,
    corpus: &Corpus,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<DraftReport> {
    let mut report =
        DraftReport { schema: DRAFT_SCHEMA, text: EvaluatedText::of(corpus), ..DraftReport::default() };
    report.add_overlaps(&overlaps(target, draft, &corpus.sequences, progress)?);
    let prompts: Vec<Prompt<'_>> = corpus.sequences.iter().filter_map(Prompt::of).collect();
    let mut rollouts = Vec::with_capacity(prompts.len());
    for prompt in &prompts {
        let options = RolloutOptions { most: prompt.most, end: roles.end, suppressed: roles.suppressed };
        rollouts.push(rollout(target, draft, prompt.tokens, &options)?);
        progress(prompt.most as u64);
    }
    report.add_rollouts(&rollouts);
    report.measured = timed(target, draft, roles.suppressed, report.best, &prompts, &rollouts)?;
    Ok(report)
}

/// The beginning of a sequence, and the number of tokens to generate after it.
struct Prompt<'a> {
    tokens: &'a [u32],
    most: usize,
}

impl Prompt<'_> {
    /// The tokens before the first scored one; as many are generated as are scored.
    fn of(sequence: &Sequence) -> Option<Prompt<'_>> {
        let first = *sequence.scored.first()?;
        Some(Prompt { tokens: &sequence.tokens[..first], most: sequence.scored.len() })
    }
}

/// Generates the text of the rollouts again, by speculative decoding, and measures the time.
fn timed(
    model: &Model<'_>,
    draft: &Drafter<'_>,
    suppressed: &[u32],
    burst: usize,
    prompts: &[Prompt<'_>],
    rollouts: &[Rollout],
) -> Result<Measured> {
    let mut measured = Measured { guesses: burst, same_text: true, ..Measured::default() };
    for (prompt, rollout) in prompts.iter().zip(rollouts) {
        measured.alone_seconds += rollout.step_seconds.iter().sum::<f64>();
        let mut sampler = Sampler::new(GREEDY);
        let mut decoder = SpeculativeDecoder::new(
            model,
            draft,
            burst,
            suppressed,
            &[Segment::Tokens(prompt.tokens)],
            &mut sampler,
        )?;
        let mut tokens = Vec::with_capacity(rollout.tokens.len());
        // as with the target alone, the time begins at the first token
        let mut start = Instant::now();
        for left in (1..=rollout.tokens.len()).rev() {
            tokens.push(decoder.next_token(left, &mut sampler)?);
            if tokens.len() == 1 {
                start = Instant::now();
            }
        }
        measured.seconds += start.elapsed().as_secs_f64();
        measured.same_text &= tokens == rollout.tokens;
        measured.drafted += decoder.counts().drafted as u64;
        measured.taken += decoder.counts().accepted as u64;
    }
    measured.speedup = measured.alone_seconds / measured.seconds.max(f64::MIN_POSITIVE);
    Ok(measured)
}
