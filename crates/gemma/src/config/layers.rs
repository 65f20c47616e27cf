//! The kinds of a model's layers, and the sizes in which full layers differ from sliding ones.
//!
//! There are two dialects: the published files give the sizes of full layers in `global_head_dim` and
//! `num_global_key_value_heads`, transformers writes them as `per_layer_config`. A file may have both if they agree.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tensor::{Error, Result};

use super::fields::{Fields, MOST, as_count};
use super::{Attention, Config, field};

/// Maximum number of layers: over four times that of any model of the family.
const MOST_LAYERS: u64 = 1000;

impl Config {
    /// The config of a model with some layers of this one, in ascending order.
    ///
    /// # Panics
    /// If a layer does not exist.
    pub fn of_layers(&self, layers: &[usize]) -> Config {
        Config {
            attention: layers.iter().map(|&layer| self.attention[layer]).collect(),
            shared_kv_layers: layers.iter().filter(|&&layer| self.shares_kv(layer)).count() as u64,
            ..self.clone()
        }
    }
}

/// The kinds of all layers, and whether the last one was corrected.
pub(super) fn attention(fields: &Fields<'_>) -> Result<(Vec<Attention>, bool)> {
    let layers = fields.count("num_hidden_layers", 0..=MOST)?;
    if layers == 0 || layers > MOST_LAYERS {
        return Err(Error::malformed(field("num_hidden_layers"), "no such number of layers")
            .expected(format!("1 to {MOST_LAYERS}"), layers));
    }
    let layers = layers as usize;
    let mut kinds = match fields.given("layer_types") {
        None => {
            // transformers: five sliding layers, then a full one
            let full = |i: usize| (i + 1).is_multiple_of(6) || i + 1 == layers;
            (0..layers).map(|i| if full(i) { Attention::Full } else { Attention::Sliding }).collect()
        }
        Some(Value::Array(names)) if names.len() == layers => {
            names.iter().enumerate().map(kind).collect::<Result<Vec<_>>>()?
        }
        Some(Value::Array(names)) => {
            return Err(Error::malformed(field("layer_types"), "not one entry per layer")
                .expected(layers, names.len()));
        }
        Some(other) => {
            return Err(
                Error::malformed(field("layer_types"), "not a list").expected("a list of strings", other)
            );
        }
    };
    let corrected = kinds.last() == Some(&Attention::Sliding);
    if let Some(last) = kinds.last_mut() {
        *last = Attention::Full; // as transformers does
    }
    Ok((kinds, corrected))
}

fn kind((layer, name): (usize, &Value)) -> Result<Attention> {
    match name.as_str() {
        Some("sliding_attention") => Ok(Attention::Sliding),
        Some("full_attention") => Ok(Attention::Full),
        _ => Err(Error::malformed(field(&format!("layer_types[{layer}]")), "unknown kind of layer")
            .expected(
                "sliding_attention or full_attention",
                name.as_str().map_or_else(|| name.to_string(), str::to_owned),
            )),
    }
}

/// The sizes of a layer of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) head_dim: u64,
    pub(super) kv_heads: u64,
}

