//! `[calibration]` of a recipe.

use serde::{Deserialize, Serialize};

/// `[calibration]`: how weights are rounded for a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// How.
    pub method: CalibrationMethod,
    /// Tokens of a piece of plain text, and the most of a conversation.
    #[serde(default = "context")]
    pub context: usize,
}

/// A way to round for a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CalibrationMethod {
    /// Error feedback (LDLQ, as GPTQ), layer after layer, each for what the rounded ones before it give.
    Ldlq,
}

impl CalibrationMethod {
    /// As a recipe says it.
    pub fn name(self) -> &'static str {
        match self {
            CalibrationMethod::Ldlq => "ldlq",
        }
    }

    /// The method of a name.
    pub fn named(name: &str) -> Option<CalibrationMethod> {
        [CalibrationMethod::Ldlq].into_iter().find(|method| method.name() == name)
    }
}

impl Calibration {
    /// A method, with everything else as it usually is.
    pub fn by(method: CalibrationMethod) -> Calibration {
        Calibration { method, context: context() }
    }
}

fn context() -> usize {
    512
}
