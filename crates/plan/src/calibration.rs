//! `[calibration]` of a recipe.

use serde::{Deserialize, Serialize};

/// `[calibration]`: calibrated quantization.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// The algorithm.
    pub method: CalibrationMethod,
    /// Length of a chunk of plain text in tokens, and the maximum of a conversation.
    #[serde(default = "context")]
    pub context: usize,
}

/// A method of calibrated quantization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
        Calibration { method, context: context() }
    }
}

fn context() -> usize {
    512
}
