//! The features of a file: the soft tokens that two towers make of an image or a sound.

use serde::{Deserialize, Serialize};

use crate::sums::Sums;

/// Errors of the soft tokens that the artifact makes of an image or a sound. The base computes as the artifact's reader does, with the same
/// patches or spectrum, so that only the weights differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
}
