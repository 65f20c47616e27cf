//! Draft models ("assistants"): their additional config, and the check against their target.
//!
//! A draft model has no keys and values of its own. Each of its layers reads those of the *target*: of the last layer
//! of the same kind that has its own. Its inputs are the target's embeddings and hidden states. So the two must agree
//! in a number of sizes. Source: huggingface/transformers models/gemma4_assistant.

use serde_json::Value;
use tensor::{Error, Fault, Result};

use crate::Vocabulary;
use crate::config::fields::{Fields, MOST};
use crate::config::{Attention, Config, ModelKind, field};

/// The config of a draft model, in addition to the text model's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DraftConfig {
    /// `backbone_hidden_size`: the hidden size of the target.
    pub backbone: u64,
    /// The ordered embedding (E2B, E4B): the head evaluates only some groups of tokens.
    pub ordered: Option<Ordered>,
}

/// An ordered embedding: the vocabulary in groups of equal size, each with a centroid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ordered {
    /// `num_centroids`: the number of groups.
    pub centroids: u64,
    /// `centroid_intermediate_top_k`: the number of groups that the head evaluates.
    pub used: u64,
}

/// The default of transformers' `Gemma4AssistantConfig`, for GGUFs without the key.
pub(crate) const CENTROIDS_USED: u64 = 32;

impl DraftConfig {
    /// Reads the fields at the top level of `config.json`.
    pub(crate) fn from_fields(whole: &Fields<'_>) -> Result<DraftConfig> {
        let count = |key| whole.count(key, 1..=MOST);
        let backbone = count("backbone_hidden_size")?;
        let ordered = match whole.flag("use_ordered_embeddings")? {
            true => Some(Ordered {
                centroids: count("num_centroids")?,
                used: count("centroid_intermediate_top_k")?,
            }),
            false => None,
        };
        let draft = DraftConfig { backbone, ordered };
        draft.check().map_err(|e| e.moved(Fault::Malformed, field("centroid_intermediate_top_k")))?;
        Ok(draft)
    }

    pub(crate) fn check(&self) -> Result<()> {
        match self.ordered {
            Some(Ordered { centroids, used }) if used == 0 || used > centroids => Err(Error::malformed(
                "draft",
                format!("{used} of {centroids} groups of tokens: not a valid number"),
            )),
            _ => Ok(()),
        }
    }
}

/// Checks that all layers of a draft model read the K/V of the target.
pub(crate) fn check_shared(attention: &[Attention], shared: u64) -> Result<()> {
    if shared == attention.len() as u64 {
        return Ok(());
    }
    Err(Error::malformed(
        field("num_kv_shared_layers"),
        format!("a draft model has no keys and values of its own: all {} layers share", attention.len()),
    )
    .expected(attention.len(), shared))
}

/// Whether a `config.json` is that of a draft model.
pub fn is_assistant(json: &Value) -> bool {
    let name = json.pointer("/architectures/0").and_then(Value::as_str).unwrap_or_default();
    crate::formats::variants().architectures.get(name) == Some(&ModelKind::Draft)
}

impl Config {
    /// The ordered embedding, if this is a draft model that has one.
    pub fn ordered(&self) -> Option<Ordered> {
        self.draft.as_ref()?.ordered
    }

    /// The layer whose K/V a draft's layers of this kind read: the last with its own.
    pub fn last_owner(&self, kind: Attention) -> Option<usize> {
        (0..self.layers()).rev().find(|&n| !self.shares_kv(n) && self.attention[n] == kind)
    }

    /// Checks that this draft model fits `target`.
    ///
    /// # Errors
    /// `Malformed`, with the first size that differs.
    pub fn check_target(&self, target: &Config) -> Result<()> {
        let Some(draft) = &self.draft else {
            return Err(Error::unsupported("draft", "not a draft model"));
        };
        same("hidden size of the target", target.hidden, draft.backbone)?;
        same("vocabulary", target.vocab, self.vocab)?;
        for (layer, &kind) in self.attention.iter().enumerate() {
            let Some(owner) = target.last_owner(kind) else {
                return Err(misfit(format!("the target has no {kind:?} layer with keys and values")));
            };
            let of = |what: &str| format!("{what} of {kind:?} layers").to_lowercase();
            same(&of("key heads"), target.kv_heads_of(owner), self.kv_heads_of(layer))?;
            same(&of("head size"), target.head_dim_of(owner), self.head_dim_of(layer))?;
        }
        same("sliding window", target.window, self.window)?;
        for (kind, target, draft) in
            [("full", target.rope, self.rope), ("sliding", target.rope_swa, self.rope_swa)]
        {
            same(&format!("RoPE base of {kind} layers"), target.base, draft.base)?;
            same(&format!("RoPE factor of {kind} layers"), target.factor, draft.factor)?;
        }
        Ok(())
    }
}

impl Vocabulary {
    /// Checks that a draft model with this tokenizer has the same tokens and merges as `target`.
    ///
    /// # Errors
    /// `Malformed`, with the first token that differs.
    pub fn check_target(&self, target: &Vocabulary) -> Result<()> {
        same_tokens(&self.tokens, &target.tokens)?;
        match self.merges == target.merges {
            true => Ok(()),
            false => Err(misfit("its tokenizer merges other pairs than the target's".to_owned())),
        }
    }
}

/// Checks that two vocabularies have the same tokens in the same order.
///
/// # Errors
/// `Malformed`, with the first token that differs.
pub fn same_tokens<T: AsRef<str>>(draft: &[T], target: &[T]) -> Result<()> {
    same("tokens", target.len(), draft.len())?;
    let pairs = draft.iter().map(AsRef::as_ref).zip(target.iter().map(AsRef::as_ref));
    match pairs.enumerate().find(|(_, (draft, target))| draft != target) {
        None => Ok(()),
        Some((id, (draft, target))) => {
            same(&format!("token {id}"), format!("{target:?}"), format!("{draft:?}"))
        }
    }
}

fn same<T: PartialEq + std::fmt::Display>(what: &str, target: T, draft: T) -> Result<()> {
    if target == draft {
        return Ok(());
    }
    Err(misfit(format!("{what} differs from the target's")).expected(target, draft))
}

fn misfit(problem: String) -> Error {
    Error::malformed("draft", problem).help(
        "Each size of Gemma 4 has a draft model of its own; base and instruction-tuned models share it.",
    )
}
