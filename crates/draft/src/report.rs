//! The report of `draft measure`: acceptance rate, and speed-up by burst size.
//!
//! There are two measurements. Along a given text (`agreement.rs`): whether both models have the same most probable
//! token, and the overlap `Σ min(p, q)` of their predictions, which is the probability that the target's `p` accepts a
//! token drawn from the draft's `q` (Leviathan, Kalman and Matias, "Fast inference from transformers via speculative
//! decoding", 2023). And along rollouts of the target (`rollout.rs`): the number of correct draft tokens from each
//! position on. The acceptance of every burst size follows from that without another run.
//!
//! Let `c` be the time of a draft token and `v` that of the target's pass over a burst, both in steps of the target. A
//! burst of γ draft tokens of which `a` are accepted yields `a + 1` tokens in the time `γ c + v`. If steps are bound by
//! memory bandwidth, `v` is 1. If each draft token were accepted with an independent probability α, a burst would yield
//! `(1 − α^(γ+1)) / (1 − α)` tokens.

use eval::{EvaluatedText, Invocation, ModelInfo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Overlap, Rollout};

/// The schema number of [`DraftReport`]. It changes when a key changes its meaning or is removed, not when keys are
/// added.
pub const DRAFT_SCHEMA: u32 = 1;
/// The longest burst in the report.
pub const LONGEST: usize = 8;

/// The report of a draft model, printed by `draft measure --json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DraftReport {
    /// The schema number, [`DRAFT_SCHEMA`].
    pub schema: u32,
    /// Name and version of this program.
    pub tool: String,
    /// The command, the date and the files of text.
    #[serde(default)]
    pub run: Invocation,
    /// The draft model.
    pub draft: ModelInfo,
    /// The target model.
    pub target: ModelInfo,
    /// The evaluation text.
    pub text: EvaluatedText,
    /// Number of tokens of the text at which the models were compared.
    pub tokens: u64,
    /// Share of tokens for which both models have the same most probable token.
    pub top1: f64,
    /// Mean of `Σ min(p, q)`: the acceptance rate at temperature 1.
    pub acceptance: f64,
    /// Number of tokens in the rollouts of all prompts.
    pub said: u64,
    /// Median time of a step of the target in seconds.
    pub target_seconds: f64,
    /// Median time of a draft token in seconds.
    pub draft_seconds: f64,
    /// `draft_seconds / target_seconds`.
    pub cost: f64,
    /// One entry per burst size, from 1 on.
    pub bursts: Vec<Burst>,
    /// The burst size with the largest `implied` speed-up.
    pub best: usize,
    /// A timed run with that burst size.
    pub measured: Measured,
}

/// Figures of one burst size with greedy decoding.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Burst {
    /// Burst size: draft tokens per pass.
    pub guesses: usize,
    /// Number of draft tokens in all.
    pub drafted: u64,
    /// Number of accepted draft tokens.
    pub taken: u64,
    /// Number of passes of the target.
    pub passes: u64,
    /// Mean number of accepted draft tokens per pass.
    pub accepted: f64,
    /// Time of a pass over a full burst, in steps of the target.
    pub pass_cost: f64,
    /// Speed-up over the target alone, from the measured costs.
    pub implied: f64,
    /// Speed-up if a pass took no longer than a step.
    pub ideal: f64,
    /// Ideal speed-up at temperature 1: `(1 − α^(γ+1)) / (1 − α) / (γ c + 1)`.
    pub ideal_sampled: f64,
}

/// A timed run of speculative decoding, compared with the target alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Measured {
    /// Burst size: draft tokens per pass.
    pub guesses: usize,
    /// Seconds of the target alone.
    pub alone_seconds: f64,
    /// Seconds with the draft model.
    pub seconds: f64,
    /// `alone_seconds / seconds`.
    pub speedup: f64,
    /// Number of draft tokens in all.
    pub drafted: u64,
    /// Number of accepted draft tokens.
    pub taken: u64,
    /// Whether both runs gave the same tokens.
    pub same_text: bool,
}

impl DraftReport {
    /// Sets the agreement along the text.
    pub fn add_overlaps(&mut self, overlaps: &[Overlap]) {
        let mean = |sum: f64| sum / overlaps.len().max(1) as f64;
        self.tokens = overlaps.len() as u64;
        self.top1 = mean(overlaps.iter().filter(|overlap| overlap.same_top).count() as f64);
        self.acceptance = mean(overlaps.iter().map(|overlap| overlap.shared).sum());
    }

    /// Sets the figures of rollouts; call [`DraftReport::add_overlaps`] first.
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

/// Figures of one burst size. `passes` are the costs of passes over 0, 1, 2, … tokens.
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

/// The passes that generate a text. `right` is the number of correct draft tokens after each token. Bursts do not
/// exceed the end of the text, and a pass yields one token more than it accepts.
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

/// The median (upper, for an even count); 0 if there are no values.
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
        // ten tokens: three correct draft tokens after the first, none after the fifth, then two, then all
        let right = [3, 2, 1, 0, 0, 2, 1, 0, 1, 0];
        let mut report = DraftReport { acceptance: 0.5, ..DraftReport::default() };
        report.add_rollouts(&[said(&right)]);
        assert_eq!((report.target_seconds, report.draft_seconds, report.cost), (4.0, 1.0, 0.25));
        let counts = |n: usize| {
            let burst = &report.bursts[n - 1];
            (burst.drafted, burst.taken, burst.passes)
        };
        // bursts of 1: token 0 accepts 1, 2 accepts 1, 4 none, 5 accepts 1, 7 none; at 8 there is no room for a draft
        // token
        assert_eq!(counts(1), (5, 3, 6));
        // bursts of 4: token 0 accepts 3, 4 none, 5 accepts 2 of 3; then 8
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
