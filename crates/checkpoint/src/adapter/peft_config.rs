//! `adapter_config.json` of PEFT: which fields change a merge, which do not, and which are refused.
//!
//! Source: huggingface/peft 0.21 `tuners/lora/config.py`.

use regex::Regex;
use serde_json::Value;
use tensor::{Error, Result};

/// Fields that concern training only, or that are read elsewhere.
const WITHOUT_EFFECT: [&str; 26] = [
    "auto_mapping",
    "base_model_name_or_path",
    // the tensors say what there is; a bias tensor is refused
    "bias",
    "corda_config",
    "eva_config",
    "exclude_modules",
    // PEFT resets it for the linears of transformers
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "modules_to_save",
    "monteclora_config",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "unsloth_fixed",
    "velora_config",
];

/// Fields that are read here.
const READ: [&str; 10] = [
    "alpha_pattern",
    "ensure_weight_tying",
    "init_lora_weights",
    "lora_alpha",
    "r",
    "rank_pattern",
    "target_parameters",
    "use_dora",
    "use_rslora",
    "peft_type",
];

/// Fields that are refused if they are set, with the reason.
const REFUSED: [(&str, &str); 8] = [
    ("alora_invocation_tokens", "it is active after some tokens only (aLoRA), and cannot be merged"),
    ("arrow_config", "it chooses between adapters for each token (Arrow), and cannot be merged"),
    ("kasa_config", "KaSA is not supported"),
    ("layer_replication", "it repeats layers of its base, and PEFT does not merge it either"),
    ("lora_bias", "it has biases, which Gemma's linears lack"),
    ("trainable_token_indices", "it trains single rows of the embedding (trainable tokens)"),
    ("use_bdlora", "block-diagonal LoRA is not supported"),
    ("use_qalora", "QA-LoRA is not supported"),
];

/// The settings of an adapter that matter for a merge.
#[derive(Debug)]
pub(crate) struct PeftConfig {
    rank: u64,
    alpha: f64,
    rslora: bool,
    rank_pattern: Vec<(Regex, f64)>,
    alpha_pattern: Vec<(Regex, f64)>,
    /// Whether linears have magnitudes (DoRA).
    pub(crate) dora: bool,
    /// Parameters without a module of their own: the experts.
    pub(crate) target_parameters: Vec<String>,
    /// The head stays the embedding when that is trained.
    pub(crate) tied: bool,
    /// Whether experts may be stored with inputs and outputs exchanged, as PEFT did before 0.19.
    pub(crate) is_old: bool,
}

impl PeftConfig {
    /// Reads the fields of a config.
    ///
    /// # Errors
    /// `Unsupported` for another kind of adapter and for settings that cannot be merged, `Malformed` for values of another
    /// type. The place is the field.
    pub(crate) fn new(config: &Value) -> Result<PeftConfig> {
        let kind = config["peft_type"].as_str().unwrap_or("LORA");
        if kind != "LORA" {
            return Err(Error::unsupported("peft_type", "another kind of adapter than LoRA")
                .expected("LORA", kind)
                .help(
                    "Merge it with peft (merge_and_unload, save_pretrained), and give the merged folder.",
                ));
        }
        for (key, value) in config.as_object().into_iter().flatten().filter(|(_, value)| is_set(value)) {
            if let Some((_, reason)) = REFUSED.iter().find(|(name, _)| name == key) {
                return Err(Error::unsupported(key, reason).expected("not set", value));
            }
            if !READ.contains(&key.as_str()) && !WITHOUT_EFFECT.contains(&key.as_str()) {
                return Err(Error::unsupported(
                    key,
                    "a setting of the adapter that this version does not know",
                )
                .expected("a field of PEFT 0.21", value)
                .help(
                    "It may change how the adapter is merged: merge it with the program that trained it.",
                ));
            }
        }
        check_init(&config["init_lora_weights"])?;
        let number = |key: &str, default: f64| match &config[key] {
            Value::Null => Ok(default),
            value => value
                .as_f64()
                .filter(|n| n.is_finite())
                .ok_or_else(|| Error::malformed(key, "not a number").expected("a number", value)),
        };
        let rank = number("r", 8.0)?;
        if rank < 1.0 || rank.fract() != 0.0 {
            return Err(Error::malformed("r", "not a rank").expected("a whole number, at least 1", rank));
        }
        let flag = |key: &str| config[key].as_bool().unwrap_or(false);
        let strings = config["target_parameters"].as_array().into_iter().flatten();
        Ok(PeftConfig {
            rank: rank as u64,
            alpha: number("lora_alpha", 8.0)?,
            rslora: flag("use_rslora"),
            rank_pattern: patterns("rank_pattern", config)?,
            alpha_pattern: patterns("alpha_pattern", config)?,
            dora: flag("use_dora"),
            target_parameters: strings.filter_map(Value::as_str).map(str::to_owned).collect(),
            tied: flag("ensure_weight_tying"),
            is_old: version(config).is_some_and(|version| version < (0, 19)),
        })
    }

