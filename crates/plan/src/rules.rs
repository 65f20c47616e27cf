//! The type of one tensor. In this order: fixed types, the recipe's rules, its embedding types, its quantization
//! grid, its preset.
//!
//! A rule changes only the tensors that it matches. In llama-quantize an overridden tensor also drops out of the
//! count of layers, which moves the preset's extra bits to other layers. A rule without effect is an error.

use gemma::towers::TowerType;
use gemma::{Config, Slot, TypePolicy};
use regex::Regex;
use tensor::{DType, Error, Result};

use crate::presets::{Place, Preset, fall_back};
use crate::recipe::{Recipe, TypeRule};

pub(crate) struct Rules<'a> {
    recipe: &'a Recipe,
    preset: &'static Preset,
    /// The text model, if there is one.
    config: Option<&'a Config>,
    rules: Vec<Rule<'a>>,
}

struct Rule<'a> {
    rule: &'a TypeRule,
    pattern: Regex,
    effect: Effect,
}

/// The type of a tensor, and the reason.
pub(crate) struct Decision {
    pub(crate) dtype: DType,
    pub(crate) why: String,
    /// The type is the preset's: neither a rule nor another setting names it.
    pub(crate) free: bool,
}

impl Decision {
    /// `wanted` because of `why`, or its fall-back for rows of `cols` elements, which is noted for `subject`.
    fn within(wanted: DType, why: &str, cols: u64, subject: &str, notes: &mut Vec<String>) -> Decision {
        let dtype = fall_back(wanted, cols);
        if dtype == wanted {
            return Decision { dtype, why: why.to_owned(), free: true };
        }
        let why = format!("rows of {cols} are not whole blocks of {wanted}: falls back to {dtype}");
        notes.push(format!("{subject}: {why}"));
        Decision { dtype, why, free: true }
    }
}

/// The effect of a rule so far.
#[derive(Default)]
struct Effect {
    applied: bool,
    /// A tensor that the rule matches but cannot change, and the reason.
    blocked: Option<(String, &'static str)>,
}

const PROTECTED: &str = "is never quantised: llama.cpp expects it in its own type";
const EARLIER: &str = "is decided by an earlier rule";

impl<'a> Rules<'a> {
    /// Compiles the rules that apply to this variant. An mmproj file has no text model, which names it.
    pub(crate) fn new(
        recipe: &'a Recipe,
        preset: &'static Preset,
        config: Option<&'a Config>,
    ) -> Result<Self> {
        let variant = config.and_then(Config::variant);
        let meant = |rule: &&TypeRule| {
            rule.variants.is_empty() || variant.is_some_and(|v| rule.variants.iter().any(|name| name == v))
        };
        let compile = |rule: &'a TypeRule| {
            let place = place(rule);
            of_weights(&place, rule.dtype)?;
            let pattern = Regex::new(&rule.tensors).map_err(|e| {
                // the last line names the error, the lines before it draw its position
                let text = e.to_string();
                let what = text.lines().last().unwrap_or_default();
                Error::recipe(place, "not a regular expression")
                    .expected("the syntax of the regex crate", what.trim_start_matches("error: "))
            })?;
            Ok(Rule { rule, pattern, effect: Effect::default() })
        };
        let rules = recipe.types.rules.iter().filter(meant).map(compile).collect::<Result<_>>()?;
        Ok(Rules { recipe, preset, config, rules })
    }

    /// The type of a tensor that is stored as `source`, and the reason. A tensor `on_lattice` (on a quantization grid
    /// that the recipe keeps) becomes Q4_0 unless a rule says otherwise. Fall-backs are noted.
    pub(crate) fn choose(
        &mut self,
        slot: &Slot,
        place: Place,
        source: DType,
        on_lattice: bool,
        notes: &mut Vec<String>,
    ) -> Result<Decision> {
        let decided = |dtype, why: String| Decision { dtype, why, free: false };
        let flat = gguf::ggml_shape(&slot.shape).len() < 2;
        let fixed = match slot.type_policy {
            TypePolicy::F32 => Some((DType::F32, "always f32")),
            TypePolicy::Copy => Some((source, "copied")),
            TypePolicy::Keep => Some((self.sixteen_bits(source), "kept in 16 bits")),
            TypePolicy::Recipe if flat => Some((self.sixteen_bits(source), "kept in 16 bits: a single row")),
            TypePolicy::Recipe => None,
        };
        if let Some((dtype, why)) = fixed {
            self.matching(&slot.gguf, Some(PROTECTED));
            return Ok(decided(dtype, why.to_owned()));
        }
        let cols = slot.shape.last().copied().unwrap_or(1);
        if let Some(rule) = self.matching(&slot.gguf, None) {
            return Self::by_rule(rule, &slot.gguf, cols);
        }
        let named = match slot.role {
            "token_embd" => self.recipe.types.token_embd,
            "per_layer_token_embd" => self.recipe.types.per_layer_token_embd,
            _ => None,
        };
        let (wanted, why) = match named {
            Some(dtype) => (dtype, "recipe"),
            None if on_lattice => (DType::Q4_0, "lattice"),
            None => match self.config {
                Some(config) => self.preset.choose(config, slot, place),
                None => (self.preset.default_type(), "preset"),
            },
        };
        let decision = Decision::within(wanted, why, cols, slot.role, notes);
        Ok(Decision { free: named.is_none() && !on_lattice, ..decision })
    }

