//! Sampling: the choice of the next token from logits, greedy or at random.
//!
//! The candidates are filtered in the order of llama.cpp (`common/common.h`, `samplers`; the other samplers are off by
//! default): top-k, top-p, min-p, then temperature. So top-p and min-p apply to the probabilities at temperature 1.
//!
//! Equal logits and an equal seed give equal tokens on every machine: sums are computed in order, in f64, and `exp` is
//! computed here, because the last bits of the system's `exp` vary.

use base::SplitMix64;
use runtime::argmax;
use serde::Serialize;

/// The settings of a sampler.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sampling {
    /// Divisor of the logits; 0 is greedy decoding.
    pub temperature: f64,
    /// Number of most probable tokens to keep; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of most probable tokens whose probabilities sum to at least this; 1 keeps all.
    pub top_p: f64,
    /// Keeps tokens with at least this share of the highest probability; 0 keeps all.
    pub min_p: f64,
    /// Seed of the random numbers.
    pub seed: u64,
}

/// Candidates with weights; the probability of a token is its weight / the total. There is at least one.
#[derive(Clone, Debug)]
pub(crate) struct Odds {
    pub(crate) tokens: Vec<(u32, f64)>,
    pub(crate) total: f64,
}

impl Odds {
    pub(crate) fn new(tokens: Vec<(u32, f64)>) -> Odds {
        let total = tokens.iter().map(|&(_, weight)| weight).sum();
        Odds { tokens, total }
    }

    /// The probability of a token.
    pub(crate) fn of(&self, token: u32) -> f64 {
        let found = self.tokens.iter().find(|&&(id, _)| id == token);
        found.map_or(0.0, |&(_, weight)| weight / self.total)
    }
}

/// A sampler of tokens.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: SplitMix64,
}

impl Sampler {
    /// A sampler at the beginning of the random sequence of its seed.
    pub fn new(sampling: Sampling) -> Sampler {
        Sampler { random: SplitMix64(sampling.seed), sampling }
    }

    /// Draws the index of a logit. A logit of −∞ is drawn only if there is no other.
    pub fn choose(&mut self, logits: &[f32]) -> u32 {
        if self.sampling.temperature == 0.0 {
            return argmax(logits) as u32;
        }
        let odds = self.odds(logits);
        self.draw(&odds)
    }

    /// The distribution to draw from.
    pub(crate) fn odds(&self, logits: &[f32]) -> Odds {
        if self.sampling.temperature == 0.0 {
            return Odds { tokens: vec![(argmax(logits) as u32, 1.0)], total: 1.0 };
        }
        let candidates = self.candidates(logits);
        let most = logits[candidates[0] as usize];
        let weight = |id: u32| exp(f64::from(logits[id as usize] - most) / self.sampling.temperature);
        Odds::new(candidates.into_iter().map(|id| (id, weight(id))).collect())
    }

    /// Draws a token from a distribution.
    pub(crate) fn draw(&mut self, odds: &Odds) -> u32 {
        let share = self.share();
        let mut reached = 0.0;
        let chosen = odds.tokens.iter().find(|&&(_, weight)| {
            reached += weight;
            reached > share * odds.total
        });
        chosen.unwrap_or(&odds.tokens[0]).0
    }

    /// A random number in [0, 1).
    pub(crate) fn share(&mut self) -> f64 {
        self.random.unit()
    }

    /// The tokens that pass the filters, most probable first; of equal ones the lower id first.
    fn candidates(&self, logits: &[f32]) -> Vec<u32> {
        let Sampling { top_k, top_p, min_p, .. } = self.sampling;
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        let likelier =
            |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then_with(|| a.cmp(b));
        if (1..ids.len()).contains(&top_k) {
            ids.select_nth_unstable_by(top_k - 1, likelier);
            ids.truncate(top_k);
        }
        ids.sort_unstable_by(likelier);
        let odds: Vec<f64> = {
            let most = logits[ids[0] as usize];
            ids.iter().map(|&id| exp(f64::from(logits[id as usize] - most))).collect()
        };
        let mut kept = ids.len();
        if top_p < 1.0 {
            let total: f64 = odds.iter().sum();
            let mut reached = 0.0;
            let last = odds.iter().position(|odds| {
                reached += odds;
                reached >= top_p * total
            });
            kept = last.map_or(kept, |last| last + 1);
        }
        kept = odds[..kept].partition_point(|&odds| odds >= min_p);
        ids.truncate(kept);
        ids
    }
}

