//! Recipes: TOML descriptions of an output. The keys are documented in `recipes/README.md`.
//!
//! The recipes of the folder `recipes/` are embedded; no code knows one by name.

mod draft;

use std::collections::BTreeMap;

use include_dir::{Dir, File, include_dir};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tensor::{DType, Error, Result};

use crate::budget::Budget;
use crate::calibration::Calibration;
use crate::embedded;
use crate::grid::GridPolicy;
use crate::output::{Format, Output};
use crate::presets::preset_names;
use crate::rules;
use crate::schemes::Scheme;
use crate::serde_dtype;
use crate::similar::similar;

pub use draft::DraftRecipe;

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../recipes");

/// A recipe. All checks that need no model are done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// A description for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub purpose: String,
    /// Treatment of K/V tensors that no layer reads.
    #[serde(default)]
    pub unused_kv: UnusedKv,
    /// Treatment of a draft model's ordered embedding in a GGUF.
    #[serde(default, skip_serializing_if = "is_default")]
    pub masked_embedding: MaskedEmbedding,
    /// Write only the text model, as a model of its own. (A GGUF contains nothing else.)
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub text_only: bool,
    /// The types of the tensors.
    pub types: Types,
    /// The container and the files.
    #[serde(default)]
    pub output: Output,
    /// Bit allocation: a limit under which types are chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Calibrated quantization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// The draft model to make in the same run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<DraftRecipe>,
    /// `general.*` keys by their short names, see [`gemma::METADATA_FIELDS`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, Json>,
    /// The contents of an mmproj file.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mmproj: Mmproj,
    /// Thresholds of `verify`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub verify: Thresholds,
    /// Any metadata keys of the GGUF.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kv: BTreeMap<String, Json>,
}

/// Treatment of K/V tensors that no layer reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnusedKv {
    /// They are written, as llama.cpp's converter does.
    #[default]
    Keep,
    /// They are left out, as in Google's own files.
    Drop,
}

/// Treatment of a draft model's ordered embedding, which llama.cpp knows but does not use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MaskedEmbedding {
    /// It is left out, as by llama.cpp's converter.
    #[default]
    Drop,
    /// It is written.
    Keep,
}

/// The section `[types]` of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Types {
    /// A preset of `formats/gguf-presets.toml` (GGUF only).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub preset: String,
    /// A scheme of `formats/safetensors-schemes.toml` (safetensors only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// Type of `token_embd`, which is also the head of a model with tied embeddings.
    #[serde(default, with = "serde_dtype::optional", skip_serializing_if = "Option::is_none")]
    pub token_embd: Option<DType>,
    /// Type of the per-layer embedding table.
    #[serde(default, with = "serde_dtype::optional", skip_serializing_if = "Option::is_none")]
    pub per_layer_token_embd: Option<DType>,
    /// The type that weights are rounded to before quantization.
    #[serde(default)]
    pub via: Via,
    /// Treatment of weights that are on a 4-bit quantization grid.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lattice: GridPolicy,
    /// Type rules. The first that matches a tensor decides its type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<TypeRule>,
}

/// The type that weights other than BF16 are rounded to before quantization.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// BF16, like the intermediate file between llama.cpp's two steps.
    #[default]
    Bf16,
    /// No rounding.
    None,
}

/// The section `[mmproj]` of a recipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mmproj {
    /// The activation that llama.cpp computes in the image tower.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gelu: Gelu,
}

/// The activation that llama.cpp computes in the image tower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gelu {
    /// `clip.use_gelu` is not written, as by llama.cpp's converter: quick-GELU.
    #[default]
    Stock,
    /// `clip.use_gelu` is written: tanh-GELU, with which the model was trained.
    Exact,
}

/// A type for the tensors whose GGUF name matches a regular expression.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypeRule {
    /// The expression. It may match any part of the name, as in llama-quantize's `--tensor-type`.
    pub tensors: String,
    /// The type of the matching tensors.
    #[serde(rename = "type", with = "serde_dtype::one")]
    pub dtype: DType,
    /// The variants that the rule applies to; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<String>,
    /// The rule may match no tensor.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// The reason, shown in the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Thresholds of `verify` for the outputs of a recipe. An absent threshold is not checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// Maximum mean KL divergence from the checkpoint, in nats per token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_kld: Option<f64>,
    /// Maximum perplexity, as a multiple of the checkpoint's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ppl_ratio: Option<f64>,
    /// Minimum share of tokens at which both models agree on the likeliest token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_top1: Option<f64>,
    /// Of an mmproj file: maximum error of the soft tokens of an image or a sound, relative to those of the checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_feature_error: Option<f64>,
}

