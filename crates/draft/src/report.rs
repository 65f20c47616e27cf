//! What a draft model is worth to its target: how often they agree, and how many guesses are taken at a time.
//!
//! Two things are measured. Along a text that both read (`agreement.rs`): whether the likeliest token is the same,
//! and the overlap `Σ min(p, q)` of the two predictions, which is the probability that a token drawn from the draft's `q` is
//! taken by the target's `p` (Leviathan, Kalman and Matias, "Fast inference from transformers via speculative decoding",
//! 2023). And along what the target itself goes on to say (`rollout.rs`): how many guesses are right from each
//! point on. From that follows how every burst size would have fared on the same text, without another run.
//!
//! With `c` the time of a guess and `v` that of the target's pass over a burst, both in steps of the target, a burst of γ
//! guesses of which `a` are taken says `a + 1` tokens in the time of `γ c + v`. Where memory and not arithmetic is what a
//! step waits for, `v` is 1. If each guess were taken with the probability α, whatever came before it, a burst would say
//! `(1 − α^(γ+1)) / (1 − α)` tokens.

use eval::{EvaluatedText, ModelInfo};
use serde::{Deserialize, Serialize};

use crate::{Overlap, Rollout};

/// The number of the schema of [`DraftReport`]. It grows when a key changes its meaning or goes; new keys leave it.
pub const DRAFT_SCHEMA: u32 = 1;
/// The longest burst that is looked at.
pub const LONGEST: usize = 8;

/// What a draft is worth, as `draft measure --json` prints it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DraftReport {
    /// [`DRAFT_SCHEMA`].
    pub schema: u32,
    /// Name and version of the tool.
    pub tool: String,
    /// The draft model.
    pub draft: ModelInfo,
    /// The model that it drafts for.
    pub target: ModelInfo,
    /// What was read.
    pub text: EvaluatedText,
    /// Tokens of the text at which the two were compared.
    pub tokens: u64,
    /// Share of them at which both think the same token likeliest.
    pub top1: f64,
    /// Mean of `Σ min(p, q)`: the probability that a guess is taken at temperature 1.
    pub acceptance: f64,
    /// Tokens that the target went on to say, all prompts together.
    pub said: u64,
    /// Median time of a step of the target, and of a guess.
    pub target_seconds: f64,
    /// See `target_seconds`.
    pub draft_seconds: f64,
    /// Time of a guess in steps of the target.
    pub cost: f64,
    /// One entry a burst size, from 1 on.
    pub bursts: Vec<Burst>,
    /// The burst size with the largest implied speed-up.
    pub best: usize,
    /// A run with that size.
    pub measured: Measured,
}

/// Bursts of one size, where the likeliest token is taken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Burst {
    /// Guesses at a time.
    pub guesses: usize,
    /// Guesses made in all.
    pub drafted: u64,
    /// Guesses that were right and taken.
    pub taken: u64,
    /// Passes of the target.
    pub passes: u64,
    /// Mean number of guesses taken in a pass.
    pub accepted: f64,
    /// Time of a pass over a full burst, in steps of the target.
    pub pass_cost: f64,
    /// How many times faster than the target alone, by the measured costs.
    pub implied: f64,
    /// The same if a pass took no longer than a step.
    pub ideal: f64,
    /// The same, at temperature 1: `(1 − α^(γ+1)) / (1 − α) / (γ c + 1)`.
    pub ideal_sampled: f64,
}

/// Text that was said with the draft's help, against the same without.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Measured {
    /// Guesses at a time.
    pub guesses: usize,
    /// Time that the target took alone.
    pub alone_seconds: f64,
    /// Time that the two took.
    pub seconds: f64,
    /// How many times faster.
    pub speedup: f64,
    /// Guesses made.
    pub drafted: u64,
    /// Guesses taken.
    pub taken: u64,
    /// It is the same text, token for token.
    pub same_text: bool,
}

impl DraftReport {
    /// Fills in what the predictions of a text say.
    pub fn add_overlaps(&mut self, overlaps: &[Overlap]) {
        let mean = |sum: f64| sum / overlaps.len().max(1) as f64;
        self.tokens = overlaps.len() as u64;
        self.top1 = mean(overlaps.iter().filter(|overlap| overlap.same_top).count() as f64);
        self.acceptance = mean(overlaps.iter().map(|overlap| overlap.shared).sum());
    }

    /// Fills in what was said, after [`DraftReport::add_overlaps`].
    pub fn add_rollouts(&mut self, said: &[Rollout]) {
        self.said = said.iter().map(|said| said.tokens.len() as u64).sum();
        self.target_seconds = median(said.iter().flat_map(|said| said.step_seconds.iter().copied()));
        self.draft_seconds = median(said.iter().flat_map(|said| said.guess_seconds.iter().copied()));
        self.cost = self.draft_seconds / self.target_seconds.max(f64::MIN_POSITIVE);
        let pass = |tokens: usize| match tokens {
            0 | 1 => 1.0,
            _ => {
                let passes = said.iter().filter_map(|said| said.pass_seconds.get(tokens - 2));
                median(passes.flatten().copied()) / self.target_seconds.max(f64::MIN_POSITIVE)
            }
        };
        let passes: Vec<f64> = (0..=LONGEST + 1).map(pass).collect();
        self.bursts =
            (1..=LONGEST).map(|guesses| burst(said, guesses, self.cost, self.acceptance, &passes)).collect();
        let best =
            self.bursts.iter().max_by(|a, b| a.implied.total_cmp(&b.implied).then(b.guesses.cmp(&a.guesses)));
        self.best = best.map_or(1, |burst| burst.guesses);
    }
}

