//! Reading a GGUF's description: the config from its keys, and its tensors by role.
//!
//! The inverse of `keys.rs` and of the names in `formats/gemma4.tensors.toml`, with llama.cpp's semantics: a key that
//! is optional there has the same default here, and values that it rejects or interprets differently are refused
//! (sources: `src/llama-model.cpp` `load_hparams`, `src/llama-hparams.h`, `src/models/gemma4*.cpp`). Some facts have
//! no key: the vocabulary has the size of the embedding, the head is tied unless it has a tensor, full layers without
//! a value projection use their keys (all as in llama.cpp's `src/models/gemma4.cpp`), and the fraction of a head that
//! is rotated is in the tensor `rope_freqs`, which is therefore one of the model's weights here.

use std::collections::{HashMap, HashSet};

use gguf::{Array, Metadata, Value};
use tensor::{Error, Fault, Result, TensorDesc};

use crate::adapter;
use crate::config::{Attention, Config, ModelKind, Rope, check_donors};
use crate::draft::{self, DraftConfig, Ordered};
use crate::formats::{self, TypePolicy};
use crate::inventory::{Found, Inventory, Slot, check_shape, complete, slots};
use crate::llama_cpp::has_image_blocks;
use crate::towers::names_tower;

/// llama.cpp's cap of logits if the key is absent.
const SOFTCAP: f32 = 30.0;

/// The RoPE base if the keys are absent.
const BASE: f32 = 1e4;

/// The role, and the name without `.weight`, of the divisors of the RoPE frequencies of full layers.
pub const ROPE_FREQS: &str = "rope_freqs";

impl Config {
    /// The config of a GGUF, from its keys and the names of its tensors.
    ///
    /// `architecture` is the file's `general.architecture` and `kind` is [`ModelKind::Text`], whatever the kind of
    /// the checkpoint was. `rope.fraction` is the family's default; the file's own value is in its tensor
    /// [`ROPE_FREQS`].
    ///
    /// # Errors
    /// `Unsupported` for another architecture or for layers that differ in a way that a config cannot express,
    /// `Malformed` for a missing, mistyped or contradictory key.
    pub fn from_metadata(metadata: &Metadata, tensors: &[TensorDesc]) -> Result<Config> {
        Config::from_keys(metadata, tensors, ModelKind::Text)
    }

    /// Like [`Config::from_metadata`], for draft models only; `kind` is [`ModelKind::Draft`].
    ///
    /// # Errors
    /// Those of [`Config::from_metadata`].
    pub fn draft_from_metadata(metadata: &Metadata, tensors: &[TensorDesc]) -> Result<Config> {
        Config::from_keys(metadata, tensors, ModelKind::Draft)
    }

    /// Like [`Config::from_metadata`] or, for the architecture of draft models, [`Config::draft_from_metadata`].
    ///
    /// # Errors
    /// Those of [`Config::from_metadata`].
    pub fn any_from_metadata(metadata: &Metadata, tensors: &[TensorDesc]) -> Result<Config> {
        let architecture: Option<&str> = metadata.typed("general.architecture")?;
        let draft = architecture == Some(&formats::keys(ModelKind::Draft).architecture);
        Config::from_keys(metadata, tensors, if draft { ModelKind::Draft } else { ModelKind::Text })
    }

