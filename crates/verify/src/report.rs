//! The verification report. Its JSON is the document of `verify --json`, described in `docs/report.md`. A program that
//! shows it needs nothing else.
//!
//! Shares and probabilities are between 0 and 1, divergences in nats, sizes in bytes. Parts that did not run are
//! absent; `skipped` gives the reason.

use std::collections::BTreeMap;

use eval::{DeltaP, EvaluatedText, Figures, Invocation, Kld, ModelInfo, Perplexity};
use plan::Allocation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tensor::Error;
use text::Remark;

use crate::features::FeatureErrors;

/// The schema number. It changes when a key changes its meaning or is removed, not when keys are added.
pub const SCHEMA: u32 = 1;

/// The report of a verification.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The schema number, [`SCHEMA`].
    pub schema: u32,
    /// Name and version of this program.
    pub tool: String,
    /// Vector instructions and kernel of the arithmetic: `avx512, amx`.
    #[serde(default)]
    pub compute: String,
    /// The command, the date and the files.
    #[serde(default)]
    pub run: Invocation,
    /// Whether no finding is a failure.
    pub passed: bool,
    /// The outcome.
    #[serde(default)]
    pub outcome: Outcome,
    /// Whether the artifact was compared with a checkpoint, a model or a file of its logits.
    #[serde(default)]
    pub compared: bool,
    /// The verified artifact.
    pub artifact: ModelInfo,
    /// The model that it was compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<ModelInfo>,
    /// Findings, in the order of discovery.
    pub findings: Vec<Finding>,
    /// Steps that were not run, with reasons.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub skipped: Vec<Skipped>,
    /// The bit allocation, if a budget chose the artifact's types.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub allocation: Option<Allocation>,
    /// Comparison of keys and tensors with the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub structure: Option<Structure>,
    /// Comparison of weights with those of the base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensors: Option<Tensors>,
    /// Soft tokens of images and sounds, of an mmproj file and its checkpoint.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub features: Vec<FeatureErrors>,
    /// The evaluation text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<EvaluatedText>,
    /// Perplexity of the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<Perplexity>,
    /// KL divergence of the artifact's predictions from the base's, per token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kld: Option<Kld>,
    /// Share of tokens for which both models have the same most probable token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
    /// Change of the probability of the next token in the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta_p: Option<DeltaP>,
    /// 95 % confidence intervals `[low, high]` by figure: `kld.mean`, `perplexity.base` …
    /// Bootstrap over documents, with the same sample for both models.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub intervals: BTreeMap<String, [f64; 2]>,
    /// The thresholds with their results.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub thresholds: Vec<Threshold>,
    /// Wall time of each step in seconds.
    pub seconds: BTreeMap<String, f64>,
}

impl Report {
    /// Adds the figures of the text. Those by document and by position go to [`Report::text`].
    pub fn add(&mut self, figures: Figures, tokens: u64) {
        self.intervals = figures.intervals;
        self.perplexity = Some(figures.perplexity);
        self.kld = figures.kld;
        self.top1 = figures.top1;
        self.delta_p = figures.delta_p;
        if let Some(text) = &mut self.text {
            text.tokens = tokens;
            text.documents = figures.documents;
            text.along = figures.along;
        }
    }
}

/// The outcome of a verification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// At least one finding is a failure.
    #[default]
    Failed,
    /// No finding is a failure, and the artifact is consistent; there was nothing to compare it with.
    CheckedAlone,
    /// No finding is a failure, and the artifact was compared with a checkpoint, a model or its logits.
    Passed,
}

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Information.
    Note,
    /// Possibly not intended.
    Warning,
    /// The artifact is not as expected.
    Failure,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// Severity of the finding.
    pub severity: Severity,
    /// The step that found it.
    pub step: Step,
    /// The key, tensor or threshold.
    pub place: String,
    /// The problem, with the cause where it is known.
    pub problem: String,
    /// The expected value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// The value found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
}

impl Finding {
    /// A finding without expected and found values.
    pub fn new(severity: Severity, step: Step, place: impl ToString, problem: impl ToString) -> Finding {
        let (place, problem) = (place.to_string(), problem.to_string());
        Finding { severity, step, place, problem, expected: None, found: None }
    }

    /// Adds the expected and the found value.
    #[must_use]
    pub fn expected(self, expected: impl ToString, found: impl ToString) -> Finding {
        Finding { expected: Some(expected.to_string()), found: Some(found.to_string()), ..self }
    }
}

