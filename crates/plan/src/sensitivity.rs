//! Sensitivities: the cost of quantizing each tensor, as the crate `calibrate` measures it. For each tensor: the KL
//! divergence that quantizing it alone causes, and the quantization error of each type.
//!
//! For small errors the costs are additive and proportional to the squared error (linearity theorem of HIGGS,
//! arXiv:2411.17525). So the KL divergence at one type and the errors of all types give the KL divergence at each
//! type.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tensor::{DType, Error, Result};

use crate::serde_dtype;

/// The types whose errors are measured.
pub const MEASURED_TYPES: &[DType] = &[
    DType::Q2_K,
    DType::Q3_K,
    DType::IQ4_XS,
    DType::IQ4_NL,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q4_K,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q5_K,
    DType::Q6_K,
    DType::Q8_0,
    DType::F16,
    DType::BF16,
];

/// Quantization costs by tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sensitivity {
    /// The model's fingerprint in hexadecimal, see [`crate::DraftTarget::fingerprint`].
    pub model: String,
    /// Digest of the model, the tokens and the version of this program: equal ids mean equal costs.
    pub id: String,
    /// The text files, by the paths that the user gave.
    pub texts: Vec<String>,
    /// Number of tokens that the models read.
    pub tokens: u64,
    /// The type that one tensor at a time was quantized to.
    #[serde(with = "serde_dtype::one")]
    pub reference: DType,
    /// Costs by GGUF name.
    pub tensors: BTreeMap<String, TensorCost>,
}

/// The cost of quantizing one tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorCost {
    /// The role by llama.cpp's name.
    pub role: String,
    /// The layer's index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// Mean KL divergence of the model's predictions, in nats per token, when only this tensor has the reference
    /// type. Not every layer is measured; the others are interpolated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kld: Option<f64>,
    /// Relative squared error by type: squared error over squared weights, columns weighted by importance.
    pub errors: BTreeMap<String, f64>,
}

impl TensorCost {
    /// The error of a type, if it was measured.
    pub fn error(&self, dtype: DType) -> Option<f64> {
        self.errors.get(dtype.name()).copied()
    }
}

impl Sensitivity {
    /// Parses sensitivities from JSON.
    ///
    /// # Errors
    /// `Malformed` for other content.
    pub fn parse(json: &[u8]) -> Result<Sensitivity> {
        serde_json::from_slice(json).map_err(|e| {
            Error::malformed("sensitivities", e)
                .help("Expected is a file that `gemma-convert sensitivity` wrote.")
        })
    }

    /// Adds the tensors of another part of the measurement.
    ///
    /// # Errors
    /// `Malformed` for a part of another measurement, and for a tensor that both have.
    pub fn add(&mut self, part: Sensitivity) -> Result<()> {
        let head = |of: &Sensitivity| Sensitivity { tensors: BTreeMap::new(), ..of.clone() };
        if head(self) != head(&part) {
            return Err(Error::malformed("sensitivities", "of another model, text or version")
                .expected(&self.id, &part.id));
        }
        if let Some(name) = part.tensors.keys().find(|name| self.tensors.contains_key(*name)) {
            return Err(Error::malformed(format!("tensor {name}"), "two parts have its sensitivity"));
        }
        self.tensors.extend(part.tensors);
        Ok(())
    }

    /// The predicted KL divergence when only this tensor has this type, in nats per token: measured, or interpolated
    /// between layers.
    ///
    /// # Errors
    /// `Malformed` for a tensor or a type without measurements.
    pub fn kld(&self, name: &str, dtype: DType) -> Result<f64> {
        let unknown = |what: String| {
            Error::malformed(format!("tensor {name}"), format!("the sensitivities do not contain {what}"))
                .help("Measure them again for this checkpoint, with `gemma-convert sensitivity`.")
        };
        let cost = self.tensors.get(name).ok_or_else(|| unknown("it".to_owned()))?;
        let error = cost.error(dtype).ok_or_else(|| unknown(format!("its error as {dtype}")))?;
        let slope = self.slope(cost).ok_or_else(|| unknown(format!("any {}", cost.role)))?;
        Ok(slope * error)
    }

    /// KL divergence per relative squared error: measured, or interpolated between layers if the tensor was not
    /// measured or the reference type does not change it.
    fn slope(&self, of: &TensorCost) -> Option<f64> {
        let slope = |cost: &TensorCost| {
            let error = cost.error(self.reference).filter(|error| *error > 0.0)?;
            Some(cost.kld?.max(0.0) / error)
        };
        if let Some(slope) = slope(of) {
            return Some(slope);
        }
        let measured = || {
            let same = self.tensors.values().filter(|cost| cost.role == of.role);
            same.filter_map(|cost| Some((cost.layer?, slope(cost)?)))
        };
        let at = of.layer.unwrap_or(0);
        let before = measured().filter(|(layer, _)| *layer < at).max_by_key(|(layer, _)| *layer);
        let after = measured().filter(|(layer, _)| *layer > at).min_by_key(|(layer, _)| *layer);
        match (before, after) {
            (Some((low, a)), Some((high, b))) => Some(a + (b - a) * (at - low) as f64 / (high - low) as f64),
            (Some((_, only)), None) | (None, Some((_, only))) => Some(only),
            // nothing to interpolate from: the reference type changes no layer of this role
            (None, None) => of.kld,
        }
    }
}
