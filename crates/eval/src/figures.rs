//! Figures of an evaluation, in the form of the reports.
//!
//! Shares and probabilities are between 0 and 1, divergences in nats, sizes in bytes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use text::{Corpus, Protocol, Scored};

use crate::DivergentToken;

/// A model file or folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelInfo {
    /// Path as given by the user.
    pub path: String,
    /// Variant, such as `E2B` or `31B`, if it is a published size.
    pub variant: Option<String>,
    /// Size of all tensors of the text model in bytes.
    pub bytes: u64,
    /// Size of all weight files in bytes, with headers, padding and towers.
    #[serde(default)]
    pub file_bytes: u64,
    /// Number of weights of the text model.
    pub weights: u64,
    /// Size by element type in bytes.
    pub types: BTreeMap<String, u64>,
}

impl ModelInfo {
    /// Bits per weight.
    pub fn bits_per_weight(&self) -> f64 {
        self.bytes as f64 * 8.0 / (self.weights.max(1) as f64)
    }
}

/// An evaluated text: its protocol, and figures by document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EvaluatedText {
    /// Division of the text into sequences.
    pub protocol: Protocol,
    /// The scored part of a conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scored: Option<Scored>,
    /// Paths as given by the user.
    pub files: Vec<String>,
    /// The most tokens of a sequence.
    pub context: usize,
    /// Sequences: chunks of text or conversations. The units of the bootstrap.
    pub documents: Vec<Document>,
    /// Number of scored tokens.
    pub tokens: u64,
    /// Number of images and sounds in the conversations.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub media: u64,
    /// Mean KL divergences of short runs of scored tokens, in order: a few hundred, for a plot.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub along: Vec<Along>,
    /// Tokens with the largest KL divergence, the largest first.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub worst: Vec<DivergentToken>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Mean figures of a sequence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Document {
    /// Number of scored tokens.
    pub tokens: u64,
    /// Perplexity of the base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<f64>,
    /// Perplexity of the artifact.
    pub artifact: f64,
    /// Mean KL divergence in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kld: Option<f64>,
    /// Share of tokens for which both models have the same most probable token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
}

/// A run of scored tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Along {
    /// Index of the document.
    pub document: usize,
    /// Index of the first token among the scored tokens of all documents.
    pub token: u64,
    /// Mean KL divergence in nats.
    pub kld: f64,
}

/// Perplexity: `exp` of the mean of `−ln p` of the next token in the text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Perplexity {
    /// Perplexity of the base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<f64>,
    /// Perplexity of the artifact.
    pub artifact: f64,
    /// `artifact / base`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

/// KL divergence `Σ p_base ln(p_base / p_artifact)` in nats per token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Kld {
    /// Mean over tokens.
    pub mean: f64,
    /// Median over tokens.
    pub median: f64,
    /// 99 % quantile.
    pub p99: f64,
    /// 99.9 % quantile.
    pub p999: f64,
    /// Maximum.
    pub max: f64,
}

/// `p_artifact − p_base` of the next token in the text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeltaP {
    /// Mean over tokens.
    pub mean: f64,
    /// Root mean square.
    pub rms: f64,
    /// Quantiles as `[share, value]`.
    pub quantiles: Vec<[f64; 2]>,
    /// Token counts in equal bins from −1 to 1.
    pub histogram: Vec<u64>,
}

impl EvaluatedText {
    /// The description of a corpus, without figures.
    pub fn of(corpus: &Corpus) -> EvaluatedText {
        EvaluatedText {
            protocol: corpus.protocol,
            scored: corpus.scored,
            files: corpus.files.clone(),
            context: corpus.context,
            tokens: corpus.scored_tokens(),
            media: corpus.sequences.iter().map(|sequence| sequence.media.len() as u64).sum(),
            ..EvaluatedText::default()
        }
    }
}
