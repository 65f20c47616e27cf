//! The tables of `formats/`, embedded and parsed once.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::config::Kind;

/// `formats/gemma4.variants.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Variants {
    pub(crate) architectures: BTreeMap<String, Kind>,
    pub(crate) variant: Vec<Named>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) layers: usize,
    pub(crate) hidden: u64,
}

/// `formats/gemma4.tensors.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tensors {
    pub(crate) prefixes: Vec<String>,
    pub(crate) tensor: Vec<TensorRow>,
    pub(crate) dropped: Vec<DroppedRow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TensorRow {
    pub(crate) role: String,
    pub(crate) hf: String,
    pub(crate) gguf: String,
    pub(crate) shape: Vec<String>,
    #[serde(default)]
    pub(crate) when: Vec<String>,
    #[serde(default)]
    pub(crate) store: Store,
    pub(crate) unused_when: Option<String>,
    #[serde(default)]
    pub(crate) unprefixed: bool,
}

/// Who decides the type of a tensor in a GGUF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// The recipe.
    #[default]
    Recipe,
    /// Always single precision.
    F32,
    /// Never quantised.
    Keep,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DroppedRow {
    #[serde(default)]
    pub(crate) prefixes: Vec<String>,
    #[serde(default)]
    pub(crate) suffixes: Vec<String>,
    pub(crate) reason: String,
}

/// `formats/gemma4.keys.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Keys {
    pub(crate) architecture: String,
    pub(crate) key: Vec<KeyRow>,
}

#[derive(Deserialize)]
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

/// `formats/gemma4.vocabulary.toml`.
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
    ($function:ident, $type:ty, $file:literal) => {
        pub(crate) fn $function() -> &'static $type {
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

table!(variants, Variants, "gemma4.variants.toml");
table!(tensors, Tensors, "gemma4.tensors.toml");
table!(keys, Keys, "gemma4.keys.toml");
table!(vocabulary, Vocabulary, "gemma4.vocabulary.toml");

#[cfg(test)]
mod tests {
    /// The promise behind `expect` above.
    #[test]
    fn tables_parse() {
        assert!(!super::variants().variant.is_empty());
        assert!(!super::tensors().tensor.is_empty());
        assert!(!super::keys().key.is_empty());
        assert!(!super::vocabulary().visible.is_empty());
    }
}
