//! The published variants, and where a model departs from the one that it was made from: pruned or stacked layers,
//! fewer experts, another context.

use crate::Config;
use crate::config::{Attention, ModelKind};
use crate::formats::{self, Named};

/// A size in which a model differs from the published variant with the same hidden size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    /// The field of `text_config`.
    pub field: &'static str,
    /// The value of the published variant.
    pub published: String,
    /// The value of the model.
    pub found: String,
}

/// The names of the published variants.
pub fn variant_names() -> impl Iterator<Item = &'static str> {
    formats::variants().variant.iter().map(|variant| variant.name.as_str())
}

impl Config {
    /// The variant, if the size is a published one: `E2B`, `E4B`, `12B`, `26B-A4B`, `31B`. Layers and hidden size
    /// decide, as in llama.cpp.
    pub fn variant(&self) -> Option<&'static str> {
        self.relative().filter(|named| named.layers == self.layers()).map(|named| named.name.as_str())
    }

    /// The published variant with the same hidden size, and the sizes in which the model differs from it. `None` for a
    /// hidden size that no variant has, and for draft models.
    pub fn departures(&self) -> Option<(&'static str, Vec<Departure>)> {
        if self.kind == ModelKind::Draft {
            return None;
        }
        let named = self.relative()?;
        let mut departures = Vec::new();
        let mut compare = |field, published: String, found: String| {
            if published != found {
                departures.push(Departure { field, published, found });
            }
        };
        compare("num_hidden_layers", named.layers.to_string(), self.layers().to_string());
        let periodic = (1..=self.layers()).map(|n| n.is_multiple_of(named.full_attention_every));
        let full = |layers: &mut dyn Iterator<Item = bool>| {
            let numbers = layers.enumerate().filter(|(_, is_full)| *is_full).map(|(n, _)| n.to_string());
            format!("full attention in layers {}", numbers.collect::<Vec<_>>().join(", "))
        };
        compare(
            "layer_types",
            full(&mut periodic.into_iter()),
            full(&mut self.attention.iter().map(|&attention| attention == Attention::Full)),
        );
        for (field, found) in self.sizes() {
            compare(field, or_none(named.sizes[field]), or_none(found));
        }
        Some((&named.name, departures))
    }

    fn relative(&self) -> Option<&'static Named> {
        formats::variants().variant.iter().find(|named| named.hidden == self.hidden)
    }

    /// The sizes that `formats/gemma4.variants.toml` has for each variant; 0 for what the model has not.
    fn sizes(&self) -> [(&'static str, u64); 14] {
        [
            ("intermediate_size", self.ffn),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("num_global_key_value_heads", self.full_kv_heads.unwrap_or(self.kv_heads)),
            ("head_dim", self.head_dim),
            ("global_head_dim", self.full_head_dim),
            ("num_kv_shared_layers", self.shared_kv_layers),
            ("hidden_size_per_layer_input", self.ple),
            ("num_experts", self.experts.unwrap_or(0)),
            ("top_k_experts", self.experts_used.unwrap_or(0)),
            ("moe_intermediate_size", self.expert_ffn.unwrap_or(0)),
            ("vocab_size", self.vocab),
            ("sliding_window", self.window),
            ("max_position_embeddings", self.context),
        ]
    }
}

fn or_none(size: u64) -> String {
    if size == 0 { "none".to_owned() } else { size.to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn published(name: &str) -> serde_json::Value {
        testkit::json(format!("configs/gemma-4-{name}-it.json"))
    }

    #[test]
    fn published_configs_depart_in_nothing() {
        for name in variant_names() {
            let config = Config::from_json(&published(name)).unwrap();
            assert_eq!(config.variant(), Some(name));
            assert_eq!(config.departures(), Some((name, Vec::new())));
            let named = formats::variants().variant.iter().find(|named| named.name == name).unwrap();
            assert_eq!(named.sizes.len(), config.sizes().len(), "{name}: a size that is not compared");
        }
    }

    #[test]
    fn each_change_is_a_departure() {
        let changes = [
            ("26B-A4B", "num_experts", json!(96), "128", "96"),
            ("26B-A4B", "top_k_experts", json!(4), "8", "4"),
            ("31B", "intermediate_size", json!(16384), "21504", "16384"),
            ("E4B", "max_position_embeddings", json!(32768), "131072", "32768"),
            ("12B", "sliding_window", json!(512), "1024", "512"),
        ];
        for (name, field, value, from, to) in changes {
            let mut json = published(name);
            json["text_config"][field] = value;
            let config = Config::from_json(&json).unwrap();
            assert_eq!(config.variant(), Some(name), "{field}");
            let departure = Departure { field, published: from.to_owned(), found: to.to_owned() };
            assert_eq!(config.departures(), Some((name, vec![departure])), "{field}");
        }
    }

    #[test]
    fn a_model_with_other_layers_has_no_name_but_a_relative() {
        let mut json = published("31B");
        let text = &mut json["text_config"];
        let layers = text["layer_types"].as_array_mut().unwrap();
        layers.drain(12..14);
        text["num_hidden_layers"] = json!(58);
        let config = Config::from_json(&json).unwrap();
        assert_eq!(config.variant(), None);
        let (name, departures) = config.departures().unwrap();
        let fields: Vec<_> = departures.iter().map(|departure| departure.field).collect();
        assert_eq!((name, fields), ("31B", vec!["num_hidden_layers", "layer_types"]));
    }
}