impl Thresholds {
    /// Checks that each threshold is in the range of its figure.
    ///
    /// # Errors
    /// `Recipe` for a threshold that no output, or every output, meets.
    pub fn check(&self) -> Result<()> {
        let check = |name: &str, limit: Option<f64>, good: std::ops::RangeInclusive<f64>| match limit {
            Some(limit) if !good.contains(&limit) => Err(Error::recipe(name, "no such limit")
                .expected(format!("{} to {}", good.start(), good.end()), limit)),
            _ => Ok(()),
        };
        check("max_kld", self.max_kld, 0.0..=f64::MAX)?;
        check("max_ppl_ratio", self.max_ppl_ratio, 0.0..=f64::MAX)?;
        check("min_top1", self.min_top1, 0.0..=1.0)?;
        check("max_feature_error", self.max_feature_error, 0.0..=f64::MAX)
    }
}

impl Recipe {
    /// The TOML text of a recipe that has nothing but a preset.
    pub fn text_of_preset(name: &str) -> String {
        format!("types.preset = {name:?}\n")
    }

    /// The TOML text of a recipe of an mmproj file that has nothing but a preset.
    pub fn text_of_mmproj(preset: &str) -> String {
        format!("output.format = \"mmproj\"\ntypes.preset = {preset:?}\n")
    }

    /// The names of the embedded recipes with their purposes, sorted.
    pub fn embedded() -> Vec<(String, String)> {
        let purpose = |text: &str, name: &str| Ok(Recipe::from_toml(text, name)?.purpose);
        embedded::purposes(texts(EMBEDDED.files()), purpose)
    }

    /// The names and TOML texts of the embedded release recipes.
    pub(crate) fn embedded_releases() -> impl Iterator<Item = embedded::Named> {
        Recipe::embedded_in("release")
    }

    /// The names and TOML texts of the embedded recipes of bundles.
    pub(crate) fn embedded_bundles() -> impl Iterator<Item = embedded::Named> {
        Recipe::embedded_in("bundle")
    }

    fn embedded_in(folder: &str) -> impl Iterator<Item = embedded::Named> + use<> {
        texts(EMBEDDED.get_dir(folder).into_iter().flat_map(Dir::files))
    }

