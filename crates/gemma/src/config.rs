//! `config.json` as facts about a text model.
//!
//! Two dialects say the same: the published files name the sizes of full-attention layers
//! (`global_head_dim`, `num_global_key_value_heads`), transformers writes them back as `per_layer_config`.
//! Text-only fine-tunes have the text fields at the top. Defaults are those of transformers'
//! `Gemma4TextConfig`. Vision and audio fields are not read here; those of draft models are in `draft.rs`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use tensor::{Error, Result};

use crate::draft::{self, Draft};

/// What kind of attention a layer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// Sees the last `sliding_window` positions.
    Sliding,
    /// Sees everything before it.
    Full,
}

/// What a checkpoint folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A text model with image (and audio) towers.
    Multimodal,
    /// The 12B: image patches and audio samples go into the text model without a tower.
    Unified,
    /// A text model alone.
    Text,
    /// A draft model: it guesses the next tokens of one of the others, whose keys and values it reads.
    Draft,
}

/// The text model's configuration. Sizes count elements, layers are numbered from 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `architectures[0]`.
    pub architecture: String,
    /// What the folder holds.
    pub kind: Kind,
    /// One entry a layer.
    pub attention: Vec<Attention>,
    /// `hidden_size`.
    pub hidden: u64,
    /// `intermediate_size`, before any doubling.
    pub ffn: u64,
    /// `use_double_wide_mlp`: layers that share K/V have twice the `ffn`.
    pub double_wide: bool,
    /// `num_attention_heads`.
    pub heads: u64,
    /// `num_key_value_heads` of sliding layers.
    pub kv_heads: u64,
    /// K/V heads of full layers, where the config gives them a number of their own.
    pub full_kv_heads: Option<u64>,
    /// `head_dim` of sliding layers.
    pub head_dim: u64,
    /// Head size of full layers.
    pub full_head_dim: u64,
    /// `attention_k_eq_v`: full layers have no value projection, the key projection serves.
    pub k_eq_v: bool,
    /// `num_kv_shared_layers`: the last so many layers read the K/V of an earlier one.
    pub shared_kv_layers: u64,
    /// `hidden_size_per_layer_input`; 0 without per-layer embeddings.
    pub ple: u64,
    /// `vocab_size`.
    pub vocab: u64,
    /// `vocab_size_per_layer_input`.
    pub vocab_ple: u64,
    /// `num_experts`; `None` in dense models.
    pub experts: Option<u64>,
    /// `top_k_experts`.
    pub experts_used: Option<u64>,
    /// `expert_intermediate_size` or `moe_intermediate_size`.
    pub expert_ffn: Option<u64>,
    /// `max_position_embeddings`.
    pub context: u64,
    /// `sliding_window`.
    pub window: u64,
    /// False with `use_bidirectional_attention: "all"`: a token sees those after it too.
    pub causal: bool,
    /// `rms_norm_eps`.
    pub norm_eps: f32,
    /// `final_logit_softcapping`, if any.
    pub softcap: Option<f32>,
    /// RoPE base of full layers.
    pub rope_base: f32,
    /// RoPE base of sliding layers.
    pub rope_base_swa: f32,
    /// Fraction of a full layer's head that is rotated.
    pub rotary_fraction: f64,
    /// `tie_word_embeddings`.
    pub tied: bool,
    /// What a draft model has besides; `None` for all others.
    pub draft: Option<Draft>,
}

#[derive(Deserialize)]
struct Rope {
    rope_theta: f32,
    partial_rotary_factor: Option<f64>,
    rope_type: Option<String>,
}

#[derive(Deserialize)]
struct LayerConfig {
    head_dim: Option<u64>,
    num_key_value_heads: Option<u64>,
}

