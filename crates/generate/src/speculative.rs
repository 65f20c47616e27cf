//! Speculative decoding: a draft model proposes several tokens, and the target verifies them in one pass.
//!
//! The output has the distribution of the target alone. A token `d` drawn from the draft's distribution `q` is accepted
//! with probability `min(1, p(d) / q(d))`, where `p` is the target's distribution; otherwise a token is drawn from the
//! normalised `max(0, p - q)`. Together that is a draw from `p` (Leviathan, Kalman and Matias, "Fast inference from
//! transformers via speculative decoding", 2023). With greedy decoding both distributions are on one token, and a draft
//! token is accepted if it equals the target's.
//!
//! The target's passes have at most as many tokens as each keep the bits that they would have alone, so the output does
//! not depend on the acceptance of draft tokens.

use std::collections::{HashMap, VecDeque};

use ndarray::Axis;
use runtime::{DraftSession, Drafter, KvCache, Matrix, Model, RowMajor, Segment, TargetState};
use serde::Serialize;
use tensor::Result;

use crate::mask_suppressed;
use crate::sampling::{Odds, Sampler};

/// The most tokens of a pass in which each token has the bits that it would have alone (see `runtime`'s matmul and
/// attention).
const PASS: usize = quant::DOT_VECTORS;

/// A decoder of a target's next tokens with a draft model.
#[derive(Clone)]
pub struct SpeculativeDecoder<'a> {
    model: &'a Model<'a>,
    guesser: DraftSession<'a>,
    /// The most draft tokens of a burst.
    burst: usize,
    /// The longest sequence that both models support.
    context: u64,
    /// Tokens that are never generated.
    suppressed: &'a [u32],
    cache: KvCache,
    /// The normalised hidden state at the end of the cache.
    hidden: Matrix,
    /// The prompt and the tokens returned so far. The last token is not in the cache.
    sequence: Vec<u32>,
    /// Tokens to return next. The last of them is not in the cache.
    ready: VecDeque<u32>,
    counts: DraftCounts,
}

/// Counts of drafted and accepted tokens.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct DraftCounts {
    /// Passes of the target over a burst of draft tokens.
    pub bursts: usize,
    /// Number of draft tokens.
    pub drafted: usize,
    /// Number of draft tokens that the target accepted.
    pub accepted: usize,
}

impl<'a> SpeculativeDecoder<'a> {
    /// Reads the prompt and draws the first token.
    ///
    /// # Errors
    /// `Malformed` for a token beyond the vocabulary; `Io` for a source that cannot be read.
    pub fn new(
        model: &'a Model<'a>,
        draft: &'a Drafter<'a>,
        burst: usize,
        suppressed: &'a [u32],
        prompt: &[Segment<'a>],
        sampler: &mut Sampler,
    ) -> Result<SpeculativeDecoder<'a>> {
        let mut cache = KvCache::new(model.config()).with_rollback(burst);
        let hidden = model.norm(&model.forward_last_segments(prompt, &mut cache)?)?;
        let logits = model.logits(&hidden, 0..model.config().vocab)?;
        Ok(SpeculativeDecoder {
            model,
            guesser: DraftSession::new(draft, burst).with_prompt(prompt),
            burst,
            context: model.config().context.min(draft.context()),
            suppressed,
            cache,
            hidden,
            sequence: runtime::segment_tokens(prompt),
            ready: VecDeque::from([sampler.choose(&mask_suppressed(suppressed, logits.row_values(0)))]),
            counts: DraftCounts::default(),
        })
    }

    /// Counts of draft tokens so far.
    pub fn counts(&self) -> DraftCounts {
        self.counts
    }

    /// The next token. The caller will request at most `left` more tokens, including this one.
    ///
    /// # Errors
    /// `Io` for a source that cannot be read.
    pub fn next_token(&mut self, left: usize, sampler: &mut Sampler) -> Result<u32> {
        loop {
            if let Some(token) = self.ready.pop_front() {
                self.sequence.push(token);
                return Ok(token);
            }
            self.burst(left, sampler)?;
        }
    }

