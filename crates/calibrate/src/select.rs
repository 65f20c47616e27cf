//! Which rounding of a matrix is kept: the one that does better on text that is held out.

use serde::{Deserialize, Serialize};
use tensor::Result;

use crate::layer_stats::RoundingTarget;
use crate::ldl::Factors;
use crate::quantize_matrix::{HeldOutError, MatrixSource, Rounded, quantize_ldlq, quantize_rtn};

/// No output may be farther from what it was, on text that is held out, than with plain rounding times this.
const WORSE: f64 = 1.02;

/// How a tensor was rounded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TensorReport {
    /// Its name in the output.
    pub tensor: String,
    /// `feedback`, or `plain` where error feedback did worse on text that was held out; of experts: how many got it.
    pub method: Method,
    /// Mean squared error of its output on text that was held out, over that of llama-quantize's rounding with the same
    /// importance. `None` where nothing was held out for it.
    pub error_ratio: Option<f64>,
}

/// How a tensor was rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// With error feedback.
    Feedback,
    /// As llama-quantize does with importance.
    Plain,
    /// Some experts so, some so.
    Mixed,
}

/// One matrix, rounded the better way.
pub(crate) struct Selected {
    pub(crate) rounded: Rounded,
    fed: bool,
    plain: HeldOutError,
}

/// Rounds a matrix with error feedback, and all corrections where they do good on text that is held out; else with those
/// that do; else plainly.
pub(crate) fn choose(
    matrix: &MatrixSource<'_>,
    factors: Option<&Factors>,
    prepared: &RoundingTarget,
) -> Result<Selected> {
    let reference = quantize_rtn(matrix, prepared.importance.as_deref())?;
    let plain = reference.cost;
    for residual in [true, false] {
        let Some(factors) = factors.filter(|_| !residual || prepared.correction.has_residual()) else {
            continue;
        };
        let rounded = quantize_ldlq(matrix, factors, &prepared.correction, residual)?;
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
