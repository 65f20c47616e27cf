//! What a verification found. As JSON it is the document of `verify --json`, described in `docs/report.md`;
//! nothing else is needed to show it.
//!
//! Shares and probabilities are between 0 and 1, divergences in nats, sizes in bytes. A part that did not run is left
//! out; `skipped` says why.

use std::collections::BTreeMap;

use plan::Allocation;
use serde::{Deserialize, Serialize};

/// The number of the schema. It grows when a key changes its meaning or goes; new keys leave it.
pub const SCHEMA: u32 = 1;

/// The whole result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Name and version of the tool.
    pub tool: String,
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
    pub text: Option<Text>,
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

/// How a verification ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// A model file or folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Path, as it was given.
    pub path: String,
    /// `E2B`, `31B` …, if it is one of the published sizes.
    pub variant: Option<String>,
    /// Bytes of all tensors of the text model.
    pub bytes: u64,
    /// Number of weights of the text model.
    pub weights: u64,
    /// Bytes by element type.
    pub types: BTreeMap<String, u64>,
}

impl ModelInfo {
    /// Bits a weight takes.
    pub fn bits_per_weight(&self) -> f64 {
        self.bytes as f64 * 8.0 / (self.weights.max(1) as f64)
    }
}

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

/// The steps, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
pub struct Skipped {
    /// Which.
    pub step: Step,
    /// Why.
    pub why: String,
}

/// What was compared with the plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
pub struct Tensors {
    /// By role, in the order of the file.
    pub roles: Vec<RoleError>,
    /// Each tensor, in the order of the file.
    pub tensors: Vec<TensorError>,
}

/// How far the decoded weights `y` of a tensor are from those of the base `x`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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

/// How a text is cut and what of it is scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Plain text in chunks of the context, the second half of each scored, as llama-perplexity does. For base models.
    #[default]
    Raw,
    /// Conversations through the chat template. For instruction-tuned models.
    Chat,
}

/// What of a conversation is scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scored {
    /// All tokens that have one before them.
    #[default]
    All,
    /// What the model is to say.
    Answers,
}

/// The text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Text {
    /// How it was cut.
    pub protocol: Protocol,
    /// What of a conversation was scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scored: Option<Scored>,
    /// Paths, as they were given.
    pub files: Vec<String>,
    /// Tokens of a sequence, at most.
    pub context: usize,
    /// Sequences: chunks of text, or conversations. The units of the bootstrap.
    pub documents: Vec<Document>,
    /// Tokens that were scored.
    pub tokens: u64,
    /// The means of short runs of scored tokens, in their order; a few hundred, for a plot.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub along: Vec<Along>,
}

/// A sequence and its means.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Scored tokens.
    pub tokens: u64,
    /// Perplexity by the base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<f64>,
    /// Perplexity by the artifact.
    pub artifact: f64,
    /// Mean KL divergence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kld: Option<f64>,
    /// Share of tokens at which both think the same token likeliest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
}

/// A run of scored tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Along {
    /// The document.
    pub document: usize,
    /// The first of them, counted over all documents.
    pub token: u64,
    /// Mean KL divergence.
    pub kld: f64,
}

/// `exp` of the mean of `−ln p` of the tokens that follow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// Of the base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<f64>,
    /// Of the artifact.
    pub artifact: f64,
    /// artifact / base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

/// `Σ p_base ln(p_base / p_artifact)`, in nats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kld {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub median: f64,
    /// 99 % of tokens have less.
    pub p99: f64,
    /// 99.9 % of tokens have less.
    pub p999: f64,
    /// The largest.
    pub max: f64,
}

/// `p_artifact − p_base` of the token that follows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeltaP {
    /// Mean.
    pub mean: f64,
    /// Root of the mean square.
    pub rms: f64,
    /// Quantiles: `[share, value]`.
    pub quantiles: Vec<[f64; 2]>,
    /// Numbers of tokens in equal bins from −1 to 1.
    pub histogram: Vec<u64>,
}

/// A limit that was set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
