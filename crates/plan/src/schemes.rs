//! The schemes of `formats/safetensors-schemes.toml`: types and scales of a safetensors output.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use gemma::Slot;
use serde::{Deserialize, Deserializer};
use serde_json::Value as Json;
use tensor::{DType, Error, Result};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    scheme: Vec<Scheme>,
    pub(crate) companions: Companions,
    /// Architecture of a checkpoint → architecture of its text model alone.
    pub(crate) text_only: BTreeMap<String, String>,
}

/// Names of the companion files of a model's weights.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Companions {
    files: Vec<String>,
    /// Prefix and suffix of names.
    like: Vec<(String, String)>,
    not_text: Vec<String>,
}

/// A scheme: how weights are written as safetensors.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheme {
    /// The name, such as `fp8`.
    pub name: String,
    pub(crate) rest: Rest,
    #[serde(default, rename = "type", deserialize_with = "optional_dtype")]
    dtype: Option<DType>,
    #[serde(default)]
    roles: Vec<String>,
    pub(crate) scale: Option<ScaleRule>,
    pub(crate) metadata: Vec<(String, String)>,
    pub(crate) quantization_config: Option<Json>,
}

/// Treatment of tensors that are not encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Rest {
    Keep,
    Bf16,
}

/// The scales of encoded tensors.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScaleRule {
    pub(crate) per: Per,
    pub(crate) suffix: String,
    #[serde(rename = "type", deserialize_with = "dtype")]
    pub(crate) dtype: DType,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Per {
    Tensor,
    Row,
}

fn dtype<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<DType, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}

fn optional_dtype<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<DType>, D::Error> {
    dtype(from).map(Some)
}

pub(crate) fn table() -> &'static Table {
    static TABLE: LazyLock<Table> = LazyLock::new(|| {
        toml::from_str(include_str!("../../../formats/safetensors-schemes.toml"))
            .expect("formats/safetensors-schemes.toml is tested")
    });
    &TABLE
}

/// The names of all schemes, in the order of the table.
pub fn scheme_names() -> impl Iterator<Item = &'static str> {
    table().scheme.iter().map(|s| s.name.as_str())
}

impl Scheme {
    /// The scheme called `name`, case-insensitive.
    ///
    /// # Errors
    /// `Recipe` for an unknown name, with a list of the schemes.
    pub fn named(name: &str) -> Result<&'static Scheme> {
        let found = table().scheme.iter().find(|s| s.name.eq_ignore_ascii_case(name));
        found.ok_or_else(|| {
            let known: Vec<_> = scheme_names().collect();
            let problem = if name.is_empty() { "missing" } else { "no such scheme of safetensors" };
            Error::recipe("types.scheme", problem).expected(known.join(", "), format!("{name:?}"))
        })
    }

    /// The encoded type of a tensor of the text model; `None` if it is not encoded.
    pub(crate) fn encodes(&self, slot: &Slot) -> Option<DType> {
        self.dtype.filter(|_| self.roles.iter().any(|role| role == slot.role))
    }
}

impl Companions {
    /// Whether a file of a checkpoint's folder goes with the weights.
    pub(crate) fn hold(&self, name: &str, text_only: bool) -> bool {
        let listed = self.files.iter().any(|file| file == name)
            || self
                .like
                .iter()
                .any(|(start, end)| name.starts_with(start.as_str()) && name.ends_with(end.as_str()));
        listed && !(text_only && self.not_text.iter().any(|file| file == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_are_found_and_whole() {
        for name in scheme_names() {
            let scheme = Scheme::named(&name.to_uppercase()).unwrap();
            assert_eq!(scheme.name, name);
            assert_eq!(scheme.dtype.is_some_and(quant_scale), scheme.scale.is_some(), "{name}");
            assert_eq!(scheme.dtype.is_none(), scheme.roles.is_empty(), "{name}");
            for role in &scheme.roles {
                assert!(gemma::is_role(role), "{role}");
            }
        }
        assert!(Scheme::named("q4_0").unwrap_err().to_string().contains("bf16, sfp8, fp8"));
    }

    fn quant_scale(dtype: DType) -> bool {
        matches!(dtype, DType::SFP8 | DType::F8_E4M3)
    }

    #[test]
    fn weights_are_no_companions() {
        let companions = &table().companions;
        for name in ["config.json", "LICENSE", "LICENSE.txt", "additional_chat_templates/tools.jinja"] {
            assert!(companions.hold(name, true), "{name}");
        }
        for name in ["model.safetensors", "model.safetensors.index.json", "manifest.json", "x/LICENSE"] {
            assert!(!companions.hold(name, false), "{name}");
        }
        assert!(companions.hold("processor_config.json", false));
        assert!(!companions.hold("processor_config.json", true));
    }
}
