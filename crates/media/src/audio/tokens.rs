//! Input of 12B, which has no audio tower: raw samples.

/// Samples of a soft token of 12B: 40 ms.
pub const SAMPLES_PER_TOKEN: usize = 640;

/// Rows of [`SAMPLES_PER_TOKEN`] samples.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleTokens {
    /// Number of soft tokens.
    pub rows: usize,
    /// `rows` × [`SAMPLES_PER_TOKEN`] samples.
    pub values: Vec<f32>,
}

/// The samples as soft tokens of 12B, the last one padded with zeros. Neither stack limits their number.
pub fn sample_tokens(samples: &[f32]) -> SampleTokens {
    let rows = samples.len().div_ceil(SAMPLES_PER_TOKEN);
    let mut values = samples.to_vec();
    values.resize(rows * SAMPLES_PER_TOKEN, 0.0);
    SampleTokens { rows, values }
}
