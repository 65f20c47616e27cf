//! The files of a model folder that transformers and vLLM obey, and the JSON paths in them that matter.
//!
//! Used for folders without a binding plan: with one, every difference counts. Sources: transformers 5.23
//! (`configuration_utils.py`, `tokenization_utils_base.py`, `processing_utils.py`, `modeling_utils.py`), vLLM 0.32
//! (`transformers_utils/config.py`, `model_loader/default_loader.py`).

use Severity::{Failure, Note, Warning};

use crate::Severity;

/// Severities of a file that differs, is missing or is unexpected.
pub(crate) struct FileRule {
    /// A name, with at most one `*`.
    name: &'static str,
    pub(crate) differs: Severity,
    pub(crate) missing: Severity,
    pub(crate) extra: Severity,
    /// The effect of an unexpected file of this name.
    pub(crate) does: &'static str,
}

const fn file(name: &'static str, [differs, missing, extra]: [Severity; 3], does: &'static str) -> FileRule {
    FileRule { name, differs, missing, extra, does }
}

/// The first matching row applies. Chat templates are compared as keys, whichever file they are in.
#[rustfmt::skip]
const FILES: &[FileRule] = &[
    file("config.json",                  [Failure, Failure, Failure], "every reader obeys it"),
    file("generation_config.json",       [Failure, Failure, Failure], "transformers and vLLM sample and stop by it"),
    file("tokenizer.json",               [Failure, Failure, Failure], "every reader obeys it"),
    file("tokenizer_config.json",        [Failure, Failure, Failure], "transformers and vLLM obey it"),
    file("special_tokens_map.json",      [Failure, Note,    Failure], "older transformers take special tokens from it"),
    file("added_tokens.json",            [Failure, Note,    Failure], "older transformers take tokens from it"),
    file("tokenizer.model",              [Failure, Note,    Warning], "a reader without tokenizer.json takes it"),
    file("chat_template.jinja",          [Failure, Note,    Note],    "a chat template"),
    file("chat_template.json",           [Failure, Note,    Note],    "a chat template"),
    file("additional_chat_templates/*",  [Failure, Note,    Note],    "a chat template"),
    file("processor_config.json",        [Failure, Failure, Failure], "transformers and vLLM prepare images and sound by it"),
    file("preprocessor_config.json",     [Failure, Failure, Failure], "transformers and vLLM prepare images and sound by it"),
    file("video_preprocessor_config.json", [Failure, Failure, Failure], "transformers prepares videos by it"),
    file("*.py",                         [Failure, Failure, Failure], "code that trust_remote_code runs"),
    file("adapter_config.json",          [Failure, Failure, Failure], "transformers lays the adapter over the model"),
    file("adapter_model.*",              [Failure, Failure, Warning], "the weights of an adapter, read where adapter_config.json is"),
    file("hf_quant_config.json",         [Failure, Failure, Failure], "vLLM reads the weights by it"),
    file("quant*_config.json",           [Failure, Failure, Failure], "some readers take the weights' types from it"),
    file("params.json",                  [Failure, Warning, Warning], "vLLM may take the folder for one of another format"),
    file("*.safetensors",                [Failure, Failure, Warning], "weights that belong to no index"),
    file("*.bin",                        [Warning, Note,    Warning], "weights in another format"),
    file("*.pt",                         [Warning, Note,    Warning], "weights in another format"),
    file("*.pth",                        [Warning, Note,    Warning], "weights in another format"),
    file("*",                            [Note,    Note,    Note],    "no reader of the model looks at it"),
];

/// Severity of a difference in a JSON file: the file (`*` for any), the last name of the path, the severity.
#[rustfmt::skip]
const PLACES: &[(&str, &str, Severity)] = &[
    ("*",                      "transformers_version", Note),
    ("*",                      "_name_or_path",        Note),
    ("*",                      "name_or_path",         Note),
    ("config.json",            "initializer_range",    Note),
    ("config.json",            "use_cache",            Note),
    ("generation_config.json", "_from_model_config",   Note),
    ("tokenizer.json",         "version",              Note),
];

/// Names in config.json that only one dialect has, or that may be omitted if they have the default of the config class.
/// If one side lacks them, the comparison of the parsed configs decides.
const DIALECTS: &[&str] = &[
    "attention_k_eq_v",
    "enable_moe_block",
    "expert_intermediate_size",
    "final_logit_softcapping",
    "global_head_dim",
    "head_dim",
    "hidden_size_per_layer_input",
    "layer_types",
    "max_position_embeddings",
    "moe_intermediate_size",
    "num_experts",
    "num_global_key_value_heads",
    "num_kv_shared_layers",
    "per_layer_config",
    "rms_norm_eps",
    "rope_parameters",
    "sliding_window",
    "tie_word_embeddings",
    "top_k_experts",
    "use_double_wide_mlp",
    "vocab_size_per_layer_input",
];

/// The rule of a file.
pub(crate) fn file_rule(name: &str) -> &'static FileRule {
    let holds = |rule: &&FileRule| match rule.name.split_once('*') {
        Some((start, end)) => {
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        }
        None => rule.name == name,
    };
    // the last row matches every name
    FILES.iter().find(holds).unwrap_or(&FILES[FILES.len() - 1])
}

/// Severity of a difference at `path` of a JSON file. `lacking`: one side has no value there; `same_config`: both
/// configs are equal when parsed.
pub(crate) fn place(file: &str, path: &str, lacking: bool, same_config: bool) -> Severity {
    let last = path.rsplit('.').next().unwrap_or(path);
    let row = PLACES.iter().find(|(name, key, _)| (*name == "*" || *name == file) && *key == last);
    if let Some((.., severity)) = row {
        return *severity;
    }
    if lacking && same_config && is_dialect(file, path) { Note } else { file_rule(file).differs }
}

/// Whether only one dialect of config.json has this path.
pub(crate) fn is_dialect(file: &str, path: &str) -> bool {
    file == "config.json" && path.split('.').any(|name| DIALECTS.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_row_speaks() {
        assert_eq!(file_rule("config.json").differs, Failure);
        assert_eq!(file_rule("modeling_gemma4.py").extra, Failure);
        assert_eq!(file_rule("quantize_config.json").extra, Failure);
        assert_eq!(file_rule("README.md").missing, Note);
        assert_eq!(place("config.json", "text_config.global_head_dim", true, true), Note);
        assert_eq!(place("config.json", "text_config.global_head_dim", true, false), Failure);
        assert_eq!(place("config.json", "text_config.global_head_dim", false, true), Failure);
        assert_eq!(place("tokenizer_config.json", "model_max_length", true, true), Failure);
        assert_eq!(place("generation_config.json", "transformers_version", false, true), Note);
    }
}
