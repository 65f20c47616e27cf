//! Rotary position embedding (RoPE) of a layer: `rope_parameters`, as transformers reads them.
//!
//! Of the kinds of RoPE in transformers, three are plain scalings of the frequencies of a whole head: `default`,
//! `linear` (all divided by `factor`) and `proportional` (a fraction of the pairs is rotated, divided by `factor`).
//! The others depend on the length of the text or rescale attention; a GGUF of this family cannot express them, and
//! they are refused. So is every key that transformers ignores in its place, if its value differs: a configured
//! scaling must not be lost silently.
//!
//! Source: huggingface/transformers 5.23 `modeling_rope_utils.py`, `Gemma4TextRotaryEmbedding`.

use serde_json::{Map, Value};
use tensor::{Error, Result};

use super::fields::{Fields, as_number};
use super::{Attention, field};

/// RoPE parameters of the layers of one kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// `rope_theta`: the base of the frequencies.
    pub base: f32,
    /// `partial_rotary_factor` of proportional RoPE: the fraction of the pairs that are rotated, from the first on.
    pub fraction: f64,
    /// `factor`: the divisor of all frequencies.
    pub factor: f32,
}

/// A divisor that stops the rotation of a pair.
const STILL: f32 = 1e30;

/// Keys of scalings, whose neutral value is 1.
const SCALES: [&str; 9] = [
    "factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
];

impl Rope {
    /// transformers' default for layers of this kind in a config without `rope_parameters`.
    pub fn default_of(kind: Attention) -> Rope {
        match kind {
            Attention::Sliding => Rope { base: 1e4, fraction: 1.0, factor: 1.0 },
            Attention::Full => Rope { base: 1e6, fraction: 0.25, factor: 1.0 },
        }
    }

    /// The divisor of the frequency of each pair in a head of this size; 1e30 for pairs that are not rotated.
    pub fn divisors(&self, head_dim: u64) -> Vec<f32> {
        let pairs = head_dim / 2;
        let turning = (head_dim as f64 * self.fraction / 2.0) as u64;
        (0..pairs).map(|pair| if pair < turning { self.factor } else { STILL }).collect()
    }

    /// Whether only the base matters: all pairs are rotated, with a factor of 1.
    pub fn is_plain(&self) -> bool {
        self.fraction == 1.0 && self.factor == 1.0
    }

    /// The RoPE of sliding layers and of full layers. `attention` lists the kinds that the model has.
    pub(super) fn read(fields: &Fields<'_>, attention: &[Attention]) -> Result<(Rope, Rope)> {
        // transformers lets an old `rope_scaling` override `rope_parameters`
        let old = fields.given("rope_scaling");
        let (key, table) = match old {
            Some(table) => ("rope_scaling", Some(table)),
            None => ("rope_parameters", fields.given("rope_parameters")),
        };
        let flat_fraction = match fields.given("partial_rotary_factor") {
            Some(value) => Some(fraction("partial_rotary_factor", value)?),
            None => None,
        };
        let of = |kind, name: &str| match table {
            None => Ok(Rope::default_of(kind)),
            Some(table) if attention.contains(&kind) => Rope::entry(key, table, name, flat_fraction),
            Some(_) => Ok(Rope::default_of(kind)),
        };
        let ropes = (of(Attention::Sliding, "sliding_attention")?, of(Attention::Full, "full_attention")?);
        // keys of older configs, which transformers ignores in this family
        let bases = [("rope_theta", ropes.1.base), ("rope_local_base_freq", ropes.0.base)];
        for (key, base) in bases {
            if let Some(value) = fields.given(key)
                && as_number(key, value, f32::MIN_POSITIVE)? != base
            {
                return Err(ignored(key, base, value));
            }
        }
        if let (None, Some(fraction)) = (table, flat_fraction)
            && fraction != ropes.1.fraction
        {
            return Err(ignored("partial_rotary_factor", ropes.1.fraction, &fraction.into()));
        }
        Ok(ropes)
    }

