//! Recipes of bundles of LiteRT-LM: the bits of each weight. Graph and container are those of the given bundle. The keys are documented
//! in `recipes/README.md`.
//!
//! Those of the folder `recipes/bundle/` are embedded; no code knows one by name.

use quant::IntegerBits;
use regex::Regex;
use serde::{Deserialize, Serialize};
use tensor::{Error, Result};

use crate::embedded;
use crate::recipe::Recipe;

/// The bits of the weights of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleRecipe {
    /// A description for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub purpose: String,
    /// The types.
    pub types: BundleRecipeTypes,
}

/// The section `[types]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleRecipeTypes {
    /// The type of matrices that no rule matches.
    pub default: IntegerType,
    /// How scales are chosen.
    #[serde(default, skip_serializing_if = "ScaleRule::is_default")]
    pub scales: ScaleRule,
    /// Type rules. The first that matches a tensor decides its type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<IntegerRule>,
}

/// How the scales of integers are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScaleRule {
    /// By the largest magnitude, as the exporter.
    #[default]
    MinMax,
    /// By the least squared error, weighted with an importance matrix if there is one.
    Search,
}

impl ScaleRule {
    fn is_default(&self) -> bool {
        *self == ScaleRule::default()
    }
}

/// A type for the matrices whose GGUF name matches a regular expression.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntegerRule {
    /// The expression. It may match any part of the name.
    pub tensors: String,
    /// The type.
    #[serde(rename = "type")]
    pub of: IntegerType,
}

/// A type of integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IntegerType {
    /// Two bits.
    Int2,
    /// Four bits.
    Int4,
    /// Eight bits.
    Int8,
}

impl IntegerType {
    /// Its bits.
    pub const fn bits(self) -> IntegerBits {
        match self {
            IntegerType::Int2 => IntegerBits::Two,
            IntegerType::Int4 => IntegerBits::Four,
            IntegerType::Int8 => IntegerBits::Eight,
        }
    }
}

impl BundleRecipe {
    /// The names of the embedded recipes with their purposes, sorted.
    pub fn embedded() -> Vec<(String, String)> {
        let purpose = |text: &str, name: &str| Ok(BundleRecipe::from_toml(text, name)?.purpose);
        embedded::purposes(Recipe::embedded_bundles(), purpose)
    }

    /// The embedded recipe of this name.
    ///
    /// # Errors
    /// `Recipe` for another name.
    pub fn named(name: &str) -> Result<BundleRecipe> {
        let missing = Error::recipe(format!("recipe {name:?}"), "no such recipe of a bundle");
        let help = "Give one of these, or the path of a .toml file.";
        BundleRecipe::from_toml(embedded::text(Recipe::embedded_bundles(), name, missing, help)?, name)
    }

    /// Parses and checks a recipe; `name` is for errors.
    ///
    /// # Errors
    /// `Recipe`, with the line in the text.
    pub fn from_toml(text: &str, name: &str) -> Result<BundleRecipe> {
        let place = || format!("recipe {name}");
        let recipe: BundleRecipe = embedded::parse(text, place, "a recipe")?;
        recipe.compiled().map_err(|e| e.within(place()))?;
        Ok(recipe)
    }

    /// The bits of tensors by their names in a GGUF.
    ///
    /// # Errors
    /// `Recipe` for a regular expression that is not one.
    pub fn bits(&self) -> Result<impl Fn(&str) -> IntegerBits> {
        let (rules, default) = (self.compiled()?, self.types.default);
        Ok(move |name: &str| {
            rules.iter().find(|(rule, _)| rule.is_match(name)).map_or(default, |(_, of)| *of).bits()
        })
    }

    fn compiled(&self) -> Result<Vec<(Regex, IntegerType)>> {
        let compile = |rule: &IntegerRule| match Regex::new(&rule.tensors) {
            Ok(regex) => Ok((regex, rule.of)),
            Err(e) => Err(Error::recipe("types.rules", "not a regular expression").with_source(e)),
        };
        self.types.rules.iter().map(compile).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_recipes_give_bits_by_name() {
        let names: Vec<_> = BundleRecipe::embedded().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["litertlm-int2", "litertlm-int4", "litertlm-int4-search", "litertlm-int8"]);
        let searched = BundleRecipe::named("litertlm-int4-search").unwrap().types;
        assert_eq!(searched.scales, ScaleRule::Search);
        let recipe = BundleRecipe::named("LiteRTLM-int4").unwrap();
        assert_eq!(BundleRecipeTypes { scales: ScaleRule::MinMax, ..searched }, recipe.types);
        let bits = recipe.bits().unwrap();
        for (name, expected) in [
            ("token_embd.weight", IntegerBits::Four),
            ("per_layer_token_embd.weight", IntegerBits::Four),
            ("per_layer_model_proj.weight", IntegerBits::Eight),
            ("blk.3.inp_gate.weight", IntegerBits::Eight),
            ("blk.3.proj.weight", IntegerBits::Eight),
            ("blk.3.ffn_down.weight", IntegerBits::Four),
        ] {
            assert_eq!(bits(name), expected, "{name}");
        }
    }

    #[test]
    fn other_recipes_are_refused() {
        let error = BundleRecipe::named("litertlm-int5").unwrap_err().to_string();
        assert!(error.contains("Did you mean litertlm-int"), "{error}");
        for (text, says) in [
            ("types.default = \"int5\"", "unknown variant"),
            ("types.preset = \"q4_0\"", "unknown field"),
            ("types = { default = \"int4\", scales = \"best\" }", "unknown variant"),
            (
                "types.default = \"int4\"\n[[types.rules]]\ntensors = \"(\"\ntype = \"int8\"",
                "not a regular expression",
            ),
        ] {
            let error = BundleRecipe::from_toml(text, "x").unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
