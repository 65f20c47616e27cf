//! Negative log-likelihood and KL divergence of a token, from rows of logits read in slices of the vocabulary.
//!
//! `ln p = l − max − ln Σ exp(l − max)`, and with p of the base and q of the artifact `KL = Σ p (ln p − ln q) = Σ p
//! (l_p − l_q) − ln Z_p + ln Z_q`. All sums are accumulated over slices, so no whole row of logits is needed. When a
//! slice has a larger maximum, the sums so far are rescaled to it.

use quant::Simd;
use serde::{Deserialize, Serialize};

use crate::exp_sums;

/// The predictions of a scored token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Token {
    /// Index of the sequence.
    pub document: usize,
    /// `−ln q` of the token, by the artifact.
    pub nll: f64,
    /// The base's prediction and its comparison with the artifact's.
    pub against: Option<Against>,
}

/// The base's prediction of a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// `−ln p` of the token.
    pub nll: f64,
    /// KL divergence of the artifact's prediction from the base's, in nats.
    pub kld: f64,
    /// Whether both models have the same most probable token.
    pub same_top: bool,
    /// The artifact's most probable token.
    pub guess: Guess,
    /// The base's most probable token.
    pub base_guess: Guess,
}

/// The most probable token of a prediction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guess {
    /// Its id.
    pub token: u32,
    /// Its probability.
    pub p: f32,
}

impl Token {
    /// `q − p` of the token; `None` without a base.
    pub fn delta_p(&self) -> Option<f64> {
        Some((-self.nll).exp() - (-self.against?.nll).exp())
    }
}

/// The lowest stored log probability, which stands for all smaller ones.
const BOTTOM: f32 = -16.0;
/// A log probability with a negligible exponential.
const NOTHING: f32 = -87.0;

/// The most probable token so far.
#[derive(Clone, Copy, Debug)]
struct Top {
    logit: f32,
    token: usize,
}

/// Sums over a part of the vocabulary for one model.
#[derive(Clone, Copy, Debug)]
struct Side {
    top: Top,
    /// `Σ exp(l − top)`
    sum: f64,
    /// The logit of the scored token.
    target: f32,
}

impl Side {
    const NEW: Side =
        Side { top: Top { logit: f32::NEG_INFINITY, token: 0 }, sum: 0.0, target: f32::NEG_INFINITY };

    /// Updates the largest logit; returns the factor that rescales older sums to it.
    fn look(&mut self, logits: &[f32], first: usize, target: usize) -> f64 {
        if let Some(&logit) = target.checked_sub(first).and_then(|at| logits.get(at)) {
            self.target = logit;
        }
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if largest <= self.top.logit {
            return 1.0;
        }
        let shrink = f64::from(self.top.logit - largest).exp();
        let token = first + logits.iter().position(|&l| l == largest).unwrap_or(0);
        self.top = Top { logit: largest, token };
        shrink
    }

    /// `ln Σ exp(l)`
    fn log_sum(&self) -> f64 {
        f64::from(self.top.logit) + self.sum.ln()
    }

    fn nll(&self) -> f64 {
        self.log_sum() - f64::from(self.target)
    }

    /// The most probable token, with the logarithm of the sum over the vocabulary.
    fn guess(&self, log_sum: f64) -> Guess {
        let p = (f64::from(self.top.logit) - log_sum).exp();
        Guess { token: self.top.token as u32, p: p as f32 }
    }
}

/// Accumulators for one row of logits of each model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    target: usize,
    artifact: Side,
    base: Side,
    /// `Σ exp(l_p − top_p) (l_p − l_q)`
    cross: f64,
}

impl Row {
    /// Empty accumulators; `target` is the scored token.
    pub(crate) fn new(target: u32) -> Row {
        Row { target: target as usize, artifact: Side::NEW, base: Side::NEW, cross: 0.0 }
    }

    /// Adds the artifact's logits of the tokens from `first` on, and the base's logits of the same tokens.
    pub(crate) fn take(&mut self, simd: Simd, first: usize, artifact: &[f32], base: Option<&[f32]>) {
        self.artifact.sum *= self.artifact.look(artifact, first, self.target);
        if let Some(base) = base {
            let shrink = self.base.look(base, first, self.target);
            self.base.sum *= shrink;
            self.cross *= shrink;
        }
        let tops = [base.map_or(0.0, |_| self.base.top.logit), self.artifact.top.logit];
        let sums = exp_sums(simd, base.unwrap_or(&[]), artifact, tops);
        self.base.sum += sums.p;
        self.artifact.sum += sums.q;
        self.cross += sums.cross;
    }

    /// [`Row::take`] with log probabilities from a file. Those at or below [`BOTTOM`] count as zero probability, as in
    /// llama-perplexity.
    pub(crate) fn take_stored(&mut self, simd: Simd, first: usize, artifact: &[f32], base: &mut [f32]) {
        let target = self.target.checked_sub(first).and_then(|at| base.get(at)).copied();
        for value in base.iter_mut().filter(|value| **value <= BOTTOM) {
            *value = NOTHING;
        }
        self.take(simd, first, artifact, Some(base));
        self.base.target = target.unwrap_or(self.base.target);
    }

