//! Configs and inventories of the published sizes, and the field that every kind of refusal names.

use gemma::Config;
use serde_json::{Value, json};
use tensor::{Fault, TensorSource};

/// The config of a tiny checkpoint.
fn tiny(name: &str) -> Value {
    testkit::json(format!("checkpoints/{name}/config.json"))
}

#[test]
fn variants_differ_where_they_should() {
    let config = |name| Config::from_json(&tiny(name)).unwrap();
    let [e2b, moe, dense] = ["e2b", "26b-a4b", "31b"].map(config);
    // per-layer embeddings and shared K/V of the small models, experts of the mixture
    assert!(e2b.ple > 0 && moe.ple == 0 && dense.ple == 0);
    assert!(e2b.shared_kv_layers > 0 && moe.shared_kv_layers == 0 && dense.shared_kv_layers == 0);
    assert!(moe.experts.is_some() && e2b.experts.is_none() && dense.experts.is_none());
    for config in [&e2b, &moe, &dense] {
        assert_eq!(config.attention.last(), Some(&gemma::Attention::Full));
        assert!(config.attention.contains(&gemma::Attention::Sliding));
    }
}

/// A note exactly where llama.cpp, which goes by the size, and the config disagree.
#[test]
fn attention_of_images_in_llama_cpp() {
    let note = |name: &str, hidden: u64, direction: &Value| {
        let mut json = testkit::json(format!("configs/{name}.json"));
        json["text_config"]["hidden_size"] = hidden.into();
        json["text_config"]["use_bidirectional_attention"] = direction.clone();
        Config::from_json(&json).unwrap().image_note()
    };
    for (direction, trained) in [(Value::Null, false), (json!("vision"), true), (json!("all"), true)] {
        for (hidden, theirs) in [(256, true), (1536, false), (2048, true), (2560, false), (5376, true)] {
            for name in ["gemma-4-E2B-it", "gemma-4-31B-it"] {
                let note = note(name, hidden, &direction);
                assert_eq!(note.is_some(), theirs != trained, "{name} {hidden} {direction}: {note:?}");
                let reach =
                    if theirs { "attend to all of it, as" } else { "attend to earlier positions only, as" };
                assert!(note.is_none_or(|note| note.contains(reach)), "{name} {hidden} {direction}");
            }
            // embedded patches: at every size as its class wants them, which has no null
            if trained {
                assert_eq!(note("gemma-4-12B-it", hidden, &direction), None, "12B {hidden} {direction}");
            }
        }
    }
}

/// The published models are trained as llama.cpp takes them.
#[test]
fn published_models_have_no_note_on_images() {
    for name in ["E2B", "E4B", "12B", "26B-A4B", "31B"] {
        let config = Config::from_json(&testkit::json(format!("configs/gemma-4-{name}-it.json"))).unwrap();
        assert_eq!(config.image_note(), None, "{name}");
    }
}

/// Every refusal has the right fault and names the field.
#[test]
fn refusals_name_their_field() {
    let text = |field: &'static str, value: Value| (format!("text_config.{field}"), value);
    let cases = [
        (text("attention_bias", json!(true)), Fault::Unsupported, "attention_bias"),
        (text("num_hidden_layers", json!(0)), Fault::Malformed, "num_hidden_layers"),
        (text("hidden_size", json!("wide")), Fault::Malformed, "hidden_size"),
        (text("hidden_size", Value::Null), Fault::Malformed, "hidden_size"),
        (text("layer_types", json!(["full_attention"])), Fault::Malformed, "layer_types"),
        (text("layer_types", json!("full_attention")), Fault::Malformed, "layer_types"),
        (text("num_kv_shared_layers", json!(1000)), Fault::Malformed, "num_kv_shared_layers"),
        (
            text("use_bidirectional_attention", json!("sometimes")),
            Fault::Malformed,
            "use_bidirectional_attention",
        ),
        (text("model_type", json!("gemma3_text")), Fault::Unsupported, "model_type"),
        (("architectures".to_owned(), json!(["Gemma3ForCausalLM"])), Fault::Unsupported, "architectures"),
        (("architectures".to_owned(), json!([])), Fault::Malformed, "architectures"),
    ];
    for ((field, value), fault, place) in cases {
        let mut config = tiny("e2b");
        match field.split_once('.') {
            Some((outer, inner)) => config[outer][inner] = value.clone(),
            None => config[&field] = value.clone(),
        }
        let error =
            Config::from_json(&config).err().unwrap_or_else(|| panic!("{field} = {value} is accepted"));
        assert_eq!(error.fault(), fault, "{field} = {value}: {error}");
        assert!(error.place().contains(place), "{field} = {value}: {error}");
    }
}

/// A tensor too many, one missing, and one with another shape than the config's are refused.
#[test]
fn the_inventory_is_that_of_the_config() {
    let checkpoint = checkpoint::Checkpoint::open(testkit::fixtures("checkpoints/31b")).unwrap();
    let config = Config::from_json(checkpoint.config()).unwrap();
    let of = |tensors: &[tensor::TensorDesc]| gemma::inventory(&config, tensors, &|_| "a test".into());
    let good = checkpoint.tensors().to_vec();
    let inventory = of(&good).unwrap();
    let mut accounted: Vec<usize> = inventory.text.iter().map(|t| t.index).collect();
    accounted.extend(inventory.dropped.iter().map(|d| d.index));
    accounted.sort_unstable();
    assert_eq!(accounted, (0..good.len()).collect::<Vec<_>>());

    let number = good.iter().position(|t| t.name.ends_with("layers.1.mlp.up_proj.weight")).unwrap();
    let name = good[number].name.clone();
    let refused = |tensors: &[tensor::TensorDesc], says: &str| {
        let error = of(tensors).err().unwrap_or_else(|| panic!("{says}: accepted"));
        assert!(error.to_string().contains(says), "{error}");
    };
    let mut less = good.clone();
    less.remove(number);
    refused(&less, &name);
    let mut shape = good.clone();
    shape[number].shape.reverse();
    refused(&shape, &name);
    let mut more = good;
    more.push(tensor::TensorDesc { name: name.replace("layers.1", "layers.99"), ..more[number].clone() });
    refused(&more, "layers.99");
}