    /// Rank and factor (alpha / rank, or alpha / √rank) of the module at `path`, without prefixes of PEFT.
    pub(crate) fn rank_and_factor(&self, path: &str) -> (u64, f64) {
        let of = |patterns: &[(Regex, f64)], default: f64| {
            patterns.iter().find(|(regex, _)| regex.is_match(path)).map_or(default, |(_, value)| *value)
        };
        let rank = of(&self.rank_pattern, self.rank as f64);
        let alpha = of(&self.alpha_pattern, self.alpha);
        (rank as u64, if self.rslora { alpha / rank.sqrt() } else { alpha / rank })
    }
}

/// Whether a field has a value: neither null, false, nor empty.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

/// Initialisations that leave the base as it is.
const PLAIN_INITS: [&str; 4] = ["eva", "gaussian", "mica", "orthogonal"];

/// Initialisations such as PiSSA, OLoRA, CorDA and LoftQ change the weights of the base: the adapter belongs to those.
fn check_init(value: &Value) -> Result<()> {
    let is_named = |name: &str| PLAIN_INITS.iter().any(|plain| name.eq_ignore_ascii_case(plain));
    if matches!(value, Value::Null | Value::Bool(_)) || value.as_str().is_some_and(is_named) {
        return Ok(());
    }
    Err(Error::unsupported(
        "init_lora_weights",
        "this initialisation changes the base, and the adapter belongs to the changed base",
    )
    .expected(format!("true, false, {}", PLAIN_INITS.join(", ")), value)
    .help("Merge it with peft into the base that was saved with it, and give the merged folder."))
}

/// The values of a pattern field. PEFT takes the first key for which `(.*\.)?(KEY)$` matches the path of a module from
/// its beginning.
fn patterns(key: &str, config: &Value) -> Result<Vec<(Regex, f64)>> {
    let entries = config[key].as_object().into_iter().flatten();
    let pattern = |(name, value): (&String, &Value)| {
        let place = || format!("{key}: {name}");
        let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{name})$")).map_err(|e| {
            Error::unsupported(place(), "not a regular expression that this program reads").with_source(e)
        })?;
        match value.as_f64() {
            Some(number) if number > 0.0 => Ok((regex, number)),
            _ => Err(Error::malformed(place(), "not a positive number").expected("a number", value)),
        }
    };
    entries.map(pattern).collect()
}

