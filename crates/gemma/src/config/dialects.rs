//! Writing a config that programs of either dialect can read.
//!
//! transformers writes `per_layer_config` and drops `global_head_dim` and `num_global_key_value_heads`; older
//! programs know only the latter two and fail with a wrong shape. transformers accepts both dialects at once, and
//! then reads `per_layer_config`.

use serde_json::{Map, Value, json};

use super::{Attention, Config};

/// `config.json` with the sizes of full layers in both dialects, and `tie_word_embeddings` as the weights have it. A
/// config that has both already is returned unchanged.
pub fn both_dialects(json: &Value, config: &Config) -> Value {
    let mut json = json.clone();
    if let Some(whole) = json.as_object_mut() {
        tie(whole, config.tied);
    }
    let text = match json.get_mut("text_config") {
        Some(Value::Object(text)) => {
            // readers of the text model alone look here
            if text.contains_key("tie_word_embeddings") {
                tie(text, config.tied);
            }
            Some(text)
        }
        _ => json.as_object_mut(),
    };
    let Some(text) = text else { return json };
    let Some(first) = config.attention.iter().position(|&kind| kind == Attention::Full) else { return json };
    let (head_dim, kv_heads) = (config.head_dim_of(first), config.kv_heads_of(first));

    text.insert("global_head_dim".to_owned(), head_dim.into());
    // null means «as in sliding layers»; programs other than transformers do not check attention_k_eq_v
    let own_heads = (kv_heads != config.kv_heads).then_some(kv_heads);
    if own_heads.is_some() || text.contains_key("num_global_key_value_heads") {
        text.insert("num_global_key_value_heads".to_owned(), json!(own_heads));
    }
    if !text.get("per_layer_config").is_some_and(Value::is_object) {
        let mut own = Map::new();
        if head_dim != config.head_dim {
            own.insert("head_dim".to_owned(), head_dim.into());
        }
        if let Some(kv_heads) = own_heads {
            own.insert("num_key_value_heads".to_owned(), kv_heads.into());
        }
        let full = (0..config.layers()).filter(|&layer| config.attention[layer] == Attention::Full);
        // as in transformers: padded to the digits of the last layer's number
        let digits = (config.layers() - 1).to_string().len();
        let layers = full.map(|layer| (format!("{layer:0digits$}"), Value::Object(own.clone())));
        let layers: Map<_, _> = if own.is_empty() { Map::new() } else { layers.collect() };
        text.insert("per_layer_config".to_owned(), Value::Object(layers));
    }
    json
}

/// Sets `tie_word_embeddings` if its value or its default differs from `tied`.
fn tie(fields: &mut Map<String, Value>, tied: bool) {
    let said = fields.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(true);
    if said != tied {
        fields.insert("tie_word_embeddings".to_owned(), tied.into());
    }
}