/// The fields of the text model, as they are in the file.
#[derive(Deserialize)]
struct Raw {
    num_hidden_layers: u64,
    layer_types: Option<Vec<String>>,
    hidden_size: u64,
    intermediate_size: u64,
    use_double_wide_mlp: Option<bool>,
    num_attention_heads: u64,
    num_key_value_heads: u64,
    num_global_key_value_heads: Option<u64>,
    head_dim: u64,
    global_head_dim: Option<u64>,
    per_layer_config: Option<BTreeMap<String, LayerConfig>>,
    attention_k_eq_v: Option<bool>,
    num_kv_shared_layers: Option<u64>,
    hidden_size_per_layer_input: Option<u64>,
    vocab_size: u64,
    vocab_size_per_layer_input: Option<u64>,
    enable_moe_block: Option<bool>,
    num_experts: Option<u64>,
    top_k_experts: Option<u64>,
    expert_intermediate_size: Option<u64>,
    moe_intermediate_size: Option<u64>,
    max_position_embeddings: Option<u64>,
    sliding_window: Option<u64>,
    use_bidirectional_attention: Option<String>,
    rms_norm_eps: Option<f32>,
    final_logit_softcapping: Option<f32>,
    rope_parameters: Option<BTreeMap<String, Rope>>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    hidden_activation: Option<String>,
}

pub(crate) const FILE: &str = "config.json";

pub(crate) fn field(name: &str) -> String {
    format!("{FILE}: {name}")
}

impl Config {
    /// Reads the text model's configuration out of a whole `config.json`.
    ///
    /// # Errors
    /// `Unsupported` for another architecture or a quantisation that is not read, `Malformed` for a missing, mistyped or contradictory field.
    pub fn from_json(json: &Value) -> Result<Config> {
        Config::of_kind(json, |kind| kind != Kind::Draft)
    }

    /// As [`Config::from_json`], for a draft model and nothing else.
    ///
    /// # Errors
    /// Those of [`Config::from_json`].
    pub fn draft_from_json(json: &Value) -> Result<Config> {
        Config::of_kind(json, |kind| kind == Kind::Draft)
    }

    /// As [`Config::from_json`] or, for a draft model, [`Config::draft_from_json`].
    ///
    /// # Errors
    /// Those of [`Config::from_json`].
    pub fn any_from_json(json: &Value) -> Result<Config> {
        Config::of_kind(json, |_| true)
    }

    fn of_kind(json: &Value, wanted: impl Fn(Kind) -> bool) -> Result<Config> {
        let (architecture, kind) = architecture(json, wanted)?;
        checkpoint::is_fp8(json)?; // other kinds are refused
        let text = match json.get("text_config") {
            Some(text) if !text.is_null() => text,
            _ => json,
        };
        let raw = Raw::deserialize(text).map_err(|e| Error::malformed(FILE, e))?;
        let tied =
            raw.tie_word_embeddings.or_else(|| json.get("tie_word_embeddings")?.as_bool()).unwrap_or(true);
        let draft = (kind == Kind::Draft).then(|| Draft::from_json(json)).transpose()?;
        Config::from_raw(raw, architecture, kind, tied, draft)
    }

