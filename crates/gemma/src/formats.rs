//! The tables of `formats/`, embedded and parsed once. Those of draft models extend those of text models.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::config::ModelKind;
use crate::towers::{Tower, TowerChange, TowerType};

/// The table `formats/gemma4.variants.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Variants {
    pub(crate) architectures: BTreeMap<String, ModelKind>,
    pub(crate) variant: Vec<Named>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) layers: usize,
    pub(crate) hidden: u64,
    pub(crate) full_attention_every: usize,
    /// Field of `text_config` -> value; 0 if the variant has none.
    pub(crate) sizes: BTreeMap<String, u64>,
}

/// The table `formats/gemma4.defaults.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Defaults {
    pub(crate) text_class: BTreeMap<String, String>,
    pub(crate) model_type: BTreeMap<String, String>,
    pub(crate) class: BTreeMap<String, Class>,
}

/// A config class of transformers.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Class {
    pub(crate) optional: Vec<String>,
    pub(crate) unknown: Vec<String>,
    pub(crate) default: BTreeMap<String, serde_json::Value>,
}

/// The table `formats/gemma4.processor.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Processor {
    pub(crate) image: Fields,
    pub(crate) mel: Fields,
    pub(crate) samples: Fields,
}

/// Fields of a JSON block, with their values.
pub(crate) type Fields = BTreeMap<String, serde_json::Value>;

/// The table `formats/gemma4.tensors.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tensors {
    pub(crate) prefixes: Vec<String>,
    pub(crate) tensor: Vec<TensorRow>,
    pub(crate) dropped: Vec<DroppedRow>,
}

/// The table `formats/gemma4-assistant.tensors.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DraftTensors {
    same: Vec<String>,
    tensor: Vec<TensorRow>,
    dropped: Vec<DroppedRow>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TensorRow {
    pub(crate) role: String,
    pub(crate) hf: String,
    pub(crate) gguf: String,
    pub(crate) shape: Vec<String>,
    #[serde(default)]
    pub(crate) when: Vec<String>,
    #[serde(default)]
    pub(crate) store: TypePolicy,
    #[serde(default)]
    pub(crate) lora: bool,
    pub(crate) unused_when: Option<String>,
    #[serde(default)]
    pub(crate) unprefixed: bool,
}

/// The policy for the type of a tensor in a GGUF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TypePolicy {
    /// The recipe chooses the type.
    #[default]
    Recipe,
    /// Always F32.
    F32,
    /// Never quantised.
    Keep,
    /// Integers, which are copied.
    Copy,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DroppedRow {
    #[serde(default)]
    pub(crate) prefixes: Vec<String>,
    #[serde(default)]
    pub(crate) suffixes: Vec<String>,
    pub(crate) reason: String,
}

/// The table `formats/gemma4-mmproj.tensors.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TowerTensors {
    pub(crate) prefixes: Vec<String>,
    pub(crate) tensor: Vec<TowerRow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TowerRow {
    pub(crate) tower: Tower,
    pub(crate) role: String,
    pub(crate) hf: String,
    pub(crate) gguf: String,
    pub(crate) shape: Vec<String>,
    #[serde(default)]
    pub(crate) store: TowerType,
    pub(crate) when: Option<String>,
    pub(crate) clipped: Option<String>,
    pub(crate) change: Option<TowerChange>,
}

/// The table `formats/gemma4.keys.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Keys {
    pub(crate) architecture: String,
    pub(crate) key: Vec<KeyRow>,
}

/// The table `formats/gemma4-assistant.keys.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DraftKeys {
    architecture: String,
    after: String,
    key: Vec<KeyRow>,
}

/// The table `formats/gemma4-adapter.keys.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdapterKeys {
    after: String,
    key: Vec<KeyRow>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyRow {
    pub(crate) key: String,
    #[serde(rename = "type")]
    pub(crate) kind: KeyType,
    pub(crate) value: String,
}

/// The type of a GGUF value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub(crate) enum KeyType {
    U32,
    I32,
    F32,
    Bool,
    Str,
    #[serde(rename = "u32 or i32[]")]
    U32OrI32s,
    #[serde(rename = "i32[]")]
    I32s,
    #[serde(rename = "f32[]")]
    F32s,
    #[serde(rename = "bool[]")]
    Bools,
    #[serde(rename = "str[]")]
    Strs,
}

/// The table `formats/ollama.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ollama {
    pub(crate) marker: String,
    pub(crate) tensors: Vec<[String; 2]>,
    pub(crate) left_out: Vec<String>,
    pub(crate) clip: BTreeMap<String, String>,
}

/// The table `formats/gemma4.vocabulary.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Vocabulary {
    pub(crate) tokenizer_model: String,
    pub(crate) score: f32,
    pub(crate) visible: Vec<String>,
    pub(crate) defaults: BTreeMap<String, String>,
    pub(crate) types: TokenTypes,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenTypes {
    pub(crate) normal: i32,
    pub(crate) control: i32,
    pub(crate) user_defined: i32,
    pub(crate) byte: i32,
}

macro_rules! table {
    ($visibility:vis $function:ident, $type:ty, $file:literal) => {
        $visibility fn $function() -> &'static $type {
            static TABLE: LazyLock<$type> = LazyLock::new(|| {
                toml::from_str(include_str!(concat!("../../../formats/", $file))).expect(concat!(
                    "formats/",
                    $file,
                    " is tested"
                ))
            });
            &TABLE
        }
    };
}