/// Major and minor version of the PEFT that saved the adapter.
fn version(config: &Value) -> Option<(u64, u64)> {
    let mut parts = config["peft_version"].as_str()?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patterns_name_whole_segments_at_the_end() {
        let config = PeftConfig::new(&json!({
            "r": 4, "lora_alpha": 8, "use_rslora": true,
            "rank_pattern": { "layers.0.q_proj": 16, "q_proj": 1 },
            "alpha_pattern": { r"layers\.(1|2)\.k_proj": 2 },
        }))
        .unwrap();
        let of = |path| config.rank_and_factor(path);
        assert_eq!(of("model.layers.0.q_proj"), (16, 2.0), "the first key that matches");
        assert_eq!(of("model.layers.10.q_proj"), (1, 8.0));
        assert_eq!(of("model.layers.0.xq_proj"), (4, 4.0), "not a whole segment");
        assert_eq!(of("model.layers.2.k_proj"), (4, 1.0));
        assert_eq!(of("model.layers.2.k_proj.linear"), (4, 4.0), "not at the end");
    }

    /// All fields of an adapter of Gemma 4 31B that Unsloth trained and PEFT 0.21.2 saved, found in a public repository.
    #[test]
    fn a_config_of_unsloth_is_accepted() {
        let mut config = json!({
            "alpha_pattern": {}, "bias": "none", "ensure_weight_tying": false, "fan_in_fan_out": false,
            "inference_mode": true, "init_lora_weights": true, "loftq_config": {}, "lora_alpha": 16, "lora_bias": false,
            "lora_dropout": 0.0, "megatron_core": "megatron.core", "peft_type": "LORA", "peft_version": "0.21.2",
            "qalora_group_size": 16, "r": 8, "rank_pattern": {}, "task_type": "CAUSAL_LM", "use_dora": false,
            "use_qalora": false, "use_rslora": false,
            "auto_mapping": {
                "base_model_class": "Gemma4ForConditionalGeneration",
                "parent_library": "transformers.models.gemma4.modeling_gemma4",
                "unsloth_fixed": true,
            },
            "base_model_name_or_path": "unsloth/gemma-4-31B-it-unsloth-bnb-4bit",
            "target_modules": r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?\.(?:q_proj|v_proj|o_proj))",
        });
        for unset in [
            "alora_invocation_tokens",
            "arrow_config",
            "corda_config",
            "eva_config",
            "exclude_modules",
            "kasa_config",
            "layer_replication",
            "layers_pattern",
            "layers_to_transform",
            "lora_ga_config",
            "megatron_config",
            "modules_to_save",
            "monteclora_config",
            "revision",
            "target_parameters",
            "trainable_token_indices",
            "use_bdlora",
            "velora_config",
        ] {
            config[unset] = Value::Null;
        }
        let config = PeftConfig::new(&config).unwrap();
        assert_eq!(config.rank_and_factor("model.language_model.layers.0.self_attn.q_proj"), (8, 2.0));
    }

    #[test]
    fn what_cannot_be_merged_is_refused_by_name() {
        for (config, place) in [
            (json!({ "peft_type": "IA3" }), "peft_type"),
            (json!({ "layer_replication": [[0, 4]] }), "layer_replication"),
            (json!({ "trainable_token_indices": [1] }), "trainable_token_indices"),
            (json!({ "alora_invocation_tokens": [1] }), "alora_invocation_tokens"),
            (json!({ "lora_bias": true }), "lora_bias"),
            (json!({ "arrow_config": { "top_k": 2 } }), "arrow_config"),
            (json!({ "use_qalora": true }), "use_qalora"),
            (json!({ "init_lora_weights": "pissa" }), "init_lora_weights"),
            (json!({ "init_lora_weights": "pissa_niter_4" }), "init_lora_weights"),
            (json!({ "a_new_trick": { "strength": 1 } }), "a_new_trick"),
            (json!({ "r": 0 }), "r"),
            (json!({ "lora_alpha": "sixteen" }), "lora_alpha"),
            (json!({ "rank_pattern": { "(": 1 } }), "rank_pattern: ("),
            (json!({ "alpha_pattern": { "q_proj": "x" } }), "alpha_pattern: q_proj"),
        ] {
            assert_eq!(PeftConfig::new(&config).unwrap_err().place(), place, "{config}");
        }
        PeftConfig::new(
            &json!({ "a_new_trick": false, "another": {}, "bias": "all", "fan_in_fan_out": true }),
        )
        .unwrap();
    }
}
