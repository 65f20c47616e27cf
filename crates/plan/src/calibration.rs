//! `[calibration]` of a recipe.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tensor::{Error, Result};

/// `[calibration]`: calibrated quantization.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// The algorithm.
    pub method: CalibrationMethod,
    /// Length of a chunk of plain text in tokens, and the maximum of a conversation.
    #[serde(default = "context")]
    pub context: usize,
    /// Number of groups of consecutive layers. The correction of earlier errors begins anew with each, on the activations of the
    /// checkpoint, so that parts of a job quantize them independently.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub groups: usize,
}

/// A method of calibrated quantization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CalibrationMethod {
    /// Error feedback (LDLQ, the method of GPTQ), layer by layer, each on the activations of the quantized layers
    /// before it.
    Ldlq,
}

impl CalibrationMethod {
    /// The method's name in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            CalibrationMethod::Ldlq => "ldlq",
        }
    }

    /// The method with this name.
    pub fn named(name: &str) -> Option<CalibrationMethod> {
        [CalibrationMethod::Ldlq].into_iter().find(|method| method.name() == name)
    }
}

impl Calibration {
    /// A calibration with this method and the default context.
    pub fn by(method: CalibrationMethod) -> Calibration {
        Calibration { method, context: context(), groups: one() }
    }

    /// Checks the number of groups of a model with this many layers.
    ///
    /// # Errors
    /// `Recipe`.
    pub(crate) fn check(&self, layers: usize) -> Result<()> {
        if (1..=layers).contains(&self.groups) {
            return Ok(());
        }
        Err(Error::recipe("calibration.groups", "the layers cannot be cut into that many groups")
            .expected(format!("1 to {layers}, the layers of the model"), self.groups))
    }
}

fn context() -> usize {
    512
}

fn one() -> usize {
    1
}

fn is_one(groups: &usize) -> bool {
    *groups == one()
}