    /// The result without a base, after the whole vocabulary.
    pub(crate) fn finish(&self, document: usize) -> Token {
        Token { document, nll: self.artifact.nll(), against: None }
    }

    /// The result with a base, after the whole vocabulary.
    pub(crate) fn finish_against(&self, document: usize) -> Token {
        let kld = self.cross / self.base.sum - self.base.log_sum() + self.artifact.log_sum();
        Token { against: Some(self.against(kld)), ..self.finish(document) }
    }

    /// The result with a base of log probabilities from a file, whose probabilities do not sum exactly to 1. As in
    /// llama-perplexity, `Σ p (ln p − ln q)` is not divided by `Σ p`.
    pub(crate) fn finish_against_stored(&self, document: usize) -> Token {
        // sums are relative to the maximum, which is a log probability
        let scale = f64::from(self.base.top.logit).exp();
        let kld = scale * (self.cross + self.base.sum * self.artifact.log_sum());
        let nll = -f64::from(self.base.target);
        let base_guess = self.base.guess(0.0);
        Token { against: Some(Against { nll, base_guess, ..self.against(kld) }), ..self.finish(document) }
    }

    fn against(&self, kld: f64) -> Against {
        Against {
            nll: self.base.nll(),
            kld,
            same_top: self.base.top.token == self.artifact.top.token,
            guess: self.artifact.guess(self.artifact.log_sum()),
            base_guess: self.base.guess(self.base.log_sum()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(seed: usize, len: usize) -> Vec<f32> {
        (0..len).map(|n| ((n * 7919 + seed * 104_729) % 1009) as f32 / 50.0 - 9.0).collect()
    }

    /// Reference values by definition, in f64.
    fn defined(p: &[f32], q: &[f32], target: usize) -> (f64, f64, f64) {
        let log_softmax = |l: &[f32]| {
            let z = l.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
            l.iter().map(|&l| f64::from(l) - z).collect::<Vec<_>>()
        };
        let (p, q) = (log_softmax(p), log_softmax(q));
        let kld = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
        (-p[target], -q[target], kld)
    }

    #[test]
    fn pieces_of_the_vocabulary_add_up_to_the_definitions() {
        for (seed, target) in [(1, 0), (2, 700), (3, 1499)] {
            let (p, q) = (logits(seed, 1500), logits(seed + 10, 1500));
            let mut row = Row::new(target);
            for first in (0..1500).step_by(400) {
                let piece = first..(first + 400).min(1500);
                row.take(Simd::detect(), first, &q[piece.clone()], Some(&p[piece]));
            }
            let token = row.finish_against(7);
            let against = token.against.unwrap();
            let (base, artifact, kld) = defined(&p, &q, target as usize);
            for (ours, exact) in [(against.nll, base), (token.nll, artifact), (against.kld, kld)] {
                assert!((ours - exact).abs() < 2e-6 * exact.abs().max(1.0), "{ours} is not {exact}");
            }
            assert_eq!((token.document, against.same_top), (7, false));
            for (guess, logits) in [(against.base_guess, &p), (against.guess, &q)] {
                let top = (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
                let z: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
                assert_eq!(guess.token as usize, top);
                assert!((f64::from(guess.p) - f64::from(logits[top]).exp() / z).abs() < 1e-6, "{guess:?}");
            }
            // log probabilities from a file are the same base
            let z = p.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
            let mut stored: Vec<f32> = p.iter().map(|&l| (f64::from(l) - z) as f32).collect();
            let mut row = Row::new(target);
            row.take_stored(Simd::detect(), 0, &q, &mut stored);
            let from_file = row.finish_against_stored(7).against.unwrap();
            assert!((from_file.kld - kld).abs() < 1e-5 && (from_file.nll - base).abs() < 1e-5);
            assert_eq!(from_file.base_guess.token, against.base_guess.token);
            assert!((from_file.base_guess.p - against.base_guess.p).abs() < 1e-5);
        }
    }

    #[test]
    fn a_token_at_the_bottom_of_a_file_keeps_its_probability() {
        let mut row = Row::new(2);
        row.take_stored(Simd::detect(), 0, &[5.0, 4.0, -12.0], &mut [-0.313, -1.313, -17.313]);
        let against = row.finish_against_stored(0).against.unwrap();
        assert!((against.nll - 17.313).abs() < 1e-6 && against.kld.abs() < 1e-3, "{against:?}");
    }

    #[test]
    fn a_model_does_not_diverge_from_itself() {
        let p = logits(5, 900);
        let mut row = Row::new(3);
        row.take(Simd::detect(), 0, &p[..450], Some(&p[..450]));
        row.take(Simd::detect(), 450, &p[450..], Some(&p[450..]));
        let token = row.finish_against(0);
        let against = token.against.unwrap();
        assert_eq!((against.kld, token.delta_p()), (0.0, Some(0.0)));
        assert!(against.same_top && against.nll == token.nll);
    }
}