impl From<&Error> for Finding {
    /// A failure of the structure.
    fn from(error: &Error) -> Finding {
        let (expected, found) = error.expected_found().unzip();
        Finding {
            expected: expected.map(str::to_owned),
            found: found.map(str::to_owned),
            ..Finding::new(Severity::Failure, Step::Structure, error.place(), error.problem())
        }
    }
}

impl From<Remark> for Finding {
    fn from(remark: Remark) -> Finding {
        let severity = if remark.is_warning { Severity::Warning } else { Severity::Note };
        let finding = Finding::new(severity, Step::Text, remark.place, remark.problem);
        match remark.expected {
            Some((expected, found)) => finding.expected(expected, found),
            None => finding,
        }
    }
}

/// The steps in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Comparison of keys and tensors with the plan.
    Structure,
    /// Comparison of weights with those of the base.
    Tensors,
    /// Comparison of soft tokens of images and sounds.
    Features,
    /// Comparison of predictions with those of the base.
    Text,
    /// Comparison of figures with thresholds.
    Thresholds,
}

/// A step that did not run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Skipped {
    /// The skipped step.
    pub step: Step,
    /// The reason.
    pub why: String,
}

/// Result of the comparison with the plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Structure {
    /// The source of the plan: `manifest`, `recipe q4_0`, `general.file_type` …
    pub plan: String,
    /// Number of keys that are as planned.
    pub keys: u64,
    /// Number of tensors that are as planned.
    pub tensors: u64,
    /// Number of files whose SHA-256 was compared with the manifest.
    pub hashed: u64,
}

/// Errors of the weights of all tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tensors {
    /// Figures by role, in the order of the file.
    pub roles: Vec<RoleError>,
    /// Figures by tensor, in the order of the file.
    pub tensors: Vec<TensorError>,
}

/// Differences between the decoded weights `y` of a tensor and those of the base, `x`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TensorError {
    /// The tensor's name in the artifact.
    pub name: String,
    /// llama.cpp's name of the role: `attn_q`, `ffn_down` …
    pub role: String,
    /// The layer; absent outside of layers.
    pub layer: Option<usize>,
    /// The tensor's type in the artifact.
    pub dtype: String,
    /// Size in the artifact in bytes.
    pub bytes: u64,
    /// Number of weights.
    pub weights: u64,
    /// `√mean((y − x)²)`.
    pub rmse: f64,
    /// `√(Σ(y − x)² / Σx²)`.
    pub relative: f64,
    /// `Σxy / √(Σx² Σy²)`.
    pub cosine: f64,
    /// The block of 32 weights with the largest relative error.
    pub worst_block: WorstBlock,
    /// The reference that the weights were compared with.
    #[serde(default)]
    pub compared: Compared,
    /// Number of blocks whose bytes were compared; 0 if none could be.
    #[serde(default)]
    pub blocks: u64,
    /// Number of those blocks that differ from the checkpoint's.
    #[serde(default)]
    pub differing: u64,
}

/// The reference that the weights of a tensor were compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compared {
    /// The bytes that quantizing the checkpoint gives.
    Bytes,
    /// Limits of the type's error, and the other rows of the tensor.
    #[default]
    Limits,
}

/// The block of a tensor with the largest relative error.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorstBlock {
    /// Row; all dimensions but the last are flattened.
    pub row: u64,
    /// First column.
    pub column: u64,
    /// Relative error of the block.
    pub relative: f64,
}

/// Errors of all tensors of a role.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RoleError {
    /// The role, as in [`TensorError::role`].
    pub role: String,
    /// Number of tensors.
    pub tensors: u64,
    /// Sizes in the artifact by type, in bytes.
    pub types: BTreeMap<String, u64>,
    /// Size in the artifact in bytes.
    pub bytes: u64,
    /// Size in the base in bytes.
    pub base_bytes: u64,
    /// RMSE over all weights.
    pub rmse: f64,
    /// Relative error over all weights.
    pub relative: f64,
    /// Cosine over all weights.
    pub cosine: f64,
}

/// A threshold and its result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Threshold {
    /// The figure: `kld.mean`, `perplexity.ratio`, `top1`.
    pub figure: String,
    /// The largest allowed value; for `top1` the smallest.
    pub limit: f64,
    /// The measured value.
    pub found: f64,
    /// Whether the measured value is within the limit.
    pub holds: bool,
}