    fn from_keys(metadata: &Metadata, tensors: &[TensorDesc], kind: ModelKind) -> Result<Config> {
        if adapter::is_adapter(metadata) {
            return Err(Error::unsupported("key general.type", "an adapter (LoRA): no model by itself")
                .help("Give the model. Its programs take this file beside it; to merge it, give its folder with ‹lora›."));
        }
        let keys = Keys { metadata, architecture: &formats::keys(kind).architecture };
        let architecture: &str = metadata.required("general.architecture")?;
        if architecture != keys.architecture {
            let what = if kind == ModelKind::Draft { "draft model" } else { "text model" };
            let error = Error::unsupported("key general.architecture", format!("not a Gemma 4 {what}"))
                .expected(keys.architecture, architecture);
            return Err(match architecture == formats::keys(ModelKind::Draft).architecture {
                true => error.help("`gemma-convert draft convert` makes other types of a draft model."),
                false => error,
            });
        }
        let layers = keys.size("block_count")?;
        if layers == 0 || layers > 1000 {
            return Err(Error::malformed(keys.place("block_count"), "no such number of layers")
                .expected("1 to 1000", layers));
        }
        let attention = keys.attention(layers as usize)?;
        let shared_kv_layers = keys.optional("attention.shared_kv_layers")?.unwrap_or(0);
        let check = if kind == ModelKind::Draft { draft::check_shared } else { check_donors };
        check(&attention, shared_kv_layers)
            .map_err(|e| e.moved(Fault::Malformed, keys.place("attention.shared_kv_layers")))?;

        let named: HashMap<&str, &TensorDesc> = tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        let rows = |name: &str| {
            let desc = named.get(name).ok_or_else(|| Error::missing(format!("tensor {name}")))?;
            Ok(desc.rows())
        };
        let ple = match kind {
            ModelKind::Draft => 0, // llama.cpp does not read it
            _ => keys.required::<u32>("embedding_length_per_layer_input")?.into(),
        };
        let vocab = rows("token_embd.weight")?;
        let owned_full =
            attention[..(layers - shared_kv_layers) as usize].iter().position(|&a| a == Attention::Full);
        let ffn = keys.per_layer("feed_forward_length", layers as usize)?;
        let hidden = keys.size("embedding_length")?;
        let heads = keys.size("attention.head_count")?;
        let kv_heads = match keys.given("attention.head_count_kv") {
            true => keys.per_layer("attention.head_count_kv", layers as usize)?,
            false => vec![heads; layers as usize],
        };
        keys.check_scaling(kind, layers)?;
        let factor = match keys.typed::<f32>("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => keys.typed("rope.scale_linear")?, // the older name
        };
        let base = |key| Ok(keys.typed(key)?.unwrap_or(BASE));
        let of_kind = |kind| {
            attention.iter().position(|&a| a == kind).map(|layer| kv_heads[layer]).unwrap_or(kv_heads[0])
        };

        let config = Config {
            architecture: architecture.to_owned(),
            kind,
            hidden,
            ffn: ffn[0],
            double_wide: ffn.iter().any(|&n| n != ffn[0]),
            heads,
            kv_heads: of_kind(Attention::Sliding),
            full_kv_heads: Some(of_kind(Attention::Full)).filter(|&n| n != of_kind(Attention::Sliding)),
            head_dim: keys.size("attention.key_length_swa")?,
            full_head_dim: match keys.given("attention.key_length") {
                true => keys.size("attention.key_length")?,
                false => hidden / heads,
            },
            k_eq_v: owned_full
                .is_some_and(|n| !named.contains_key(format!("blk.{n}.attn_v.weight").as_str())),
            shared_kv_layers,
            ple,
            vocab,
            vocab_ple: if ple > 0 { rows("per_layer_token_embd.weight")? } else { 0 },
            experts: keys.optional("expert_count")?.filter(|&n| n > 0),
            experts_used: keys.optional("expert_used_count")?,
            expert_ffn: keys.optional("expert_feed_forward_length")?,
            context: keys.size("context_length")?,
            window: keys.size("attention.sliding_window")?,
            causal: keys.typed("attention.causal")?.unwrap_or(true),
            image_blocks: has_image_blocks(hidden),
            norm_eps: keys.required("attention.layer_norm_rms_epsilon")?,
            softcap: match (kind, keys.typed("final_logit_softcapping")?) {
                (ModelKind::Draft, _) => None, // llama.cpp does not read it
                (_, cap) => Some(cap.unwrap_or(SOFTCAP)).filter(|&cap: &f32| cap != 0.0),
            },
            rope: Rope {
                base: base("rope.freq_base")?,
                factor: factor.filter(|&factor| factor != 0.0 && keys.scales()).unwrap_or(1.0),
                ..Rope::default_of(Attention::Full)
            },
            rope_swa: Rope { base: base("rope.freq_base_swa")?, ..Rope::default_of(Attention::Sliding) },
            tied: !named.contains_key("output.weight"),
            draft: (kind == ModelKind::Draft).then(|| keys.draft(&named)).transpose()?,
            notes: Vec::new(),
            attention,
        };
        keys.check(&config, &ffn, &kv_heads)?;
        Ok(config)
    }
}

