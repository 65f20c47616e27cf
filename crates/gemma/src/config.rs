//! `config.json` of a text model.
//!
//! There are two dialects: the published files give the sizes of full-attention layers in `global_head_dim` and
//! `num_global_key_value_heads`, transformers writes them as `per_layer_config`. Text-only fine-tunes have the text
//! fields at the top level. An absent key has the default of the config class that `model_type` names. Vision and
//! audio fields are not read here; those of draft models are in `draft.rs`.

pub(crate) mod dialects;
pub(crate) mod fields;
mod layers;
mod rope;

use serde::Deserialize;
use serde_json::Value;
use tensor::{Error, Result};

use crate::draft::{self, DraftConfig};
use fields::{Fields, MOST};
pub use rope::Rope;

/// The kind of attention of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// Attention to the last `sliding_window` positions.
    Sliding,
    /// Attention to all previous positions.
    Full,
}

/// The kind of model in a checkpoint folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelKind {
    /// A text model with image (and audio) towers.
    Multimodal,
    /// The 12B: image patches and audio samples go into the text model directly, without a tower.
    Unified,
    /// A text model only.
    Text,
    /// A draft model (assistant): it predicts the next tokens of a target, whose KV cache it reads.
    Draft,
}

/// The configuration of the text model. Sizes are in elements; layers are numbered from 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `architectures[0]`.
    pub architecture: String,
    /// The kind of model in the folder.
    pub kind: ModelKind,
    /// The kind of attention of each layer.
    pub attention: Vec<Attention>,
    /// `hidden_size`.
    pub hidden: u64,
    /// `intermediate_size`, before doubling.
    pub ffn: u64,
    /// `use_double_wide_mlp`: KV-shared layers have twice the `ffn`.
    pub double_wide: bool,
    /// `num_attention_heads`.
    pub heads: u64,
    /// `num_key_value_heads` of sliding layers.
    pub kv_heads: u64,
    /// K/V heads of full layers, if the config gives them a different number.
    pub full_kv_heads: Option<u64>,
    /// `head_dim` of sliding layers.
    pub head_dim: u64,
    /// Head size of full layers.
    pub full_head_dim: u64,
    /// `attention_k_eq_v`: full layers have no value projection and use the key projection.
    pub k_eq_v: bool,
    /// `num_kv_shared_layers`: the number of layers at the end that read the K/V of an earlier layer.
    pub shared_kv_layers: u64,
    /// `hidden_size_per_layer_input`; 0 without per-layer embeddings (PLE).
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
    /// False with `use_bidirectional_attention: "all"`: attention covers later tokens too.
    pub causal: bool,
    /// `use_bidirectional_attention: "vision"`: in sliding layers the soft tokens of an image attend to all of that image.
    pub image_blocks: bool,
    /// `rms_norm_eps`.
    pub norm_eps: f32,
    /// `final_logit_softcapping`, if any.
    pub softcap: Option<f32>,
    /// RoPE of full layers.
    pub rope: Rope,
    /// RoPE of sliding layers.
    pub rope_swa: Rope,
    /// The head is the embedding. For a checkpoint see [`ModelSpec`](crate::ModelSpec): a stored head with other
    /// bytes is not tied.
    pub tied: bool,
    /// The additional fields of a draft model; `None` for other models.
    pub draft: Option<DraftConfig>,
    /// Notes for the user about values that are read differently from the file.
    pub notes: Vec<String>,
}

pub(crate) const FILE: &str = "config.json";

pub(crate) fn field(name: &str) -> String {
    format!("{FILE}: {name}")
}

impl Config {
    /// Reads the configuration of the text model from the content of `config.json`.
    ///
    /// # Errors
    /// `Unsupported` for another architecture or an unsupported quantisation, `Malformed` for a missing, mistyped or
    /// contradictory field.
    pub fn from_json(json: &Value) -> Result<Config> {
        Config::of_kind(json, |kind| kind != ModelKind::Draft)
    }

    /// Like [`Config::from_json`], for draft models only.
    ///
    /// # Errors
    /// Those of [`Config::from_json`].
    pub fn draft_from_json(json: &Value) -> Result<Config> {
        Config::of_kind(json, |kind| kind == ModelKind::Draft)
    }

    /// Like [`Config::from_json`] or, for a draft model, [`Config::draft_from_json`].
    ///
    /// # Errors
    /// Those of [`Config::from_json`].
    pub fn any_from_json(json: &Value) -> Result<Config> {
        Config::of_kind(json, |_| true)
    }

    fn of_kind(json: &Value, wanted: impl Fn(ModelKind) -> bool) -> Result<Config> {
        let (architecture, kind) = architecture(json, wanted)?;
        checkpoint::is_fp8(json)?; // refuses other quantisations
        let (whole, text) = Fields::of(json, &architecture, kind)?;
        // the value at the top level decides: the text model itself has no head
        let tied = whole.flag("tie_word_embeddings")?;
        let draft = (kind == ModelKind::Draft).then(|| DraftConfig::from_fields(&whole)).transpose()?;
        Config::from_fields(&text, architecture, kind, tied, draft)
    }

