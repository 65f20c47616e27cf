//! Figures of an evaluation, as the reports print them.
//!
//! Shares and probabilities are between 0 and 1, divergences in nats, sizes in bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use text::{Corpus, Protocol, Scored};

/// A model file or folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelInfo {
    /// Path, as it was given.
    pub path: String,
    /// `E2B`, `31B` …, if it is one of the published sizes.
    pub variant: Option<String>,
    /// Bytes of all tensors of the text model.
    pub bytes: u64,
    /// Size of all files of weights, with headers, padding and towers.
    #[serde(default)]
    pub file_bytes: u64,
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

/// An evaluated text: how it was cut, and its figures by document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EvaluatedText {
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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

impl EvaluatedText {
    /// The description of a corpus, before a model has read it.
    pub fn of(corpus: &Corpus) -> EvaluatedText {
        EvaluatedText {
            protocol: corpus.protocol,
            scored: corpus.scored,
            files: corpus.files.clone(),
            context: corpus.context,
            tokens: corpus.scored_tokens(),
            ..EvaluatedText::default()
        }
    }
}
