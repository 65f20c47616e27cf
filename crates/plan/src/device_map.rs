//! `device_map.json`: the device of each module for accelerate, for a model with offloaded weights.
//!
//! Source: transformers 5.23 `from_pretrained(device_map=…)`, accelerate 1.15 `check_device_map`, `dispatch_model`.
//! Every parameter must have exactly one key that is its ancestor. If one key is an ancestor of another, accelerate
//! takes the offloaded module for a loaded one, and it stays without weights («on the meta device»). So the map lists
//! siblings: a module whose tensors are all in one place, or its children.

use serde_json::{Map, Value as Json};

/// Modules of transformers' Gemma 4 without a tensor in the files. The head of a tied embedding is a parameter of the
/// model; the rotary embedding has computed buffers, which belong on the device of the layers.
const HEAD: &str = "lm_head";
const ROTARY: &str = "rotary_emb";

/// The tensor that is a sibling of the text model's rotary embedding.
const EMBEDDING: &str = "embed_tokens.weight";

/// The map for tensors in checkpoint order, each with its name and whether it is offloaded.
pub fn device_map(tensors: &[(&str, bool)]) -> Json {
    let mut map = Map::new();
    children("", tensors, &mut map);
    // a map of a whole model has neither: its one key covers them
    let text_model = tensors.iter().find_map(|(name, _)| name.strip_suffix(EMBEDDING));
    let unnamed = text_model.map(|prefix| format!("{prefix}{ROTARY}")).into_iter().chain([HEAD.to_owned()]);
    for module in unnamed {
        if !map.keys().any(|key| covers(key, &module)) {
            map.insert(module, Json::from("cpu"));
        }
    }
    Json::Object(map)
}

/// Whether a key of the map applies to a module.
fn covers(key: &str, module: &str) -> bool {
    module.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Adds the keys for the tensors below `prefix`, which ends in a dot or is empty. It recurses only where both places
/// occur; a tensor is a leaf, so it ends.
fn children(prefix: &str, tensors: &[(&str, bool)], map: &mut Map<String, Json>) {
    let mut groups: Vec<(&str, Vec<(&str, bool)>)> = Vec::new();
    for &(name, offloaded) in tensors {
        let dot = name.get(prefix.len()..).and_then(|rest| rest.find('.'));
        let child = &name[..dot.map_or(name.len(), |dot| prefix.len() + dot)];
        match groups.iter_mut().find(|(key, _)| *key == child) {
            Some((_, group)) => group.push((name, offloaded)),
            None => groups.push((child, vec![(name, offloaded)])),
        }
    }
    for (child, group) in groups {
        let first = group[0].1;
        if group.iter().all(|(_, offloaded)| *offloaded == first) {
            map.insert(child.to_owned(), Json::from(if first { "disk" } else { "cpu" }));
        } else {
            children(&format!("{child}."), &group, map);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn siblings_are_listed_and_no_ancestors() {
        let map = device_map(&[
            ("model.vision_tower.a.weight", false),
            ("model.language_model.embed_tokens.weight", false),
            ("model.language_model.layers.0.layer_scalar", false),
            ("model.language_model.layers.0.mlp.up_proj.weight", false),
            ("model.language_model.layers.0.mlp.down_proj.weight", false),
            ("model.language_model.layers.0.experts.down_proj", true),
            ("model.language_model.layers.1.layer_scalar", false),
        ]);
        let expected = json!({
            "model.vision_tower": "cpu",
            "model.language_model.embed_tokens": "cpu",
            "model.language_model.layers.0.layer_scalar": "cpu",
            "model.language_model.layers.0.mlp": "cpu",
            "model.language_model.layers.0.experts": "disk",
            "model.language_model.layers.1": "cpu",
            "model.language_model.rotary_emb": "cpu",
            "lm_head": "cpu",
        });
        assert_eq!(map, expected);
    }

    #[test]
    fn a_head_of_its_own_is_listed_once_and_a_text_model_has_no_prefix() {
        let map = device_map(&[
            ("model.embed_tokens.weight", false),
            ("model.embed_tokens_per_layer.weight", true),
            ("lm_head.weight", false),
        ]);
        let expected = json!({
            "model.embed_tokens": "cpu",
            "model.embed_tokens_per_layer": "disk",
            "lm_head": "cpu",
            "model.rotary_emb": "cpu",
        });
        assert_eq!(map, expected);
    }
}