    fn from_fields(
        text: &Fields<'_>,
        architecture: String,
        kind: ModelKind,
        tied: bool,
        draft: Option<DraftConfig>,
    ) -> Result<Config> {
        let size = |key| text.count(key, 1..=MOST);
        let mut notes = Vec::new();
        let (attention, corrected) = layers::attention(text)?;
        if corrected {
            notes.push(
                "config.json: layer_types ends in a sliding_attention layer; transformers takes the last one for a \
                 full_attention layer, and so it is read"
                    .to_owned(),
            );
        }
        let mut shared_kv_layers = text.count("num_kv_shared_layers", 0..=MOST)?;
        match kind {
            ModelKind::Draft => {
                if shared_kv_layers == 0 {
                    shared_kv_layers = attention.len() as u64; // as transformers does
                }
                draft::check_shared(&attention, shared_kv_layers)?;
            }
            _ => check_donors(&attention, shared_kv_layers)?,
        }
        if text.flag("attention_bias")? {
            return Err(Error::unsupported(field("attention_bias"), "Gemma 4 has no attention bias"));
        }
        let activation = text.text("hidden_activation")?;
        if let Some(other) = activation.filter(|name| name != "gelu_pytorch_tanh") {
            return Err(Error::unsupported(
                field("hidden_activation"),
                "GGUF has no key for another activation",
            )
            .expected("gelu_pytorch_tanh", other));
        }
        let direction = text.text("use_bidirectional_attention")?;
        if let Some(other) = direction.as_deref().filter(|&name| name != "all" && name != "vision") {
            return Err(Error::malformed(field("use_bidirectional_attention"), "no such attention")
                .expected("null, vision or all", other));
        }

        let k_eq_v = text.flag("attention_k_eq_v")?;
        let (base, full_head_dim, full_kv_heads) = layers::sizes(text, &attention, k_eq_v)?;
        let (rope_swa, rope) = Rope::read(text, &attention)?;
        let experts = Experts::read(text)?;
        let ple = inert(text, "hidden_size_per_layer_input")?;
        let double_wide = text.flag("use_double_wide_mlp")?;
        if kind == ModelKind::Draft {
            for (key, found) in [
                ("hidden_size_per_layer_input", ple != 0),
                ("enable_moe_block", experts.is_some()),
                ("use_double_wide_mlp", double_wide),
            ] {
                if found {
                    let default = if text.get(key).is_none() { " (the default of its class)" } else { "" };
                    return Err(Error::unsupported(field(key), "a draft model has none").expected(
                        "0 or false",
                        format!(
                            "{}{default}",
                            text.get(key).map_or_else(|| ple.to_string(), Value::to_string)
                        ),
                    ));
                }
            }
        }
        let config = Config {
            architecture,
            kind,
            hidden: size("hidden_size")?,
            ffn: size("intermediate_size")?,
            double_wide,
            heads: size("num_attention_heads")?,
            kv_heads: base.kv_heads,
            full_kv_heads,
            head_dim: base.head_dim,
            full_head_dim,
            k_eq_v,
            shared_kv_layers,
            ple,
            vocab: size("vocab_size")?,
            vocab_ple: if ple == 0 { 0 } else { size("vocab_size_per_layer_input")? },
            experts: experts.as_ref().map(|experts| experts.count),
            experts_used: experts.as_ref().map(|experts| experts.used),
            expert_ffn: experts.as_ref().map(|experts| experts.ffn),
            context: size("max_position_embeddings")?,
            window: size("sliding_window")?,
            causal: direction.as_deref() != Some("all"),
            image_blocks: direction.as_deref() == Some("vision"),
            norm_eps: text.number("rms_norm_eps")?.unwrap_or_default(),
            softcap: text.positive("final_logit_softcapping")?,
            rope,
            rope_swa,
            tied,
            draft,
            notes,
            attention,
        };
        config.check_heads()?;
        Ok(config)
    }

    /// Checks that the query heads divide evenly among the K/V heads, and that head sizes are even, as RoPE needs.
    fn check_heads(&self) -> Result<()> {
        let full =
            if self.full_kv_heads.is_some() { "num_global_key_value_heads" } else { "num_key_value_heads" };
        let kinds = [
            (Attention::Sliding, "num_key_value_heads", "head_dim"),
            (Attention::Full, full, "global_head_dim"),
        ];
        for (kind, heads_key, dim_key) in kinds {
            let Some(layer) = self.attention.iter().position(|&found| found == kind) else { continue };
            let (kv_heads, head_dim) = (self.kv_heads_of(layer), self.head_dim_of(layer));
            if !self.heads.is_multiple_of(kv_heads) {
                return Err(Error::malformed(
                    field(heads_key),
                    "the query heads do not divide evenly among the K/V heads",
                )
                .expected(format!("a divisor of num_attention_heads {}", self.heads), kv_heads));
            }
            if !head_dim.is_multiple_of(2) {
                return Err(Error::malformed(field(dim_key), "RoPE rotates pairs of dimensions")
                    .expected("an even size", head_dim));
            }
        }
        Ok(())
    }