/// `e^x` for `x ≤ 0`, with a relative error of 1e-12: with `x = k ln 2 + r` it is `2^k e^r`, and a series gives `e^r`.
fn exp(x: f64) -> f64 {
    use std::f64::consts::LN_2;
    let k = (x / LN_2).round();
    if k < -1022.0 {
        return 0.0;
    }
    let r = x - k * LN_2;
    let series = (1..=16).rev().fold(1.0, |sum, n| 1.0 + sum * r / f64::from(n));
    series * f64::from_bits(((1023 + k as i64) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };
    /// The logits of the probabilities 1/4, 1/2, 0, 1/16, 1/8 and 1/16.
    const LOGITS: [f32; 6] = {
        let half = -std::f32::consts::LN_2;
        [half, 0.0, f32::NEG_INFINITY, 3.0 * half, 2.0 * half, 3.0 * half]
    };

    /// Counts of the tokens in `n` draws.
    fn counts(sampling: Sampling, n: usize) -> [usize; 6] {
        let mut sampler = Sampler::new(sampling);
        let mut counts = [0; 6];
        (0..n).for_each(|_| counts[sampler.choose(&LOGITS) as usize] += 1);
        counts
    }

    /// The tokens that can be drawn.
    fn kept(sampling: Sampling) -> Vec<u32> {
        Sampler::new(sampling).candidates(&LOGITS)
    }

    #[test]
    fn exp_is_exp() {
        for step in 0..4000 {
            let x = f64::from(step) * -0.173;
            let (found, expected) = (exp(x), x.exp());
            assert!((found - expected).abs() <= 1e-12 * expected, "{x}");
        }
        assert_eq!((exp(0.0), exp(f64::NEG_INFINITY)), (1.0, 0.0));
    }

    /// Pearson's test. By chance, chi-square with 4 degrees of freedom exceeds 23.5 for one of 10,000 seeds.
    #[test]
    fn tokens_come_as_often_as_they_are_likely() {
        let n = 40_000;
        for (temperature, weights) in [
            (1.0, [4.0, 8.0, 0.0, 1.0, 2.0, 1.0]),
            (0.5, [16.0, 64.0, 0.0, 1.0, 4.0, 1.0]),
            (2.0, [2.0, 8f64.sqrt(), 0.0, 1.0, 2f64.sqrt(), 1.0]),
        ] {
            let total: f64 = weights.iter().sum();
            for seed in [0, 1, 42] {
                let counts = counts(Sampling { temperature, seed, ..PLAIN }, n);
                let chi_square =
                    counts.iter().zip(weights).filter(|&(_, weight)| weight > 0.0).map(|(&count, weight)| {
                        let expected = n as f64 * weight / total;
                        (count as f64 - expected).powi(2) / expected
                    });
                let chi_square: f64 = chi_square.sum();
                assert!(chi_square < 23.5, "temperature {temperature}, seed {seed}: {chi_square} {counts:?}");
                assert_eq!(counts[2], 0);
            }
        }
    }

    #[test]
    fn what_is_unlikely_is_left_out() {
        assert_eq!(kept(PLAIN), [1, 0, 4, 3, 5, 2]);
        for (top_k, expected) in
            [(1, &[1][..]), (3, &[1, 0, 4]), (4, &[1, 0, 4, 3]), (99, &[1, 0, 4, 3, 5, 2])]
        {
            assert_eq!(kept(Sampling { top_k, ..PLAIN }), expected, "top-k {top_k}");
        }
        for (top_p, expected) in
            [(1e-9, &[1][..]), (0.49, &[1]), (0.51, &[1, 0]), (0.8, &[1, 0, 4]), (0.99, &[1, 0, 4, 3, 5])]
        {
            assert_eq!(kept(Sampling { top_p, ..PLAIN }), expected, "top-p {top_p}");
        }
        for (min_p, expected) in
            [(1.0, &[1][..]), (0.4, &[1, 0]), (0.2, &[1, 0, 4]), (0.01, &[1, 0, 4, 3, 5])]
        {
            assert_eq!(kept(Sampling { min_p, ..PLAIN }), expected, "min-p {min_p}");
        }
        // top-p is a share of the sum after top-k: 1/2 of 3/4
        assert_eq!(kept(Sampling { top_k: 2, top_p: 0.6, ..PLAIN }), [1]);
        // the temperature comes last
        assert_eq!(kept(Sampling { temperature: 100.0, top_p: 0.49, ..PLAIN }), [1]);
    }

    #[test]
    fn a_seed_says_it_all() {
        let hot = Sampling { temperature: 1.5, seed: 7, ..PLAIN };
        assert_eq!(counts(hot, 500), counts(hot, 500));
        assert_ne!(counts(hot, 500), counts(Sampling { seed: 8, ..hot }, 500));
        assert_eq!(counts(Sampling { temperature: 0.0, ..PLAIN }, 9), [0, 9, 0, 0, 0, 0]);
    }
}
