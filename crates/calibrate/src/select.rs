//! Candidate selection: of several quantizations of a matrix, the best on held-out text.

use serde::{Deserialize, Serialize};
use tensor::Result;

use crate::layer_stats::{Correction, RoundingTarget};
use crate::ldl::Factors;
use crate::quantize_matrix::{HeldOutError, MatrixSource, Rounded, quantize_ldlq, quantize_rtn};

/// The largest accepted output error on held-out text, as a multiple of the error of round-to-nearest (RTN).
const WORSE: f64 = 1.02;

/// The result of quantizing a tensor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TensorReport {
    /// Its name in the output.
    pub tensor: String,
    /// The method of the selected quantization; for experts, whether all got the same.
    pub method: Method,
    /// Mean squared error of the output on held-out text, divided by that of round-to-nearest (RTN) with the same importance.
    /// `None` if no held-out token reached the tensor.
    pub error_ratio: Option<f64>,
}

/// Quantization method of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Error feedback (LDLQ).
    Feedback,
    /// Round-to-nearest (RTN) with importance, as llama-quantize does.
    Plain,
    /// Error feedback for some experts, RTN for the others.
    Mixed,
}

/// The selected quantization of one matrix.
pub(crate) struct Selected {
    pub(crate) rounded: Rounded,
    fed: bool,
    plain: HeldOutError,
}

/// Quantizes a matrix with error feedback and all corrections; without the residual correction, and then by RTN, where the
/// result is worse than RTN on held-out text.
pub(crate) fn choose(
    matrix: &MatrixSource<'_>,
    factors: Option<&Factors>,
    prepared: &RoundingTarget,
) -> Result<Selected> {
    let reference = quantize_rtn(matrix, prepared.importance.as_deref())?;
    let plain = reference.cost;
    for residual in [true, false] {
        let correction = prepared.correction.as_ref();
        let applies = !residual || correction.is_some_and(Correction::has_residual);
        let Some(factors) = factors.filter(|_| applies) else { continue };
        let rounded = quantize_ldlq(matrix, factors, correction, residual)?;
        if rounded.cost.target <= plain.target && rounded.cost.output <= WORSE * plain.output {
            return Ok(Selected { rounded, fed: true, plain });
        }
    }
    Ok(Selected { rounded: reference, fed: false, plain })
}

pub(crate) fn report(tensor: &str, matrices: &[Selected]) -> TensorReport {
    let fed = matrices.iter().filter(|matrix| matrix.fed).count();
    let sum = |of: fn(&Selected) -> f64| matrices.iter().map(of).sum::<f64>();
    let (chosen, plain) = (sum(|m| m.rounded.cost.output), sum(|m| m.plain.output));
    TensorReport {
        tensor: tensor.to_owned(),
        method: match fed {
            0 => Method::Plain,
            all if all == matrices.len() => Method::Feedback,
            _ => Method::Mixed,
        },
        error_ratio: (plain > 0.0).then(|| chosen / plain),
    }
}