    /// The number of layers.
    pub fn layers(&self) -> usize {
        self.attention.len()
    }

    /// Whether the layer is one of those at the end that read the K/V of an earlier layer.
    pub fn shares_kv(&self, layer: usize) -> bool {
        (layer as u64) + self.shared_kv_layers >= self.layers() as u64
    }

    /// The head size of a layer.
    pub fn head_dim_of(&self, layer: usize) -> u64 {
        match self.attention[layer] {
            Attention::Sliding => self.head_dim,
            Attention::Full => self.full_head_dim,
        }
    }

    /// The number of K/V heads of a layer.
    pub fn kv_heads_of(&self, layer: usize) -> u64 {
        match self.attention[layer] {
            Attention::Sliding => self.kv_heads,
            Attention::Full => self.full_kv_heads.unwrap_or(self.kv_heads),
        }
    }

    /// The width of a layer's feed-forward network.
    pub fn ffn_of(&self, layer: usize) -> u64 {
        if self.double_wide && self.shares_kv(layer) { 2 * self.ffn } else { self.ffn }
    }

    /// The tensor `rope_freqs`: divisors of the RoPE frequencies of full layers, one per pair of dimensions. Pairs
    /// that are not rotated have 1e30.
    pub fn rope_freqs(&self) -> Vec<f32> {
        self.rope.divisors(self.full_head_dim)
    }
}

/// The sizes of a mixture of experts.
struct Experts {
    count: u64,
    used: u64,
    ffn: u64,
}

impl Experts {
    /// `None` for dense models, whatever the config says about experts.
    fn read(text: &Fields<'_>) -> Result<Option<Experts>> {
        if text.is_unknown("enable_moe_block") {
            if text.given("enable_moe_block").is_some_and(|value| value != &Value::Bool(false)) {
                return Err(unknown(text, "enable_moe_block", "false"));
            }
            return Ok(None);
        }
        if !text.flag("enable_moe_block")? {
            return Ok(None);
        }
        let missing = |key: &str| Error::malformed(field(key), "missing in a mixture of experts");
        let needed = |key: &str, most| text.optional_count(key, 1..=most)?.ok_or_else(|| missing(key));
        let count = needed("num_experts", MOST)?;
        let used = needed("top_k_experts", count)?;
        let names = ["moe_intermediate_size", "expert_intermediate_size"];
        let [ffn, other] =
            [text.optional_count(names[0], 1..=MOST)?, text.optional_count(names[1], 1..=MOST)?];
        match (ffn, other.filter(|_| text.given(names[1]).is_some())) {
            (Some(ffn), Some(other)) if ffn != other => {
                Err(Error::malformed(field(names[1]), format!("contradicts {}", names[0]))
                    .expected(ffn, other))
            }
            (ffn, other) => {
                let ffn = ffn.or(other).ok_or_else(|| missing(names[0]))?;
                Ok(Some(Experts { count, used, ffn }))
            }
        }
    }
}

/// A size that some config classes lack; 0 for those.
fn inert(text: &Fields<'_>, key: &str) -> Result<u64> {
    let size = if text.given(key).is_none() && text.is_unknown(key) { 0 } else { text.count(key, 0..=MOST)? };
    if size != 0 && text.is_unknown(key) {
        return Err(unknown(text, key, "0"));
    }
    Ok(size)
}

fn unknown(text: &Fields<'_>, key: &str, expected: &str) -> Error {
    Error::unsupported(field(key), format!("transformers' {} has no such key", text.class_name))
        .expected(expected, text.get(key).unwrap_or(&Value::Null))
}

fn architecture(json: &Value, wanted: impl Fn(ModelKind) -> bool) -> Result<(String, ModelKind)> {
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
        Some(ModelKind::Draft) => {
            Err(Error::unsupported(place, "a draft model").expected(supported(), name).help(
                "`gemma-convert draft convert` converts it; give it the model that it drafts for as ‹target›.",
            ))
        }
        Some(_) => Err(Error::unsupported(place, "not a draft model").expected(supported(), name)),
        None => Err(other_family(Error::unsupported(place, "unknown architecture").expected(supported(), name), name)),
    }
}

/// Adds the model family as help, if the name of the architecture tells it.
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

/// Checks that each KV-shared layer has an earlier layer of its kind with K/V of its own.
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