/// The sizes of sliding layers, the head size of full layers, and the number of K/V heads of full layers if the
/// config gives them a different number.
pub(super) fn sizes(
    fields: &Fields<'_>,
    attention: &[Attention],
    k_eq_v: bool,
) -> Result<(Sizes, u64, Option<u64>)> {
    let base = Sizes {
        head_dim: fields.count("head_dim", 1..=MOST)?,
        kv_heads: fields.count("num_key_value_heads", 1..=MOST)?,
    };
    let own_dim = match fields.get("global_head_dim") {
        Some(value) => Some(as_count("global_head_dim", value, 1..=MOST)?),
        None => None,
    };
    // transformers ignores the number unless attention_k_eq_v is set
    let own_heads = match fields.given("num_global_key_value_heads") {
        Some(value) => Some(as_count("num_global_key_value_heads", value, 1..=MOST)?).filter(|_| k_eq_v),
        None => None,
    };
    let Some(layers) = fields.get("per_layer_config") else {
        return Ok((base, own_dim.unwrap_or(512), own_heads));
    };
    let layers = match layers {
        Value::Null => &Map::new(),
        Value::Object(layers) => layers,
        other => {
            return Err(Error::malformed(field("per_layer_config"), "not an object")
                .expected("sizes by number of layer", other));
        }
    };
    let layers = overrides(fields, layers, attention.len())?;
    let of = |layer: usize| Sizes {
        head_dim: layers.get(&layer).and_then(|own| own.head_dim).unwrap_or(base.head_dim),
        kv_heads: layers.get(&layer).and_then(|own| own.kv_heads).unwrap_or(base.kv_heads),
    };
    let mut full = None;
    for (layer, kind) in attention.iter().enumerate() {
        let expected = match kind {
            Attention::Sliding => base,
            Attention::Full => *full.get_or_insert(of(layer)),
        };
        if of(layer) != expected {
            return Err(Error::unsupported(
                field(&format!("per_layer_config.{layer}")),
                "differs from the other layers of its kind",
            )
            .expected(format!("{expected:?}"), format!("{:?}", of(layer))));
        }
    }
    let full = full.unwrap_or(base);
    let contradiction = |key: &str, said: u64, there: &str, found: u64| {
        Err(Error::malformed(field(key), format!("contradicts per_layer_config ({there})")).expected(found, said).help(
            "The two dialects of the config say the same sizes: transformers reads per_layer_config, other programs the \
             older key.",
        ))
    };
    match (own_dim, own_heads) {
        (Some(said), _) if said != full.head_dim => {
            contradiction("global_head_dim", said, "head_dim", full.head_dim)
        }
        (_, Some(said)) if said != full.kv_heads => {
            contradiction("num_global_key_value_heads", said, "num_key_value_heads", full.kv_heads)
        }
        _ => {
            let says_heads = layers
                .iter()
                .any(|(&layer, own)| attention[layer] == Attention::Full && own.kv_heads.is_some());
            Ok((base, full.head_dim, Some(full.kv_heads).filter(|_| says_heads)))
        }
    }
}

/// The values that `per_layer_config` gives for a layer.
struct Override {
    head_dim: Option<u64>,
    kv_heads: Option<u64>,
}

fn overrides(
    fields: &Fields<'_>,
    layers: &Map<String, Value>,
    count: usize,
) -> Result<BTreeMap<usize, Override>> {
    let mut found = BTreeMap::new();
    for (key, layer) in layers {
        let place = |name: &str| format!("per_layer_config.{key}.{name}");
        // transformers pads the numbers: "05" in a model of ten layers or more
        let number = key.parse::<usize>().ok().filter(|&number| number < count).ok_or_else(|| {
            Error::malformed(field(&format!("per_layer_config.{key}")), "no such layer")
                .expected(format!("numbers below {count}"), key)
        })?;
        let mut own = Override { head_dim: None, kv_heads: None };
        for (name, value) in layer.as_object().into_iter().flatten() {
            match name.as_str() {
                "head_dim" => own.head_dim = Some(as_count(&place(name), value, 1..=MOST)?),
                "num_key_value_heads" => own.kv_heads = Some(as_count(&place(name), value, 1..=MOST)?),
                _ if fields.get(name) == Some(value) => {}
                _ => {
                    return Err(Error::unsupported(
                        field(&place(name)),
                        "not a size that may differ between layers of this family",
                    )
                    .expected("head_dim and num_key_value_heads", value));
                }
            }
        }
        if found.insert(number, own).is_some() {
            return Err(Error::malformed(
                field(&format!("per_layer_config.{key}")),
                "the layer is listed twice",
            ));
        }
    }
    Ok(found)
}