/// Access to the model's keys without the architecture prefix.
struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl<'a> Keys<'a> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn place(&self, key: &str) -> String {
        format!("key {}", self.name(key))
    }

    fn typed<T: gguf::FromValue<'a>>(&self, key: &str) -> Result<Option<T>> {
        self.metadata.typed(&self.name(key))
    }

    fn given(&self, key: &str) -> bool {
        self.metadata.get(&self.name(key)).is_some()
    }

    /// Whether `rope.scaling.factor` has an effect.
    fn scales(&self) -> bool {
        !matches!(self.typed::<&str>("rope.scaling.type"), Ok(Some("none")))
    }

    /// Refuses RoPE scalings and other keys that llama.cpp supports and this crate does not.
    fn check_scaling(&self, kind: ModelKind, layers: u64) -> Result<()> {
        let scaling: Option<&str> = self.typed("rope.scaling.type")?;
        if let Some(other) = scaling.filter(|name| !["none", "linear", "longrope"].contains(name)) {
            return Err(Error::unsupported(self.place("rope.scaling.type"), "a scaling that is not handled")
                .expected("none or linear", other));
        }
        for key in
            ["rope.scaling.attn_factor", "rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor"]
        {
            let neutral = if key.ends_with("ext_factor") { 0.0 } else { 1.0 };
            if let Some(found) = self.typed::<f32>(key)?.filter(|&found| found != neutral) {
                return Err(Error::unsupported(self.place(key), "a scaling that is not handled")
                    .expected(neutral, found));
            }
        }
        let counts = [
            ("expert_group_count", 0),
            ("nextn_predict_layers", if kind == ModelKind::Draft { layers } else { 0 }),
        ];
        for (key, expected) in counts {
            let found = self.optional(key)?.unwrap_or(0);
            if found != expected {
                return Err(
                    Error::unsupported(self.place(key), "not a Gemma 4 model").expected(expected, found)
                );
            }
        }
        Ok(())
    }

    fn required<T: gguf::FromValue<'a>>(&self, key: &str) -> Result<T> {
        self.metadata.required(&self.name(key))
    }

    fn optional(&self, key: &str) -> Result<Option<u64>> {
        Ok(self.typed::<u32>(key)?.map(u64::from))
    }

    /// A mandatory size of at least 1.
    fn size(&self, key: &str) -> Result<u64> {
        match self.required::<u32>(key)? {
            0 => Err(Error::malformed(self.place(key), "no such size").expected("at least 1", 0)),
            size => Ok(size.into()),
        }
    }

    /// A size for each layer, from a number for all layers or an array.
    fn per_layer(&self, key: &str, layers: usize) -> Result<Vec<u64>> {
        let sizes: Vec<u64> = match self.metadata.get(&self.name(key)) {
            Some(Value::Array(Array::I32(sizes))) => sizes.iter().map(|&n| n.max(0) as u64).collect(),
            Some(Value::Array(Array::U32(sizes))) => sizes.iter().map(|&n| n.into()).collect(),
            _ => vec![self.size(key)?; layers],
        };
        if sizes.len() != layers {
            return Err(
                Error::malformed(self.place(key), "not one entry per layer").expected(layers, sizes.len())
            );
        }
        match sizes.iter().position(|&n| n == 0) {
            Some(layer) => Err(Error::malformed(self.place(key), format!("layer {layer}: no such size"))
                .expected("at least 1", 0)),
            None => Ok(sizes),
        }
    }

    fn attention(&self, layers: usize) -> Result<Vec<Attention>> {
        let key = "attention.sliding_window_pattern";
        let sliding: &[bool] = self.required(key)?;
        if sliding.len() != layers {
            return Err(
                Error::malformed(self.place(key), "not one entry per layer").expected(layers, sliding.len())
            );
        }
        Ok(sliding.iter().map(|&s| if s { Attention::Sliding } else { Attention::Full }).collect())
    }

    /// The additional config of a draft model. It has an ordered embedding if the tensors of one are present.
    fn draft(&self, named: &HashMap<&str, &TensorDesc>) -> Result<DraftConfig> {
        let used = self.optional("masked_embedding_top_k")?.unwrap_or(draft::CENTROIDS_USED);
        let centroids = named.get("masked_embd_centroids.weight").map(|desc| desc.rows());
        let draft = DraftConfig {
            backbone: self.size("embedding_length_out")?,
            ordered: centroids.map(|centroids| Ordered { centroids, used }),
        };
        draft.check().map_err(|e| e.moved(Fault::Malformed, self.place("masked_embedding_top_k")))?;
        Ok(draft)
    }

    /// Checks the keys that repeat another, and values that a config cannot express.
    fn check(&self, config: &Config, ffn: &[u64], kv_heads: &[u64]) -> Result<()> {
        for layer in 0..config.layers() {
            let sizes = [
                ("feed_forward_length", config.ffn_of(layer), ffn[layer]),
                ("attention.head_count_kv", config.kv_heads_of(layer), kv_heads[layer]),
            ];
            for (key, expected, found) in sizes {
                if expected != found {
                    let problem = format!("layer {layer} differs from the layers of its kind");
                    return Err(Error::unsupported(self.place(key), problem).expected(expected, found));
                }
            }
        }
        // with llama.cpp's default for each, if there is one
        let turning = self.optional("rope.dimension_count")?.unwrap_or(config.full_head_dim);
        let repeated = [
            ("attention.value_length", Some(config.hidden / config.heads), config.full_head_dim),
            ("attention.value_length_swa", None, config.head_dim),
            ("rope.dimension_count", Some(config.full_head_dim), config.full_head_dim),
            ("rope.dimension_count_swa", Some(turning), config.head_dim),
        ];
        for (key, default, expected) in repeated {
            let found = match (self.optional(key)?, default) {
                (None, None) => return Err(self.missing(key)),
                (found, default) => found.or(default).filter(|&found| found != expected),
            };
            if let Some(found) = found {
                return Err(Error::unsupported(self.place(key), "differs from the head size")
                    .expected(expected, found));
            }
        }
        let used = config.experts_used.unwrap_or(0);
        let most = config.experts.unwrap_or(0);
        if used > most || (most > 0 && used == 0) {
            return Err(Error::malformed(self.place("expert_used_count"), "llama.cpp rejects this number")
                .expected(format!("1 to {most} with experts, none without"), used));
        }
        if let Some(tokens) = self.metadata.typed::<&[String]>("tokenizer.ggml.tokens")? {
            let tables = [("token_embd", config.vocab), ("per_layer_token_embd", config.vocab_ple)];
            let of = |name: &str| name == "token_embd" || config.ple > 0;
            for (name, rows) in tables.into_iter().filter(|(name, _)| of(name)) {
                if rows != tokens.len() as u64 {
                    return Err(Error::malformed(format!("tensor {name}.weight"), "not one row per token")
                        .expected(format!("{} rows", tokens.len()), rows));
                }
            }
        }
        Ok(())
    }

    fn missing(&self, key: &str) -> Error {
        Error::missing(self.place(key))
    }
}

