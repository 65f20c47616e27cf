//! The features of a file: the soft tokens that two towers make of an image or a sound.

use std::collections::VecDeque;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sums::Sums;

/// Errors of the soft tokens that the artifact makes of an image or a sound. The base computes as the artifact's reader does, with the same
/// patches or spectrum, so that only the weights differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FeatureErrors {
    /// The image or the sound.
    pub file: String,
    /// Number of soft tokens.
    pub soft_tokens: u64,
    /// Root mean square of the difference, relative to that of the base.
    pub relative_rms: f64,
    /// The same of the soft token where it is largest.
    pub worst: f64,
    /// The number of that soft token.
    pub worst_token: u64,
    /// Cosine similarity.
    pub cosine: f64,
    /// The same difference between the base as the artifact's reader computes it and as transformers does: activation, spectrum. `None` where
    /// the two make different numbers of soft tokens.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reader_rms: Option<f64>,
    /// The difference after each part of the tower, in order.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub stages: Vec<StageError>,
    /// A small PNG of the image, or of the sound's spectrogram, for a page; not in JSON.
    #[serde(skip)]
    pub picture: Vec<u8>,
}

/// The error of the states after a part of a tower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StageError {
    /// The part, by the name of the module in transformers.
    pub stage: String,
    /// Root mean square of the difference, relative to that of the base.
    pub relative_rms: f64,
}

/// Compares the states of two towers, stage by stage. The base goes first; its states are kept until the artifact's come.
#[derive(Debug, Default)]
pub struct StageErrors {
    base: VecDeque<Vec<f32>>,
    /// Stages in their order. Those of all windows of a sound are one.
    sums: Vec<(String, Sums)>,
}

impl StageErrors {
    /// Takes the states of the base at a stage.
    pub fn expect(&mut self, states: &[f32]) {
        self.base.push_back(states.to_vec());
    }

    /// Takes the states of the artifact at the same stage, in the same order.
    pub fn take(&mut self, stage: String, states: &[f32]) {
        let Some(base) = self.base.pop_front() else { return };
        let sums = Sums::of(&base, states);
        match self.sums.iter_mut().find(|(known, _)| *known == stage) {
            Some((_, sum)) => *sum = sum.plus(sums),
            None => self.sums.push((stage, sums)),
        }
    }

    /// The errors of the stages.
    pub fn finish(self) -> Vec<StageError> {
        let error = |(stage, sums): (String, Sums)| StageError { stage, relative_rms: sums.relative() };
        self.sums.into_iter().map(error).collect()
    }
}

impl FeatureErrors {
    /// Compares soft tokens of `width` values: of the base, of the artifact, and of the base as transformers computes it.
    pub fn of(
        file: String,
        width: usize,
        base: &[f32],
        artifact: &[f32],
        transformers: &[f32],
    ) -> FeatureErrors {
        let rows = base.chunks_exact(width).zip(artifact.chunks_exact(width));
        let of_rows: Vec<Sums> = rows.map(|(x, y)| Sums::of(x, y)).collect();
        let all = of_rows.iter().fold(Sums::default(), |sum, row| sum.plus(*row));
        let errors = of_rows.iter().map(Sums::relative).enumerate();
        let (worst_token, worst) = errors.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default();
        let reader = (base.len() == transformers.len()).then(|| Sums::of(transformers, base).relative());
        FeatureErrors {
            file,
            soft_tokens: of_rows.len() as u64,
            relative_rms: all.relative(),
            worst,
            worst_token: worst_token as u64,
            cosine: all.cosine(),
            reader_rms: reader,
            stages: Vec::new(),
            picture: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_token_is_found() {
        let base = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let artifact = [1.0, 2.0, 3.0, 4.4, 5.0, 6.0];
        let features = FeatureErrors::of("x".to_owned(), 2, &base, &artifact, &base[..4]);
        assert_eq!((features.soft_tokens, features.worst_token, features.reader_rms), (3, 1, None));
        assert!((features.worst - 0.08).abs() < 1e-6 && features.relative_rms < features.worst);
        let same = FeatureErrors::of("x".to_owned(), 2, &base, &base, &artifact);
        assert_eq!((same.relative_rms, same.cosine), (0.0, 1.0));
        assert!(same.reader_rms > Some(0.0));
    }

    #[test]
    fn windows_of_a_sound_add_up() {
        let mut stages = StageErrors::default();
        for states in [[3.0, 4.0], [1.0, 1.0], [0.0, 12.0], [1.0, 1.0]] {
            stages.expect(&states);
        }
        for (stage, states) in [("a", [3.0, 5.0]), ("b", [1.0, 1.0]), ("a", [0.0, 12.0]), ("b", [1.0, 1.0])] {
            stages.take(stage.to_owned(), &states);
        }
        let found: Vec<_> = stages.finish().into_iter().map(|s| (s.stage, s.relative_rms)).collect();
        assert_eq!(found, [("a".to_owned(), 1.0 / 13.0), ("b".to_owned(), 0.0)]);
    }
}