    /// One entry of `rope_parameters`.
    fn entry(key: &str, table: &Value, layers: &str, flat_fraction: Option<f64>) -> Result<Rope> {
        let whole = table.as_object().filter(|table| table.get(layers).is_some_and(Value::is_object));
        let Some(Value::Object(entry)) = whole.and_then(|table| table.get(layers)) else {
            return Err(Error::missing(field(&format!("{key}.{layers}")))
                .expected("the RoPE of each kind of layer", table)
                .help("transformers reads rope_parameters by kind of layer in this family, and stops without one."));
        };
        let place = |name: &str| format!("{key}.{layers}.{name}");
        let kind = match entry.get("rope_type").or_else(|| entry.get("type")) {
            None => "default",
            Some(Value::String(kind)) => kind.as_str(),
            Some(other) => {
                return Err(Error::malformed(field(&place("rope_type")), "not a string")
                    .expected("a kind of RoPE", other));
            }
        };
        let (scales, parts) = match kind {
            "default" => (false, false),
            "linear" => (true, true),
            "proportional" => (true, true),
            _ => {
                return Err(Error::unsupported(
                    field(&place("rope_type")),
                    "a kind of RoPE that a GGUF of this family cannot express",
                )
                .expected("default, linear or proportional", kind));
            }
        };
        refuse_scaling(entry, &place, scales)?;
        let number = |name: &str| match entry.get(name) {
            Some(value) => as_number(&place(name), value, f32::MIN_POSITIVE).map(Some),
            None => Ok(None),
        };
        let base = number("rope_theta")?.ok_or_else(|| Error::missing(field(&place("rope_theta"))))?;
        let factor = if scales { number("factor")? } else { None };
        if kind == "linear" && factor.is_none() {
            return Err(Error::malformed(field(&place("factor")), "missing: linear RoPE divides by it"));
        }
        let own = match entry.get("partial_rotary_factor") {
            Some(value) => Some(fraction(&place("partial_rotary_factor"), value)?),
            None => None,
        };
        // `default` rotates the whole head, whatever the fraction
        let part = if parts { own.or(flat_fraction).unwrap_or(1.0) } else { 1.0 };
        if kind == "linear" && part != 1.0 {
            return Err(Error::unsupported(
                field(&place("partial_rotary_factor")),
                "transformers cannot rotate a part of a head in linear RoPE",
            )
            .expected(1.0, part));
        }
        if !parts && own.is_some_and(|own| own != 1.0) {
            return Err(ignored(&place("partial_rotary_factor"), 1.0, &own.into()));
        }
        Ok(Rope { base, fraction: part, factor: factor.unwrap_or(1.0) })
    }
}

/// Refuses scalings that this kind of RoPE ignores.
fn refuse_scaling(entry: &Map<String, Value>, place: &dyn Fn(&str) -> String, scales: bool) -> Result<()> {
    let unread = SCALES.iter().filter(|&&name| !(scales && name == "factor"));
    for &name in unread {
        if let Some(value) = entry.get(name).filter(|value| !value.is_null() && value.as_f64() != Some(1.0)) {
            return Err(Error::unsupported(
                field(&place(name)),
                "a scaling that transformers ignores with this rope_type",
            )
            .expected("no such key", value));
        }
    }
    Ok(())
}

fn fraction(key: &str, value: &Value) -> Result<f64> {
    as_number(key, value, 0.0)?;
    value.as_f64().filter(|part| (0.0..=1.0).contains(part)).ok_or_else(|| {
        Error::malformed(field(key), "not a fraction of a head").expected("a number from 0 to 1", value)
    })
}

fn ignored(key: &str, effective: impl std::fmt::Display, value: &Value) -> Error {
    Error::unsupported(
        field(key),
        "transformers ignores this key here, and its value differs from the effective one",
    )
    .expected(effective, value)
    .help("Remove the key, or move the value to rope_parameters.")
}