/// Finds every tensor of the model in a GGUF, including [`ROPE_FREQS`]; a tensor without a use is an error.
///
/// # Errors
/// `Malformed` for a missing tensor or a wrong shape, `Unsupported` for a tensor without a use.
pub fn gguf_inventory(config: &Config, tensors: &[TensorDesc]) -> Result<Inventory> {
    let by_name: HashMap<&str, usize> =
        tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
    let mut slots = slots(config)?;
    slots.push(rope_freqs(config));

    let mut text = Vec::with_capacity(slots.len());
    let mut missing = Vec::new();
    for slot in slots {
        match by_name.get(slot.gguf.as_str()) {
            Some(&index) => {
                check_shape(&slot.shape, &tensors[index])?;
                text.push(Found { slot, index });
            }
            None if slot.unused => {}
            None => missing.push(slot.gguf),
        }
    }
    complete(config, &missing).map_err(|e| e.help("Is the file whole, and are all its parts there?"))?;

    let used: HashSet<usize> = text.iter().map(|found| found.index).collect();
    match tensors.iter().enumerate().find(|(index, _)| !used.contains(index)) {
        Some((_, stray)) if names_tower(&stray.name) => Err(Error::unsupported(
            format!("tensor {}", stray.name),
            "a monolithic file of Ollama: image and audio towers among the tensors of the text model",
        )
        .expected("a text model, and its towers in an mmproj file", "both in one file")
        .help(
            "`gemma-convert edit` with ‹stock› writes the pair. llama.cpp does not load such a file either.",
        )),
        Some((_, stray)) => Err(Error::unsupported(
            format!("tensor {}", stray.name),
            "no Gemma 4 text model with the keys of this file uses it",
        )),
        None => Ok(Inventory { text, dropped: Vec::new() }),
    }
}

/// The slot of `rope_freqs`. It is not in the table, because no checkpoint has it; it is optional without full
/// layers.
fn rope_freqs(config: &Config) -> Slot {
    Slot {
        role: ROPE_FREQS,
        layer: None,
        hf: String::new(),
        gguf: format!("{ROPE_FREQS}.weight"),
        shape: vec![config.full_head_dim / 2],
        type_policy: TypePolicy::F32,
        unused: !config.attention.contains(&Attention::Full),
        lora: false,
        unprefixed: true,
    }
}