    /// Drafts tokens and verifies them with the target.
    fn burst(&mut self, left: usize, sampler: &mut Sampler) -> Result<()> {
        let room = (self.context as usize).saturating_sub(self.sequence.len());
        let guesses = self.guess(self.burst.min(left.saturating_sub(1)).min(room), sampler)?;
        let start = self.cache.len();
        let last = self.sequence.last().copied();
        let tokens: Vec<u32> = last.into_iter().chain(guesses.iter().map(|(id, _)| *id)).collect();
        self.counts.bursts += usize::from(!guesses.is_empty());
        self.counts.drafted += guesses.len();

        for (number, pass) in tokens.chunks(PASS).enumerate() {
            let hidden = self.model.norm(&self.model.forward(pass, &mut self.cache, |_, _| ())?)?;
            let logits = self.model.logits(&hidden, 0..self.model.config().vocab)?;
            for row in 0..pass.len() {
                let judged = number * PASS + row;
                let odds = sampler.odds(&mask_suppressed(self.suppressed, logits.row_values(row)));
                let said = match guesses.get(judged) {
                    Some((guess, draft)) => judge(*guess, draft, &odds, sampler),
                    None => Verdict::Instead(sampler.draw(&odds)),
                };
                match said {
                    Verdict::Taken => {
                        self.counts.accepted += 1;
                        self.ready.push_back(guesses[judged].0);
                    }
                    Verdict::Instead(token) => {
                        self.ready.push_back(token);
                        self.hidden = hidden.select(Axis(0), &[row]);
                        return self.cache.truncate(self.model.config(), start + judged + 1);
                    }
                }
            }
        }
        Ok(())
    }

    /// Drafts `count` tokens, each with the distribution that it was drawn from.
    fn guess(&mut self, count: usize, sampler: &mut Sampler) -> Result<Vec<(u32, Odds)>> {
        let at = TargetState { target: self.model, cache: &self.cache, hidden: &self.hidden };
        let mut guesses: Vec<(u32, Odds)> = Vec::with_capacity(count);
        for _ in 0..count {
            let logits = match guesses.last() {
                None => self.guesser.first(&at, &self.sequence)?,
                Some((token, _)) => self.guesser.next(&at, *token)?,
            };
            let odds = sampler.odds(&mask_suppressed(self.suppressed, &logits));
            guesses.push((sampler.draw(&odds), odds));
        }
        Ok(guesses)
    }
}

/// Result of the verification of a draft token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Taken,
    Instead(u32),
}

/// Verifies a token drawn from `draft`, such that the resulting token has the distribution `odds`.
fn judge(guess: u32, draft: &Odds, odds: &Odds, sampler: &mut Sampler) -> Verdict {
    if sampler.share() * draft.of(guess) < odds.of(guess) {
        return Verdict::Taken;
    }
    let drafted: HashMap<u32, f64> = draft.tokens.iter().copied().collect();
    let lacking = odds.tokens.iter().map(|&(id, weight)| {
        let drafted = drafted.get(&id).map_or(0.0, |weight| weight / draft.total);
        (id, (weight / odds.total - drafted).max(0.0))
    });
    let lacking = Odds::new(lacking.collect());
    // equal distributions are rejected only by rounding
    Verdict::Instead(sampler.draw(if lacking.total > 0.0 { &lacking } else { odds }))
}

#[cfg(test)]
mod tests {
    use checkpoint::Checkpoint;
    use runtime::{Assistant, Compute, Drafter, Weights};
    use tensor::TensorSource;

    use super::*;
    use crate::sampling::Sampling;

    const WARM: Sampling = Sampling { temperature: 1.2, top_k: 6, top_p: 1.0, min_p: 0.0, seed: 0 };

    /// Pearson's statistic. By chance, it exceeds 25.7 once in 10,000 times with 5 degrees of freedom.
    fn chi_square(said: &[u32], odds: &Odds) -> f64 {
        let expected = |id| said.len() as f64 * odds.of(id);
        assert!(said.iter().all(|&id| odds.of(id) > 0.0), "only tokens that can be drawn");
        let count = |id| said.iter().filter(|&&said| said == id).count() as f64;
        odds.tokens.iter().map(|&(id, _)| (count(id) - expected(id)).powi(2) / expected(id)).sum()
    }

