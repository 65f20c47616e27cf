//! Models that departed from a published size: experts or layers removed, layers stacked. They convert if config and
//! weights agree, and llama.cpp computes the same logits for its own conversion.

use crate::support::{Folder, Tensor, convert, run};
use crate::{judge, memory};
use serde_json::{Value, json};

/// A layer's tensors begin so.
fn below(layer: usize) -> String {
    format!("model.language_model.layers.{layer}.")
}

/// The number of the layer of a tensor of the text model, and the rest of its name.
fn layer_of(name: &str) -> Option<(usize, &str)> {
    let (layer, rest) = name.strip_prefix("model.language_model.layers.")?.split_once('.')?;
    Some((layer.parse().unwrap(), rest))
}

/// The model whose layers are these of the fixture, in this order; a layer may be there twice.
fn layers(model: &str, order: &[usize]) -> Folder {
    let folder = Folder::of(model);
    folder.reweigh(|weights| {
        let old = std::mem::take(&mut weights.tensors);
        for (new, &layer) in order.iter().enumerate() {
            let of_layer = old.iter().filter_map(|t| Some((t, layer_of(&t.name)?)));
            weights.tensors.extend(of_layer.filter(|(_, (number, _))| *number == layer).map(
                |(t, (_, rest))| Tensor {
                    name: below(new) + rest,
                    dtype: t.dtype.clone(),
                    shape: t.shape.clone(),
                    data: t.data.clone(),
                },
            ));
        }
        weights.tensors.extend(old.into_iter().filter(|t| layer_of(&t.name).is_none()));
    });
    folder.edit("config.json", |config| {
        let text = &mut config["text_config"];
        let types = text["layer_types"].clone();
        text["layer_types"] = order.iter().map(|&layer| types[layer].clone()).collect();
        text["num_hidden_layers"] = order.len().into();
        let sizes = text["per_layer_config"].clone();
        let moved = order
            .iter()
            .enumerate()
            .filter_map(|(new, layer)| Some((new.to_string(), sizes.get(layer.to_string())?.clone())));
        text["per_layer_config"] = Value::Object(moved.collect());
    });
    folder
}

/// Keeps some experts of the layers that `applies` chooses.
fn experts(kept: &[usize], applies: impl Fn(usize) -> bool) -> Folder {
    let folder = Folder::of("26b-a4b");
    folder.reweigh(|weights| {
        const PER_EXPERT: [&str; 4] =
            ["router.proj.weight", "router.per_expert_scale", "experts.gate_up_proj", "experts.down_proj"];
        let of_experts = |t: &&mut Tensor| {
            layer_of(&t.name).is_some_and(|(layer, rest)| applies(layer) && PER_EXPERT.contains(&rest))
        };
        for tensor in weights.tensors.iter_mut().filter(of_experts) {
            let bytes = tensor.data.len() / tensor.shape[0] as usize;
            tensor.data = kept.iter().flat_map(|&e| tensor.data[e * bytes..][..bytes].to_vec()).collect();
            tensor.shape[0] = kept.len() as u64;
        }
    });
    folder
}

fn configure_experts(folder: &Folder, count: usize) {
    folder.edit("config.json", |config| config["text_config"]["num_experts"] = count.into());
}

#[test]
fn fewer_experts() {
    let folder = experts(&[0, 2, 3, 5, 7], |_| true);
    configure_experts(&folder, 5);
    judge::compare(&folder.path(), &["q4_0"]);
    convert(&folder.path(), &folder.out(), &["--type", "q8_0"]).good();
}

#[test]
fn experts_that_the_config_does_not_count() {
    let pruned = experts(&[0, 1, 2, 3, 4], |_| true); // 8 by config
    let uneven = experts(&[0, 1, 2, 3, 4], |layer| layer == 2);
    configure_experts(&uneven, 8);
    for (folder, layer) in [(pruned, 0), (uneven, 2)] {
        let run = convert(&folder.path(), &folder.out(), &["--type", "q8_0"]);
        let message = run.refusal(3);
        let place = format!("layers.{layer}.");
        assert!(message.contains(&place) && message.contains('8') && message.contains('5'), "{message}");
        assert!(!folder.out().exists());
    }
}

#[test]
fn removed_layers() {
    let folder = layers("31b", &[0, 1, 3, 4, 5]);
    judge::compare(&folder.path(), &["q4_0"]);
    convert(&folder.path(), &folder.out(), &["--type", "q8_0"]).good();
}

#[test]
fn stacked_layers() {
    let folder = layers("31b", &[0, 1, 2, 3, 4, 5, 2, 3, 4, 5]);
    judge::compare(&folder.path(), &["q4_0"]);
    convert(&folder.path(), &folder.out(), &["--type", "q8_0"]).good();
}

/// Layers whose types the config does not list are refused, and so are listed layers without weights.
#[test]
fn layers_that_the_config_does_not_count() {
    for (wrong, says) in [(json!(4), "layer_types"), (json!(6), "layer_types")] {
        let folder = layers("31b", &[0, 1, 3, 4, 5]);
        folder.edit("config.json", |config| config["text_config"]["num_hidden_layers"] = wrong);
        let run = convert(&folder.path(), &folder.out(), &["--type", "q8_0"]);
        assert!(run.refusal(3).contains(says), "{}", run.stderr);
    }
}

#[test]
fn inspect_names_what_differs_from_the_published_size() {
    let folder = memory::full_size("26B-A4B");
    let path = folder.path();
    let inspect = || run(["--json", "inspect", path.to_str().unwrap()]).good().json();
    assert_eq!(inspect()["departures"], json!([]));
    folder.edit("config.json", |config| config["text_config"]["top_k_experts"] = 4.into());
    let departure = json!({ "field": "top_k_experts", "published": "8", "found": "4" });
    assert_eq!(inspect()["departures"], json!([departure]));
    let text = run(["inspect", path.to_str().unwrap()]).good().stdout;
    assert!(text.contains("published 26B-A4B") && text.contains("top_k_experts: 4 (published: 8)"), "{text}");
}