    /// The TOML text of an embedded recipe.
    pub fn embedded_text(name: &str) -> Option<&'static str> {
        EMBEDDED.get_file(format!("{}.toml", name.to_ascii_lowercase()))?.contents_utf8()
    }

    /// The embedded recipe or preset with the most similar name, if any is similar enough.
    pub fn similar_name(name: &str) -> Option<String> {
        let mut known: Vec<String> = Recipe::embedded().into_iter().map(|(name, _)| name).collect();
        known.extend(preset_names().map(str::to_owned));
        similar(name, known.iter().map(String::as_str)).map(str::to_owned)
    }

    /// Parses and checks a recipe; `name` is for errors.
    ///
    /// # Errors
    /// `Recipe`, with the line in the text.
    pub fn from_toml(text: &str, name: &str) -> Result<Recipe> {
        Recipe::from_toml_with(text, name, &[])
    }

    /// Like [`Recipe::from_toml`], with `KEY=VALUE` settings on top; KEY is dotted (`output.split_max_size`).
    ///
    /// # Errors
    /// `Recipe` for a text or a setting that does not parse or has an unknown key.
    pub fn from_toml_with(text: &str, name: &str, settings: &[String]) -> Result<Recipe> {
        let place = || format!("recipe {name}");
        let mut table: toml::Table = text.parse().map_err(|e| Error::recipe(place(), e))?;
        for setting in settings {
            set(&mut table, setting)?;
        }
        let recipe: Recipe = table.try_into().map_err(|e| embedded::unreadable(&e, place(), "a recipe"))?;
        recipe.check().map_err(|e| e.within(place()))?;
        Ok(recipe)
    }

    /// Whether the output contains the towers of the checkpoint.
    pub(crate) fn holds_towers(&self) -> bool {
        match self.output.format {
            Format::Gguf => false,
            Format::Safetensors => !self.text_only,
            Format::Mmproj => true,
        }
    }

    fn check(&self) -> Result<()> {
        match self.output.format {
            Format::Gguf | Format::Mmproj => drop(crate::Preset::named(&self.types.preset)?),
            Format::Safetensors => drop(Scheme::named(self.types.scheme.as_deref().unwrap_or_default())?),
        }
        self.check_effect()?;
        self.output.split_max_bytes()?;
        self.output.max_shard_bytes()?;
        self.output.offload_classes()?;
        self.verify.check()?;
        self.draft.as_ref().map_or(Ok(()), DraftRecipe::check)?;
        self.budget.as_ref().map_or(Ok(()), Budget::check)?;
        let embeddings = [
            ("types.token_embd", self.types.token_embd),
            ("types.per_layer_token_embd", self.types.per_layer_token_embd),
        ];
        for (key, dtype) in embeddings {
            dtype.map_or(Ok(()), |dtype| rules::of_weights(key, dtype))?;
        }
        if self.types.lattice == GridPolicy::Near && self.calibration.is_none() {
            let problem = "without error feedback, \"near\" rounds most changes of the fine-tuning away";
            return Err(Error::recipe("types.lattice", problem)
                .expected("calibration.method = \"ldlq\"", "no calibration")
                .help("Add ‹set› calibration.method=ldlq, and a ‹text›."));
        }
        self.check_names()
    }

    /// Refuses keys that have no effect on the container.
    fn check_effect(&self) -> Result<()> {
        let Types { preset, scheme, token_embd, per_layer_token_embd, via, lattice, rules } = &self.types;
        let (container, others) = match self.output.format {
            Format::Gguf => (
                "gguf",
                vec![
                    ("types.scheme", scheme.is_some()),
                    ("output.max_shard_size", self.output.max_shard_size.is_some()),
                    ("text_only", self.text_only),
                    ("mmproj", self.mmproj != Mmproj::default()),
                    ("verify.max_feature_error", self.verify.max_feature_error.is_some()),
                ],
            ),
            Format::Mmproj => (
                "mmproj",
                vec![
                    ("unused_kv", self.unused_kv != UnusedKv::default()),
                    ("masked_embedding", self.masked_embedding != MaskedEmbedding::default()),
                    ("text_only", self.text_only),
                    ("types.scheme", scheme.is_some()),
                    ("types.token_embd", token_embd.is_some()),
                    ("types.per_layer_token_embd", per_layer_token_embd.is_some()),
                    ("types.via", *via != Via::default()),
                    ("types.lattice", *lattice != GridPolicy::default()),
                    ("output.offload", !self.output.offload.is_empty()),
                    ("output.split_max_size", self.output.split_max_size.is_some()),
                    ("output.max_shard_size", self.output.max_shard_size.is_some()),
                    ("budget", self.budget.is_some()),
                    ("calibration", self.calibration.is_some()),
                    ("draft", self.draft.is_some()),
                    ("verify.max_kld", self.verify.max_kld.is_some()),
                    ("verify.max_ppl_ratio", self.verify.max_ppl_ratio.is_some()),
                    ("verify.min_top1", self.verify.min_top1.is_some()),
                ],
            ),
            Format::Safetensors => (
                "safetensors",
                vec![
                    ("masked_embedding", self.masked_embedding != MaskedEmbedding::default()),
                    ("mmproj", self.mmproj != Mmproj::default()),
                    ("verify.max_feature_error", self.verify.max_feature_error.is_some()),
                    ("types.preset", !preset.is_empty()),
                    ("types.token_embd", token_embd.is_some()),
                    ("types.per_layer_token_embd", per_layer_token_embd.is_some()),
                    ("types.via", *via != Via::default()),
                    ("types.lattice", *lattice != GridPolicy::default()),
                    ("budget", self.budget.is_some()),
                    ("calibration", self.calibration.is_some()),
                    ("types.rules", !rules.is_empty()),
                    ("output.split_max_size", self.output.split_max_size.is_some()),
                    ("metadata", !self.metadata.is_empty()),
                    ("kv", !self.kv.is_empty()),
                ],
            ),
        };
        match others.into_iter().find(|(_, set)| *set) {
            Some((key, _)) => Err(Error::recipe(key, format!("has no effect on {container}"))
                .help("recipes/README.md says which keys are of which container.")),
            None => Ok(()),
        }
    }

    /// Refuses unknown names of variants and metadata fields.
    fn check_names(&self) -> Result<()> {
        let known: Vec<_> = gemma::variant_names().collect();
        for rule in &self.types.rules {
            if let Some(name) = rule.variants.iter().find(|name| !known.contains(&name.as_str())) {
                return Err(
                    Error::recipe(rules::place(rule), "no such variant").expected(known.join(", "), name)
                );
            }
        }
        if let Some(key) = self.metadata.keys().find(|key| !gemma::METADATA_FIELDS.contains(&key.as_str())) {
            return Err(Error::recipe(format!("[metadata] {key}"), "no such field")
                .expected(gemma::METADATA_FIELDS.join(", "), key));
        }
        Ok(())
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The names and texts of embedded files that are recipes.
fn texts(files: impl Iterator<Item = &'static File<'static>>) -> impl Iterator<Item = embedded::Named> {
    files.filter_map(|file| Some((stem(file.path())?, file.contents_utf8()?)))
}

fn stem(path: &std::path::Path) -> Option<String> {
    let is_recipe = path.extension().is_some_and(|e| e == "toml");
    path.file_stem().filter(|_| is_recipe).map(|s| s.to_string_lossy().into_owned())
}

/// Applies one `KEY=VALUE`. The value is TOML if it parses as such, else a string: `unused_kv=drop` works.
fn set(table: &mut toml::Table, setting: &str) -> Result<()> {
    let place = || format!("‹set› {setting}");
    let Some((key, value)) = setting.split_once('=') else {
        return Err(Error::recipe(place(), "not a setting").expected("KEY=VALUE", setting));
    };
    let parsed = format!("value = {value}").parse::<toml::Table>().ok().and_then(|mut t| t.remove("value"));
    let value = parsed.unwrap_or_else(|| toml::Value::String(value.to_owned()));
    // GGUF keys contain dots themselves
    let path: Vec<&str> = match key.strip_prefix("kv.") {
        Some(rest) => vec!["kv", rest],
        None => key.split('.').collect(),
    };
    let (last, parents) = path.split_last().unwrap_or((&"", &[]));
    let mut at = table;
    for parent in parents {
        let entry = at.entry(*parent).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = entry
            .as_table_mut()
            .ok_or_else(|| Error::recipe(place(), format!("{parent} is not a section")))?;
    }
    at.insert((*last).to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_recipe_parses_and_says_its_purpose() {
        for file in EMBEDDED.files().filter(|f| stem(f.path()).is_some()) {
            let name = stem(file.path()).unwrap();
            let recipe = Recipe::from_toml(file.contents_utf8().unwrap(), &name).unwrap();
            assert!(!recipe.purpose.is_empty(), "{name}");
        }
        assert!(Recipe::embedded().iter().any(|(name, _)| name == "q4_0"));
    }

    #[test]
    fn settings() {
        let with = |settings: &[&str]| {
            let settings: Vec<_> = settings.iter().map(|s| (*s).to_owned()).collect();
            Recipe::from_toml_with("types.preset = 'q4_0'", "test", &settings)
        };
        assert_eq!(with(&["unused_kv=drop"]).unwrap().unused_kv, UnusedKv::Drop);
        assert_eq!(with(&["types.token_embd=q8_0"]).unwrap().types.token_embd, Some(DType::Q8_0));
        assert_eq!(with(&["kv.gemma4.context_length=4096"]).unwrap().kv["gemma4.context_length"], 4096);
        assert_eq!(
            with(&["output.split_max_size=2GB"]).unwrap().output.split_max_bytes().unwrap(),
            Some(2_000_000_000)
        );
        for bad in [
            "unused_kv",
            "unused_kv=perhaps",
            "typo=1",
            "types.preset=q4",
            "output.split_max_size=0",
            "metadata.nmae=x",
        ] {
            let error = with(&[bad]).unwrap_err();
            assert_eq!(error.fault(), tensor::Fault::Recipe, "{bad}");
        }
    }
}