    #[test]
    fn judged_guesses_have_the_odds_of_the_model() {
        let odds = Odds::new(vec![(1, 4.0), (2, 2.0), (3, 1.0), (4, 1.0)]);
        let drafts = [
            vec![(1, 4.0), (2, 2.0), (3, 1.0), (4, 1.0)],
            vec![(4, 7.0), (1, 1.0), (9, 2.0)],
            vec![(9, 1.0)],
            vec![(2, 1.0), (3, 5.0)],
        ];
        for (seed, draft) in drafts.into_iter().map(Odds::new).enumerate() {
            let mut sampler = Sampler::new(Sampling { seed: seed as u64, ..WARM });
            let mut say = || {
                let guess = sampler.draw(&draft);
                match judge(guess, &draft, &odds, &mut sampler) {
                    Verdict::Taken => guess,
                    Verdict::Instead(token) => token,
                }
            };
            let said: Vec<u32> = (0..20_000).map(|_| say()).collect();
            let statistic = chi_square(&said, &odds);
            assert!(statistic < 21.1, "draft {draft:?}: {statistic}"); // 3 degrees of freedom
        }
    }

    #[test]
    fn where_the_likeliest_is_taken_a_guess_is_right_or_wrong() {
        let mut sampler = Sampler::new(Sampling { temperature: 0.0, ..WARM });
        let sure = |id| Odds::new(vec![(id, 1.0)]);
        for _ in 0..100 {
            assert_eq!(judge(5, &sure(5), &sure(5), &mut sampler), Verdict::Taken);
            assert_eq!(judge(5, &sure(5), &sure(7), &mut sampler), Verdict::Instead(7));
        }
    }

    /// The first two tokens of many bursts have the distribution of the target alone. The draft is an assistant, then a
    /// model with a KV cache of its own.
    #[test]
    fn bursts_have_the_odds_of_the_model() {
        let fixture = |name: &str| {
            let path = testkit::fixtures("checkpoints").join(name);
            Checkpoint::open(path).unwrap()
        };
        let (target, draft) = (fixture("e2b"), fixture("e2b-assistant"));
        let compute = Compute::detect();
        let opened = gemma::ModelSpec::open(&target).unwrap();
        let opened_draft = gemma::ModelSpec::open_draft(&draft).unwrap();
        let weights = Weights::new(&target as &dyn TensorSource, &opened.inventory, compute).unwrap();
        let model = Model::new(&opened.config, weights).unwrap();
        let drafter =
            Assistant::new(&opened_draft.config, &draft, &opened_draft.inventory, &opened.config, compute)
                .unwrap();
        let other = fixture("31b");
        let opened_other = gemma::ModelSpec::open(&other).unwrap();
        let weights = Weights::new(&other as &dyn TensorSource, &opened_other.inventory, compute).unwrap();
        let other = Model::new(&opened_other.config, weights).unwrap();
        for draft in [Drafter::Assistant(drafter), Drafter::of_model(other, &opened.config).unwrap()] {
            has_the_odds_of_the_model(&model, &draft);
        }
    }

    fn has_the_odds_of_the_model(model: &Model<'_>, draft: &Drafter<'_>) {
        let prompt: Vec<u32> = (0..40).map(|n| if n == 0 { 2 } else { 300 + n * 17 }).collect();
        let mut first = Sampler::new(Sampling { temperature: 0.0, ..WARM });
        let mut start =
            SpeculativeDecoder::new(model, draft, 3, &[], &[Segment::Tokens(&prompt)], &mut first).unwrap();
        let last = start.next_token(9, &mut first).unwrap();
        let odds_after = |more: &[u32]| {
            let mut cache = start.cache.clone();
            let hidden = model.forward_last(more, &mut cache).unwrap();
            Sampler::new(WARM).odds(model.head(&hidden).unwrap().row_values(0))
        };
        let first = odds_after(&[last]);
        let likeliest = first.tokens[0].0;
        let second = odds_after(&[last, likeliest]);

        let mut said = Vec::new();
        let mut counts = DraftCounts::default();
        for seed in 0..800 {
            let mut sampler = Sampler::new(Sampling { seed, ..WARM });
            let mut speculation = start.clone();
            let mut next = || speculation.next_token(9, &mut sampler).unwrap();
            said.push((next(), next()));
            counts.accepted += speculation.counts.accepted;
            counts.drafted += speculation.counts.drafted;
        }
        // without both accepted and rejected draft tokens nothing is tested
        assert!(counts.accepted > 200 && counts.drafted - counts.accepted > 200, "{counts:?}");
        let all: Vec<u32> = said.iter().map(|&(first, _)| first).collect();
        let then: Vec<u32> = said.iter().filter(|said| said.0 == likeliest).map(|said| said.1).collect();
        assert!(then.len() > 100);
        for (said, odds) in [(all, first), (then, second)] {
            let statistic = chi_square(&said, &odds);
            assert!(statistic < 25.7, "{statistic}: {odds:?}");
        }
    }
}
