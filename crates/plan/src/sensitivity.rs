//! What rounding each tensor costs, as `calibrate` measures it: the predictions that move when one tensor alone is
//! rounded, and how much more or less another type would be off.
//!
//! For small errors these costs add up, and grow as the squared error does (linearity, HIGGS, arXiv:2411.17525): with the KL
//! divergence at one type and the errors at all, that at each type is known.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tensor::{DType, Error, Result};

use crate::serde_dtype;

/// The types whose errors are known.
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

/// Costs of rounding, by tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sensitivity {
    /// What the model is known by, in hexadecimal; see [`crate::DraftTarget::fingerprint`].
    pub model: String,
    /// Digest of the model, the tokens and the version of this program: of equal ones, equal costs.
    pub id: String,
    /// What was read: the files, by the paths that were given.
    pub texts: Vec<String>,
    /// Tokens of it that the models read.
    pub tokens: u64,
    /// The type that one tensor at a time was rounded to.
    #[serde(with = "serde_dtype::one")]
    pub reference: DType,
    /// By name in a GGUF.
    pub tensors: BTreeMap<String, TensorCost>,
}

/// What rounding one tensor costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorCost {
    /// What it does.
    pub role: String,
    /// Its layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// Mean KL divergence of the model's predictions, in nats a token, when it alone has the reference type. Not every
    /// layer is measured; those between are taken to be between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kld: Option<f64>,
    /// Squared error over squared weights, each column by its importance, by type.
    pub errors: BTreeMap<String, f64>,
}

impl TensorCost {
    /// The error of a type, if it is known.
    pub fn error(&self, dtype: DType) -> Option<f64> {
        self.errors.get(dtype.name()).copied()
    }
}

impl Sensitivity {
    /// Reads one that was kept as JSON.
    ///
    /// # Errors
    /// `Malformed` for anything else.
    pub fn parse(json: &[u8]) -> Result<Sensitivity> {
        serde_json::from_slice(json).map_err(|e| {
            Error::malformed("sensitivities", e)
                .help("A file of them is what `gemma-convert sensitivity` writes.")
        })
    }

    /// The KL divergence when this tensor alone has this type: as measured, or as the layers on both sides of it suggest.
    ///
    /// # Errors
    /// `Malformed` for a tensor or a type of which nothing is known.
    pub fn kld(&self, name: &str, dtype: DType) -> Result<f64> {
        let unknown = |what: String| {
            Error::malformed(format!("tensor {name}"), format!("the sensitivities know nothing of {what}"))
                .help("Measure them anew for this checkpoint, with `gemma-convert sensitivity`.")
        };
        let cost = self.tensors.get(name).ok_or_else(|| unknown("it".to_owned()))?;
        let error = cost.error(dtype).ok_or_else(|| unknown(format!("its error as {dtype}")))?;
        let slope = self.slope(cost).ok_or_else(|| unknown(format!("any {}", cost.role)))?;
        Ok(slope * error)
    }

    /// KL divergence a relative squared error: as measured, or as the layers on both sides suggest where it was not, or where
    /// the reference type changes nothing.
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
            // nothing tells what it would cost: in no layer does the reference type change anything
            (None, None) => of.kld,
        }
    }
}