table!(pub(crate) variants, Variants, "gemma4.variants.toml");
table!(pub(crate) defaults, Defaults, "gemma4.defaults.toml");
table!(pub(crate) processor, Processor, "gemma4.processor.toml");
table!(text_tensors, Tensors, "gemma4.tensors.toml");
table!(draft_tensors, DraftTensors, "gemma4-assistant.tensors.toml");
table!(text_keys, Keys, "gemma4.keys.toml");
table!(draft_keys, DraftKeys, "gemma4-assistant.keys.toml");
table!(own_adapter_keys, AdapterKeys, "gemma4-adapter.keys.toml");
table!(own_mmproj_keys, Keys, "gemma4-mmproj.keys.toml");
table!(pub(crate) towers, TowerTensors, "gemma4-mmproj.tensors.toml");
table!(pub(crate) vocabulary, Vocabulary, "gemma4.vocabulary.toml");
table!(pub(crate) ollama, Ollama, "ollama.toml");

/// The tensor table for models of this kind.
pub(crate) fn tensors(kind: ModelKind) -> &'static Tensors {
    static OF_DRAFTS: LazyLock<Tensors> = LazyLock::new(|| {
        let (text, draft) = (text_tensors(), draft_tensors());
        let same = text.tensor.iter().filter(|row| draft.same.contains(&row.role));
        Tensors {
            prefixes: text.prefixes.clone(),
            tensor: same.chain(&draft.tensor).cloned().collect(),
            dropped: draft.dropped.clone(),
        }
    });
    if kind == ModelKind::Draft { &OF_DRAFTS } else { text_tensors() }
}

/// The key table for models of this kind.
pub(crate) fn keys(kind: ModelKind) -> &'static Keys {
    static OF_DRAFTS: LazyLock<Keys> = LazyLock::new(|| {
        let (mut key, draft) = (text_keys().key.clone(), draft_keys());
        let place = key.iter().position(|row| row.key == draft.after).map_or(key.len(), |at| at + 1);
        key.splice(place..place, draft.key.iter().cloned());
        Keys { architecture: draft.architecture.clone(), key }
    });
    if kind == ModelKind::Draft { &OF_DRAFTS } else { text_keys() }
}

/// The key table for mmproj files: `general.*` of text models, then the keys of towers.
pub(crate) fn mmproj_keys() -> &'static Keys {
    static OF_MMPROJ: LazyLock<Keys> = LazyLock::new(|| {
        let own = own_mmproj_keys();
        let is_general = |row: &&KeyRow| row.key.starts_with("general.") && !row.value.starts_with("file.");
        let key = text_keys().key.iter().filter(is_general).chain(&own.key).cloned().collect();
        Keys { architecture: own.architecture.clone(), key }
    });
    &OF_MMPROJ
}

/// The key table for adapters: `general.*` of text models with the first key of adapters among them, then the others.
pub(crate) fn adapter_keys() -> &'static Keys {
    static OF_ADAPTERS: LazyLock<Keys> = LazyLock::new(|| {
        let (text, own) = (text_keys(), own_adapter_keys());
        let of_card = |row: &&KeyRow| row.value.starts_with("card.") && row.value != "card.size_label";
        let names = ["architecture", "type"];
        let general = text.key.iter().filter(|row| names.contains(&row.value.as_str()) || of_card(row));
        let mut key: Vec<KeyRow> = general.cloned().collect();
        let place = key.iter().position(|row| row.key == own.after).map_or(key.len(), |at| at + 1);
        let (first, others) = own.key.split_at(1);
        key.extend(others.iter().cloned());
        key.splice(place..place, first.iter().cloned());
        Keys { architecture: text.architecture.clone(), key }
    });
    &OF_ADAPTERS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Justifies the `expect` above.
    #[test]
    fn tables_parse() {
        assert!(!variants().variant.is_empty());
        for kind in [ModelKind::Text, ModelKind::Draft] {
            assert!(!tensors(kind).tensor.is_empty());
            assert!(!keys(kind).key.is_empty());
        }
        assert!(!mmproj_keys().key.is_empty());
        assert!(adapter_keys().key.iter().any(|row| row.key == own_adapter_keys().after));
        assert!(!vocabulary().visible.is_empty());
        assert!(!ollama().clip.is_empty());
        assert!(!defaults().class.is_empty());
    }

    /// The rows of text models that the tables of draft models refer to exist.
    #[test]
    fn tables_of_drafts_build_on_rows_that_exist() {
        let text = text_tensors();
        for role in &draft_tensors().same {
            assert_eq!(text.tensor.iter().filter(|row| row.role == *role).count(), 1, "{role}");
        }
        assert!(text_keys().key.iter().any(|row| row.key == draft_keys().after));
    }

    /// Compares the defaults with those of the real transformers, see `fixtures/configs/as_transformers_reads.py`.
    #[test]
    fn defaults_are_those_of_transformers() {
        let read = testkit::json("configs/as_transformers_reads.json");
        let theirs = read["defaults"].as_object().unwrap();
        assert_eq!(
            defaults().class.keys().collect::<Vec<_>>(),
            theirs.keys().collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        );
        for (name, class) in &defaults().class {
            let of = &theirs[name];
            for (key, ours) in &class.default {
                // numbers by value: 1e-6 and 1e-06, 1024 and 1024.0
                let equal =
                    ours == &of[key] || ours.as_f64().is_some_and(|ours| Some(ours) == of[key].as_f64());
                assert!(equal, "{name}.{key}: {ours}, transformers has {:?}", of.get(key));
            }
            for key in &class.optional {
                assert_eq!(of.get(key), Some(&serde_json::Value::Null), "{name}.{key}");
            }
            for key in &class.unknown {
                assert_eq!(of.get(key), None, "{name}.{key}");
            }
        }
    }
}