/// How bursts of one size fare. `passes` are the costs of passes over 0, 1, 2, … tokens.
fn burst(said: &[Rollout], guesses: usize, cost: f64, acceptance: f64, passes: &[f64]) -> Burst {
    let mut burst = Burst { guesses, pass_cost: passes[guesses + 1], ..Burst::default() };
    let (mut all, mut time) = (0, 0.0);
    for said in said {
        all += said.tokens.len().saturating_sub(1);
        for Step { guesses, taken } in walk(&said.right, guesses) {
            burst.drafted += guesses as u64;
            burst.taken += taken as u64;
            burst.passes += 1;
            time += guesses as f64 * cost + passes[guesses + 1];
        }
    }
    let share = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
    burst.accepted = share(burst.taken as f64, burst.passes as f64);
    burst.implied = share(all as f64, time);
    burst.ideal = share(all as f64, burst.drafted as f64 * cost + burst.passes as f64);
    burst.ideal_sampled = tokens_a_burst(acceptance, guesses) / (guesses as f64 * cost + 1.0);
    burst
}

/// `(1 − α^(γ+1)) / (1 − α) = 1 + α + … + α^γ`
fn tokens_a_burst(acceptance: f64, guesses: usize) -> f64 {
    (0..=guesses).map(|power| acceptance.powi(power as i32)).sum()
}

/// One pass of the target over a burst.
struct Step {
    guesses: usize,
    taken: usize,
}

/// The passes in which a text is said. `right` has, for each token of it, how many guesses after it are right; no more is
/// guessed than the text has room for, and a pass says a token more than it takes.
fn walk(right: &[usize], most: usize) -> Vec<Step> {
    let (mut at, mut steps) = (0, Vec::new());
    while at + 1 < right.len() {
        let guesses = most.min(right.len() - at - 2);
        let taken = right[at].min(guesses);
        steps.push(Step { guesses, taken });
        at += taken + 1;
    }
    steps
}

/// The middle of some values; 0 without any.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(right: &[usize]) -> Rollout {
        let pass = |tokens: usize| vec![tokens as f64; 3];
        Rollout {
            tokens: vec![7; right.len()],
            right: right.to_vec(),
            step_seconds: vec![2.0, 4.0, 9.0],
            guess_seconds: vec![1.0, 1.0, 5.0],
            pass_seconds: (2..=LONGEST + 1).map(pass).collect(),
        }
    }

    #[test]
    fn bursts_follow_from_what_is_right_at_each_token() {
        // ten tokens: after the first, three guesses are right; after the fifth, none; then two; then all
        let right = [3, 2, 1, 0, 0, 2, 1, 0, 1, 0];
        let mut report = DraftReport { acceptance: 0.5, ..DraftReport::default() };
        report.add_rollouts(&[said(&right)]);
        assert_eq!((report.target_seconds, report.draft_seconds, report.cost), (4.0, 1.0, 0.25));
        let counts = |n: usize| {
            let burst = &report.bursts[n - 1];
            (burst.drafted, burst.taken, burst.passes)
        };
        // one at a time: 0 takes 1, 2 takes 1, 4 takes none, 5 takes 1, 7 takes none, 8 has no room to guess
        assert_eq!(counts(1), (5, 3, 6));
        // four at a time: 0 takes 3, 4 none, 5 takes 2 of 3, 8
        assert_eq!(counts(4), (4 + 4 + 3, 5, 4));
        let four = &report.bursts[3];
        assert_eq!((four.accepted, four.pass_cost), (1.25, 1.25));
        assert!((four.ideal - 9.0 / (11.0 * 0.25 + 4.0)).abs() < 1e-12);
        // passes over 5, 5, 4 tokens at a quarter of a step each, and one of a single token
        assert!((four.implied - 9.0 / (11.0 * 0.25 + 1.25 + 1.25 + 1.0 + 1.0)).abs() < 1e-12);
        assert!((four.ideal_sampled - (1.0 - 0.5f64.powi(5)) / 0.5 / 2.0).abs() < 1e-12);
        let most = report.bursts.iter().map(|burst| burst.implied).fold(0.0, f64::max);
        assert_eq!(report.bursts[report.best - 1].implied, most);
    }

    #[test]
    fn a_text_of_one_token_has_no_bursts() {
        let mut report = DraftReport::default();
        report.add_overlaps(&[]);
        report.add_rollouts(&[said(&[0]), Rollout::default()]);
        assert_eq!((report.top1, report.said, report.bursts.len()), (0.0, 1, LONGEST));
        assert!(report.bursts.iter().all(|burst| burst.passes == 0 && burst.implied == 0.0));
    }
}
