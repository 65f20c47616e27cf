//! The files of a repository that a conversion needs: configs, tokenizer, templates, card, licence, and the weights in
//! safetensors files. Not `*.bin`, `*.gguf`, `consolidated.*`, or anything in folders such as `original/` and `onnx/`.

use std::collections::{BTreeMap, BTreeSet};

use base::{Error, Result, is_plain_name, visible_line};
use serde::Deserialize;

use crate::tree::RemoteFile;

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
const WEIGHTS: &str = ".safetensors";
const ADAPTER_CONFIG: &str = "adapter_config.json";
/// Weights of an adapter by PEFT and by mlx-lm.
const ADAPTERS: [&str; 2] = ["adapter_model.safetensors", "adapters.safetensors"];

const NAMES: [&str; 19] = [
    "README.md",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    CONFIG,
    "generation_config.json",
    "hf_quant_config.json",
    "merges.txt",
    INDEX,
    "preprocessor_config.json",
    "processor_config.json",
    "quantize_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
    ADAPTER_CONFIG,
];
pub(crate) const TEMPLATES: &str = "additional_chat_templates/";
const NOTICES: [&str; 3] = ["LICENSE", "LICENCE", "NOTICE"];

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// True for a file that is needed beside the weights.
pub(crate) fn is_companion(path: &str) -> bool {
    let template = path.strip_prefix(TEMPLATES).is_some_and(|name| name.ends_with(".jinja"));
    let notice = !path.contains('/') && NOTICES.iter().any(|start| path.to_uppercase().starts_with(start));
    NAMES.contains(&path) || template || notice
}

/// The weights among `files`: the single file, the shards that `index` names, or else every safetensors file at the top
/// that is not an adapter or a copy in another layout. Without single file and index, a repository with an adapter is that of the
/// adapter: what else it has comes from the training.
///
/// # Errors
/// `Malformed` for an index that is damaged or names missing files; `Unsupported` for a repository without safetensors.
pub(crate) fn weights<'f>(
    files: &'f [RemoteFile],
    index: Option<&[u8]>,
    place: &str,
) -> Result<Vec<&'f RemoteFile>> {
    let find = |name: &str| files.iter().find(|file| file.path == name);
    if let Some(single) = find(SINGLE) {
        return Ok(vec![single]);
    }
    if let Some(index) = index {
        let place = format!("{place}: {INDEX}");
        let index: Index = serde_json::from_slice(index).map_err(|e| Error::malformed(&place, e))?;
        let shards: BTreeSet<_> = index.weight_map.into_values().collect();
        let shard = |name: &String| {
            let known = find(name).filter(|_| is_plain_name(name) && name.ends_with(WEIGHTS));
            known.ok_or_else(|| {
                Error::malformed(&place, "a shard that is not in the repository")
                    .expected("a file of it", visible_line(name))
            })
        };
        return shards.iter().map(shard).collect();
    }
    let adapter = ADAPTERS.iter().find_map(|name| find(name)).filter(|_| find(ADAPTER_CONFIG).is_some());
    if let Some(adapter) = adapter {
        return Ok(vec![adapter]);
    }
    let is_candidate = |path: &str| {
        let other = ["adapter_", "consolidated"].iter().any(|start| path.starts_with(start));
        !path.contains('/') && path.ends_with(WEIGHTS) && !other
    };
    let found: Vec<_> = files.iter().filter(|file| is_candidate(&file.path)).collect();
    if found.is_empty() {
        let gguf = files.iter().any(|file| file.path.ends_with(".gguf"));
        let help = if gguf {
            "The repository has GGUF files, which are already converted. Name the repository of the original checkpoint."
        } else {
            "Name a repository with a checkpoint in the form of transformers."
        };
        return Err(Error::unsupported(place, "no weights in safetensors files").help(help));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&str]) -> Vec<RemoteFile> {
        let file = |path: &&str| RemoteFile {
            path: (*path).to_owned(),
            size: 1,
            blob: "ab".repeat(20),
            sha256: None,
            xet: None,
        };
        paths.iter().map(file).collect()
    }

    fn chosen(paths: &[&str], index: Option<&str>) -> Result<Vec<String>> {
        let files = files(paths);
        let found = weights(&files, index.map(str::as_bytes), "a/b")?;
        Ok(found.into_iter().map(|file| file.path.clone()).collect())
    }

    #[test]
    fn companions_are_named() {
        for path in ["config.json", "tokenizer.json", "LICENSE.txt", "additional_chat_templates/tool.jinja"] {
            assert!(is_companion(path), "{path}");
        }
        for path in ["original/config.json", "pytorch_model.bin", "x.gguf", "onnx/LICENSE", "image.png"] {
            assert!(!is_companion(path), "{path}");
        }
    }

    #[test]
    fn weights_are_those_of_the_index() {
        let shards = ["a-1.safetensors", "a-2.safetensors", "consolidated.safetensors", "old.safetensors"];
        let index = r#"{"weight_map":{"x":"a-2.safetensors","y":"a-1.safetensors","z":"a-1.safetensors"}}"#;
        assert_eq!(chosen(&shards, Some(index)).unwrap(), ["a-1.safetensors", "a-2.safetensors"]);
        assert_eq!(chosen(&["model.safetensors", "a.safetensors"], None).unwrap(), ["model.safetensors"]);
        let other = ["m.safetensors", "adapter_model.safetensors", "original/m.safetensors", "m.bin"];
        assert_eq!(chosen(&other, None).unwrap(), ["m.safetensors"]);
        for adapter in ADAPTERS {
            let beside = ["config.json", "v_head.safetensors", "0000100_adapters.safetensors"];
            let all = [&[ADAPTER_CONFIG, adapter][..], &beside].concat();
            assert_eq!(chosen(&all, None).unwrap(), [adapter]);
        }
        let merged = [ADAPTER_CONFIG, ADAPTERS[0], "config.json", "model.safetensors"];
        assert_eq!(chosen(&merged, None).unwrap(), ["model.safetensors"]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for index in
            ["{}", r#"{"weight_map":{"x":"b.safetensors"}}"#, r#"{"weight_map":{"x":"../a.safetensors"}}"#]
        {
            assert!(chosen(&["a.safetensors"], Some(index)).is_err(), "{index}");
        }
        let error = chosen(&["x-Q4_0.gguf"], None).unwrap_err();
        assert!(error.help_text().unwrap().contains("GGUF"), "{error}");
        assert!(chosen(&["pytorch_model.bin"], None).is_err());
    }
}