    /// The type of a tensor of a tower, and the reason. `shape` is that of the mmproj file. Presets mix types by roles of the text
    /// model, so every matrix of a tower gets the preset's type for most tensors.
    pub(crate) fn choose_tower(
        &mut self,
        name: &str,
        store: TowerType,
        shape: &[u64],
        notes: &mut Vec<String>,
    ) -> Result<Decision> {
        let wanted = self.preset.default_type();
        let fixed = match store {
            TowerType::F32 => Some((DType::F32, "always f32")),
            TowerType::Patch if wanted == DType::F16 => Some((DType::F16, "f16 in an f16 file")),
            TowerType::Patch => Some((DType::F32, "f32: patches, but for f16 in an f16 file")),
            TowerType::Output => None,
        };
        if let Some((dtype, why)) = fixed {
            self.matching(name, Some(PROTECTED));
            return Ok(Decision { dtype, why: why.to_owned(), free: false });
        }
        let cols = shape.last().copied().unwrap_or(1);
        if let Some(rule) = self.matching(name, None) {
            return Self::by_rule(rule, name, cols);
        }
        Ok(Decision::within(wanted, "preset", cols, "mmproj", notes))
    }

    /// The type that a rule gives a tensor with rows of `cols` elements.
    fn by_rule(rule: &TypeRule, name: &str, cols: u64) -> Result<Decision> {
        if rule.dtype.row_bytes(cols).is_none() {
            return Err(Error::recipe(place(rule), format!("{name} cannot take this type"))
                .expected(format!("rows of a multiple of {}", rule.dtype.block_len()), cols));
        }
        let why = rule.why.clone().unwrap_or_else(|| format!("rule {:?}", rule.tensors));
        Ok(Decision { dtype: rule.dtype, why, free: false })
    }

    /// The type of tensors that are never quantised: BF16 if the preset quantises or the checkpoint has BF16, else the
    /// preset's type.
    fn sixteen_bits(&self, source: DType) -> DType {
        let preset = self.preset.default_type();
        if preset.is_quantized() || source == DType::BF16 { DType::BF16 } else { preset }
    }

    /// The first rule that matches `name`. Marks all matching rules as applied or blocked.
    fn matching(&mut self, name: &str, mut blocked: Option<&'static str>) -> Option<&'a TypeRule> {
        let mut first = None;
        for rule in self.rules.iter_mut().filter(|rule| rule.pattern.is_match(name)) {
            match blocked {
                Some(reason) => {
                    rule.effect.blocked.get_or_insert_with(|| (name.to_owned(), reason));
                }
                None => {
                    rule.effect.applied = true;
                    first = Some(rule.rule);
                    blocked = Some(EARLIER);
                }
            }
        }
        first
    }

    /// Refuses rules that changed nothing.
    pub(crate) fn finish(self) -> Result<()> {
        let Some(rule) = self.rules.iter().find(|rule| !rule.effect.applied && !rule.rule.optional) else {
            return Ok(());
        };
        let place = place(rule.rule);
        Err(match &rule.effect.blocked {
            Some((name, reason)) => Error::recipe(place, format!("has no effect: {name} {reason}")),
            None if self.config.is_some_and(|config| config.tied) && rule.pattern.is_match("output.weight") => {
                Error::recipe(place, "matches no tensor: the head of this model is tied to its embedding")
                    .help("The head has the type of token_embd.")
            }
            None => Error::recipe(place, "matches no tensor")
                .help("`gemma-convert plan` lists the names. To allow for models without the tensor, use `variants` or `optional`."),
        })
    }
}

/// Refuses types that weights cannot have.
pub(crate) fn of_weights(place: &str, dtype: DType) -> Result<()> {
    if dtype.is_quantized() || matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
        return Ok(());
    }
    Err(Error::recipe(place, "not a type of weights").expected("a type such as q8_0 or f16", dtype))
}

pub(crate) fn place(rule: &TypeRule) -> String {
    format!("type rule {}={}", rule.tensors, rule.dtype)
}
