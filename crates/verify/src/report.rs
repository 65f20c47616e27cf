//! What a verification found. As JSON it is the document of `verify --json`, described in `docs/report.md`;
//! nothing else is needed to show it.
//!
//! Shares and probabilities are between 0 and 1, divergences in nats, sizes in bytes. A part that did not run is left
//! out; `skipped` says why.

use std::collections::BTreeMap;

use eval::{DeltaP, EvaluatedText, Figures, Kld, ModelInfo, Perplexity};
use plan::Allocation;
use serde::{Deserialize, Serialize};
use text::Remark;

/// The number of the schema. It grows when a key changes its meaning or goes; new keys leave it.
pub const SCHEMA: u32 = 1;

/// The whole result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Name and version of the tool.
    pub tool: String,
    /// Vector instructions and kernel that the figures were computed with: `avx512, amx`.
    #[serde(default)]
    pub compute: String,
    /// No finding is a failure.
    pub passed: bool,
    /// How it ended.
    #[serde(default)]
    pub outcome: Outcome,
    /// There was a checkpoint, a model or a file of its logits to compare it with.
    #[serde(default)]
    pub compared: bool,
    /// What was verified.
    pub artifact: ModelInfo,
    /// What it was held against.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<ModelInfo>,
    /// What is wrong or worth knowing, in the order in which it was found.
    pub findings: Vec<Finding>,
    /// Steps that were not run, with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub skipped: Vec<Skipped>,
    /// What the artifact's types were chosen by, if they were chosen by a budget.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub allocation: Option<Allocation>,
    /// Keys and tensors against the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub structure: Option<Structure>,
    /// Weights against those of the base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensors: Option<Tensors>,
    /// The text that both models read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<EvaluatedText>,
    /// How well the text is predicted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<Perplexity>,
    /// KL divergence of the artifact's predictions from the base's, a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kld: Option<Kld>,
    /// Share of tokens at which both models think the same token likeliest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
    /// The change of the probability of the token that follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta_p: Option<DeltaP>,
    /// 95 % confidence intervals `[low, high]` by the name of the figure: `kld.mean`, `perplexity.base` …
    /// By bootstrap over documents, both models with the same ones.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub intervals: BTreeMap<String, [f64; 2]>,
    /// Thresholds and whether they hold.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub thresholds: Vec<Threshold>,
    /// Wall time of each step.
    pub seconds: BTreeMap<String, f64>,
}

impl Report {
    /// Adds the figures of the text. The documents and the run of figures along the text go to [`Report::text`].
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

/// How a verification ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A finding is a failure.
    #[default]
    Failed,
    /// No finding is a failure, and the artifact agrees with itself; there was nothing to compare it with.
    CheckedAlone,
    /// No finding is a failure, and the artifact was compared with a checkpoint, a model or its logits.
    Passed,
}

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Perhaps not what was wanted.
    Warning,
    /// The artifact is not what it should be.
    Failure,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finding {
    /// How grave it is.
    pub severity: Severity,
    /// The step that found it.
    pub step: Step,
    /// The key, tensor or threshold.
    pub place: String,
    /// What is wrong there, with the cause where it is known.
    pub problem: String,
    /// What should be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
}

impl Finding {
    /// A finding without details.
    pub fn new(severity: Severity, step: Step, place: impl ToString, problem: impl ToString) -> Finding {
        let (place, problem) = (place.to_string(), problem.to_string());
        Finding { severity, step, place, problem, expected: None, found: None }
    }

    /// Adds what should be there and what is.
    #[must_use]
    pub fn expected(self, expected: impl ToString, found: impl ToString) -> Finding {
        Finding { expected: Some(expected.to_string()), found: Some(found.to_string()), ..self }
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

/// The steps, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Keys and tensors against the plan.
    Structure,
    /// Weights against those of the base.
    Tensors,
    /// Predictions against those of the base.
    Text,
    /// Figures against the limits that were set.
    Thresholds,
}

/// A step that did not run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Skipped {
    /// Which.
    pub step: Step,
    /// Why.
    pub why: String,
}

/// What was compared with the plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Structure {
    /// What the plan was made from: `manifest`, `recipe q4_0`, `general.file_type` …
    pub plan: String,
    /// Keys that are as planned.
    pub keys: u64,
    /// Tensors that are as planned.
    pub tensors: u64,
    /// Files whose SHA-256 is that of the manifest.
    pub hashed: u64,
}

/// Errors of all tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Tensors {
    /// By role, in the order of the file.
    pub roles: Vec<RoleError>,
    /// Each tensor, in the order of the file.
    pub tensors: Vec<TensorError>,
}

/// How far the decoded weights `y` of a tensor are from those of the base `x`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TensorError {
    /// The name in the artifact.
    pub name: String,
    /// llama.cpp's name of what it does: `attn_q`, `ffn_down` …
    pub role: String,
    /// Its layer.
    pub layer: Option<usize>,
    /// The type in the artifact.
    pub dtype: String,
    /// Bytes in the artifact.
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
    /// What it was held against.
    #[serde(default)]
    pub compared: Compared,
    /// Blocks whose bytes were compared; 0 where none could be.
    #[serde(default)]
    pub blocks: u64,
    /// Those of them that are not what the checkpoint gives.
    #[serde(default)]
    pub differing: u64,
}

/// What the weights of a tensor were held against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Compared {
    /// The bytes that the checkpoint gives.
    Bytes,
    /// What a type may be away from the checkpoint, and what the rest of the tensor is.
    #[default]
    Limits,
}

/// The block of a tensor with the largest relative error.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WorstBlock {
    /// Row, all dimensions but the last taken as one.
    pub row: u64,
    /// First column.
    pub column: u64,
    /// Its relative error.
    pub relative: f64,
}

/// Errors of the tensors of a role.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RoleError {
    /// As in [`TensorError::role`].
    pub role: String,
    /// Number of tensors.
    pub tensors: u64,
    /// Bytes in the artifact by type.
    pub types: BTreeMap<String, u64>,
    /// Bytes in the artifact.
    pub bytes: u64,
    /// Bytes in the base.
    pub base_bytes: u64,
    /// Over all their weights.
    pub rmse: f64,
    /// Over all their weights.
    pub relative: f64,
    /// Over all their weights.
    pub cosine: f64,
}

/// A limit that was set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Threshold {
    /// The figure: `kld.mean`, `perplexity.ratio`, `top1`.
    pub figure: String,
    /// The most that it may be, or for `top1` the least.
    pub limit: f64,
    /// What it is.
    pub found: f64,
    /// Whether it holds.
    pub holds: bool,
}