    fn from_raw(
        raw: Raw,
        architecture: String,
        kind: Kind,
        tied: bool,
        draft: Option<Draft>,
    ) -> Result<Config> {
        if raw.num_hidden_layers == 0 || raw.num_hidden_layers > 1000 {
            return Err(Error::malformed(field("num_hidden_layers"), "no such number of layers")
                .expected("1 to 1000", raw.num_hidden_layers));
        }
        let sizes = [
            ("hidden_size", raw.hidden_size),
            ("intermediate_size", raw.intermediate_size),
            ("num_attention_heads", raw.num_attention_heads),
            ("num_key_value_heads", raw.num_key_value_heads),
            ("head_dim", raw.head_dim),
            ("vocab_size", raw.vocab_size),
        ];
        if let Some((name, size)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(Error::malformed(field(name), "no such size").expected("at least 1", size));
        }
        let attention = attention(&raw)?;
        let shared_kv_layers = raw.num_kv_shared_layers.unwrap_or(0);
        match kind {
            Kind::Draft => draft::check_shared(&attention, shared_kv_layers)?,
            _ => check_donors(&attention, shared_kv_layers)?,
        }
        if raw.attention_bias == Some(true) {
            return Err(Error::unsupported(field("attention_bias"), "Gemma 4 has no attention bias"));
        }
        if let Some(other) = raw.hidden_activation.as_deref().filter(|&a| a != "gelu_pytorch_tanh") {
            return Err(Error::unsupported(
                field("hidden_activation"),
                "GGUF has no key for another activation",
            )
            .expected("gelu_pytorch_tanh", other));
        }

        // The first full layer that has a number speaks for all of them, as in the stock converter.
        // Keys are parsed, as transformers pads them: "05" in a model of ten layers or more.
        let of_full = |number: fn(&LayerConfig) -> Option<u64>| {
            let layers = raw.per_layer_config.iter().flatten();
            let numbers =
                layers.filter_map(|(key, layer)| Some((key.parse::<usize>().ok()?, number(layer)?)));
            let full = numbers.filter(|&(n, _)| attention.get(n) == Some(&Attention::Full));
            full.min().map(|(_, number)| number)
        };
        let full_head_dim = raw.global_head_dim.or_else(|| of_full(|l| l.head_dim)).unwrap_or(512);
        let k_eq_v = raw.attention_k_eq_v.unwrap_or(false);
        let full_kv_heads = if raw.per_layer_config.is_some() {
            of_full(|l| l.num_key_value_heads)
        } else {
            // transformers ignores the number where keys and values have weights of their own
            raw.num_global_key_value_heads.filter(|_| k_eq_v)
        };

        let rope = raw.rope_parameters.unwrap_or_default();
        let full_rope = rope.get("full_attention");
        if let Some(kind) = full_rope.and_then(|r| r.rope_type.as_deref()).filter(|&t| t != "proportional") {
            return Err(Error::unsupported(
                field("rope_parameters.full_attention.rope_type"),
                "no such RoPE in Gemma 4",
            )
            .expected("proportional", kind));
        }
        let experts = raw.num_experts.filter(|_| raw.enable_moe_block != Some(false));

        Ok(Config {
            architecture,
            kind,
            attention,
            hidden: raw.hidden_size,
            ffn: raw.intermediate_size,
            double_wide: raw.use_double_wide_mlp.unwrap_or(false),
            heads: raw.num_attention_heads,
            kv_heads: raw.num_key_value_heads,
            full_kv_heads,
            head_dim: raw.head_dim,
            full_head_dim,
            k_eq_v,
            shared_kv_layers,
            ple: raw.hidden_size_per_layer_input.unwrap_or(256),
            vocab: raw.vocab_size,
            vocab_ple: raw.vocab_size_per_layer_input.unwrap_or(raw.vocab_size),
            experts,
            experts_used: raw.top_k_experts,
            expert_ffn: raw.expert_intermediate_size.or(raw.moe_intermediate_size),
            context: raw.max_position_embeddings.unwrap_or(131_072),
            window: raw.sliding_window.unwrap_or(512),
            causal: raw.use_bidirectional_attention.as_deref() != Some("all"),
            norm_eps: raw.rms_norm_eps.unwrap_or(1e-6),
            softcap: raw.final_logit_softcapping.filter(|&s| s != 0.0),
            rope_base: full_rope.map_or(1e6, |r| r.rope_theta),
            rope_base_swa: rope.get("sliding_attention").map_or(1e4, |r| r.rope_theta),
            rotary_fraction: full_rope.and_then(|r| r.partial_rotary_factor).unwrap_or(0.25),
            tied,
            draft,
        })
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.attention.len()
    }

    /// True for the layers at the end that read the K/V of an earlier layer.
    pub fn shares_kv(&self, layer: usize) -> bool {
        (layer as u64) + self.shared_kv_layers >= self.layers() as u64
    }

    /// Head size of a layer.
    pub fn head_dim_of(&self, layer: usize) -> u64 {
        match self.attention[layer] {
            Attention::Sliding => self.head_dim,
            Attention::Full => self.full_head_dim,
        }
    }

    /// K/V heads of a layer.
    pub fn kv_heads_of(&self, layer: usize) -> u64 {
        match self.attention[layer] {
            Attention::Sliding => self.kv_heads,
            Attention::Full => self.full_kv_heads.unwrap_or(self.kv_heads),
        }
    }

    /// Width of a layer's feed-forward network.
    pub fn ffn_of(&self, layer: usize) -> u64 {
        if self.double_wide && self.shares_kv(layer) { 2 * self.ffn } else { self.ffn }
    }

