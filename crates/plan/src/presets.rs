//! The presets of `formats/gguf-presets.toml`: the type that llama-quantize gives each tensor.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use gemma::{Config, Slot};
use serde::{Deserialize, Deserializer};
use tensor::{DType, Error, Result};

use crate::similar::similar;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    common: Vec<Rule>,
    #[serde(deserialize_with = "fallbacks")]
    fallback: BTreeMap<DType, DType>,
    embedding: Embedding,
    preset: Vec<Preset>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Embedding {
    #[serde(deserialize_with = "dtype")]
    indivisible: DType,
}

/// A preset of llama-quantize.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// The name, such as `q4_k_m`.
    pub name: String,
    /// Other names that llama-quantize accepts.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// llama.cpp's number for the preset, the value of `general.file_type`.
    pub file_type: u32,
    #[serde(rename = "type", deserialize_with = "dtype")]
    default: DType,
    #[serde(default, deserialize_with = "optional_dtype")]
    embedding: Option<DType>,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    roles: Vec<String>,
    layers: Option<Layers>,
    gqa: Option<Gqa>,
    experts: Option<Experts>,
    importance: Option<bool>,
    #[serde(rename = "type", deserialize_with = "dtype")]
    dtype: DType,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Layers {
    #[serde(rename = "first 2")]
    First2,
    #[serde(rename = "first 4")]
    First4,
    #[serde(rename = "first eighth")]
    FirstEighth,
    #[serde(rename = "first sixteenth")]
    FirstSixteenth,
    #[serde(rename = "more bits")]
    MoreBits,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Gqa {
    #[serde(rename = "4 or more")]
    FourOrMore,
    #[serde(rename = "less than 4")]
    LessThanFour,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Experts {
    #[serde(rename = "8")]
    Eight,
    #[serde(rename = "not 8")]
    NotEight,
}

fn dtype<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<DType, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}

fn optional_dtype<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<DType>, D::Error> {
    dtype(from).map(Some)
}

fn fallbacks<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<BTreeMap<DType, DType>, D::Error> {
    let names = BTreeMap::<String, String>::deserialize(from)?;
    let pairs = names.iter().map(|(a, b)| Ok((a.parse()?, b.parse()?)));
    pairs.collect::<Result<_>>().map_err(serde::de::Error::custom)
}

fn table() -> &'static Table {
    static TABLE: LazyLock<Table> = LazyLock::new(|| {
        toml::from_str(include_str!("../../../formats/gguf-presets.toml"))
            .expect("formats/gguf-presets.toml is tested")
    });
    &TABLE
}

/// The names of all presets, in the order of the table.
pub fn preset_names() -> impl Iterator<Item = &'static str> {
    table().preset.iter().map(|p| p.name.as_str())
}

/// The context of a choice of type, besides the tensor itself.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The position of the tensor among `count` tensors, for rules about layers.
    pub index: usize,
    /// The number of tensors that `index` counts.
    pub count: usize,
    /// The request has an imatrix, whichever tensors it covers.
    pub importance: bool,
}

impl Preset {
    /// The preset called `name`, case-insensitive.
    ///
    /// # Errors
    /// `Recipe` for an unknown name, with a list of the presets.
    pub fn named(name: &str) -> Result<&'static Preset> {
        let is = |known: &str| known.eq_ignore_ascii_case(name);
        let found = table().preset.iter().find(|p| is(&p.name) || p.aliases.iter().any(|alias| is(alias)));
        found.ok_or_else(|| {
            let known: Vec<_> = preset_names().collect();
            let error =
                Error::recipe(format!("type {name:?}"), "no such preset").expected(known.join(", "), name);
            match similar(name, preset_names()) {
                Some(known) => error.help(format!("Did you mean {known}?")),
                None => error,
            }
        })
    }

    /// The preset's type for most tensors.
    pub fn default_type(&self) -> DType {
        self.default
    }

    /// The type of a tensor whose type the recipe chooses, before any fall-back, and the reason.
    pub fn choose(&self, config: &Config, slot: &Slot, place: Place) -> (DType, &'static str) {
        if !self.default.is_quantized() {
            return (self.default, "preset");
        }
        let tied = slot.role == "output" || config.tied && slot.role.ends_with("token_embd");
        if let Some(embedding) = self.embedding.filter(|_| tied) {
            let cols = slot.shape.last().copied().unwrap_or(1);
            return match self.default.row_bytes(cols) {
                Some(_) => (embedding, "preset: embeddings"),
                None => (table().embedding.indivisible, "preset: embeddings whose rows are not whole blocks"),
            };
        }
        let common = table().common.iter().filter(|rule| rule.holds(config, slot, place));
        let own = self.rules.iter().filter(|rule| rule.holds(config, slot, place));
        common.chain(own).next().map_or((self.default, "preset"), |rule| (rule.dtype, rule.why()))
    }
}

impl Rule {
    fn holds(&self, config: &Config, slot: &Slot, place: Place) -> bool {
        let eight = config.experts == Some(8);
        let grouped = config.heads / config.kv_heads_of(0).max(1) >= 4;
        self.roles.iter().any(|role| role == slot.role)
            && self.layers.is_none_or(|layers| layers.contain(place.index, place.count))
            && self.gqa.is_none_or(|gqa| matches!(gqa, Gqa::FourOrMore) == grouped)
            && self.experts.is_none_or(|experts| matches!(experts, Experts::Eight) == eight)
            && self.importance.is_none_or(|importance| importance == place.importance)
    }

    fn why(&self) -> &'static str {
        match self.layers {
            Some(Layers::MoreBits) => "preset: more bits for this layer",
            Some(_) => "preset: more bits for the first layers",
            None => "preset: this role",
        }
    }
}

impl Layers {
    fn contain(self, i: usize, n: usize) -> bool {
        match self {
            Layers::First2 => i < 2,
            Layers::First4 => i < 4,
            Layers::FirstEighth => i < n / 8,
            Layers::FirstSixteenth => i < n / 16,
            Layers::MoreBits => i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2,
        }
    }
}

/// The type for rows of `cols` elements: `wanted` if its blocks divide them, else its fall-back, else f16.
pub(crate) fn fall_back(wanted: DType, cols: u64) -> DType {
    let fits = |t: &DType| t.row_bytes(cols).is_some();
    if fits(&wanted) {
        return wanted;
    }
    table().fallback.get(&wanted).copied().filter(fits).unwrap_or(DType::F16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        let names: Vec<_> = preset_names().collect();
        for name in &names {
            assert_eq!(Preset::named(&name.to_uppercase()).unwrap().name, *name);
            assert_eq!(names.iter().filter(|n| n == &name).count(), 1);
        }
        assert!(Preset::named("q4").unwrap_err().to_string().contains("q4_0, "));
    }

    #[test]
    fn roles_of_rules_exist() {
        let rules = table().preset.iter().flat_map(|p| &p.rules).chain(&table().common);
        for role in rules.flat_map(|rule| &rule.roles) {
            assert!(gemma::is_role(role), "{role}");
        }
    }

    #[test]
    fn rows_that_do_not_divide_fall_back() {
        assert_eq!(fall_back(DType::Q6_K, 2112), DType::Q8_0);
        assert_eq!(fall_back(DType::Q4_K, 704), DType::Q5_0);
        assert_eq!(fall_back(DType::Q4_0, 33), DType::F16);
        assert_eq!(fall_back(DType::Q3_K, 33), DType::F16);
        assert_eq!(fall_back(DType::Q3_K, 256), DType::Q3_K);
    }
}