    /// `rope_freqs`: divisors of the rotation frequencies of full layers, one a pair of dimensions.
    /// The pairs beyond the rotary fraction get 1e30, which stops them from turning.
    pub fn rope_freqs(&self) -> Vec<f32> {
        let pairs = self.full_head_dim / 2;
        let turning = (self.full_head_dim as f64 * self.rotary_fraction / 2.0) as u64;
        (0..pairs).map(|i| if i < turning { 1.0 } else { 1e30 }).collect()
    }
}

fn architecture(json: &Value, wanted: impl Fn(Kind) -> bool) -> Result<(String, Kind)> {
    let known = &crate::formats::variants().architectures;
    let supported = || {
        let names = known.iter().filter(|&(_, &kind)| wanted(kind)).map(|(name, _)| name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    let place = field("architectures");
    let Some(name) = json.pointer("/architectures/0").and_then(Value::as_str) else {
        return Err(Error::malformed(place, "the model's architecture is not named")
            .expected(supported(), json.get("architectures").unwrap_or(&Value::Null)));
    };
    match known.get(name) {
        Some(&kind) if wanted(kind) => Ok((name.to_owned(), kind)),
        Some(Kind::Draft) => {
            Err(Error::unsupported(place, "a draft model").expected(supported(), name).help(
                "`gemma-convert draft convert` converts it; give it the model that it drafts for as --target.",
            ))
        }
        Some(_) => Err(Error::unsupported(place, "not a draft model").expected(supported(), name)),
        None => Err(other_family(Error::unsupported(place, "unknown architecture").expected(supported(), name), name)),
    }
}

/// Says which other model it is, where the name tells.
fn other_family(error: Error, architecture: &str) -> Error {
    const FAMILIES: [(&str, &str); 7] = [
        ("Gemma3n", "Gemma 3n"),
        ("Gemma3", "Gemma 3"),
        ("Gemma2", "Gemma 2"),
        ("Gemma", "Gemma 1"),
        ("PaliGemma", "PaliGemma"),
        ("RecurrentGemma", "RecurrentGemma"),
        ("T5Gemma", "T5Gemma"),
    ];
    match FAMILIES.iter().find(|(start, _)| architecture.starts_with(start)).filter(|_| !architecture.starts_with("Gemma4")) {
        Some((_, family)) => error.help(format!(
            "This is a {family} model. Only Gemma 4 is converted here; llama.cpp's convert_hf_to_gguf.py knows the others."
        )),
        None => error,
    }
}

fn attention(raw: &Raw) -> Result<Vec<Attention>> {
    let layers = raw.num_hidden_layers as usize;
    let Some(types) = &raw.layer_types else {
        // transformers: five sliding layers to a full one, the last layer full
        let full = |i: usize| (i + 1).is_multiple_of(6) || i + 1 == layers;
        return Ok((0..layers).map(|i| if full(i) { Attention::Full } else { Attention::Sliding }).collect());
    };
    if types.len() != layers {
        return Err(
            Error::malformed(field("layer_types"), "not one entry a layer").expected(layers, types.len())
        );
    }
    let parse = |(i, name): (usize, &String)| match name.as_str() {
        "sliding_attention" => Ok(Attention::Sliding),
        "full_attention" => Ok(Attention::Full),
        other => Err(Error::malformed(field(&format!("layer_types[{i}]")), "unknown kind of layer")
            .expected("sliding_attention or full_attention", other)),
    };
    types.iter().enumerate().map(parse).collect()
}

/// Each layer that shares K/V needs an earlier layer of its kind that has them.
pub(crate) fn check_donors(attention: &[Attention], shared: u64) -> Result<()> {
    let place = || field("num_kv_shared_layers");
    let Some(owners) = (attention.len() as u64).checked_sub(shared) else {
        return Err(Error::malformed(place(), "more than there are layers")
            .expected(format!("at most {}", attention.len()), shared));
    };
    let (owners, sharing) = attention.split_at(owners as usize);
    match sharing.iter().find(|kind| !owners.contains(kind)) {
        Some(kind) => {
            Err(Error::malformed(place(), format!("no layer is left to own the K/V of {kind:?} layers")))
        }
        None => Ok(()),
    }
}
