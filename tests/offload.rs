//! What is offloaded lies in files of its own, in either container: which, and that together they are the same model.

use std::fs;

use crate::support::{self, Weights, convert, fixture, names, recipe, run, weights};
use serde_json::json;
use tensor::TensorSource;

/// What is offloaded is in files of its own, which together are the same model.
#[test]
fn offloaded_weights_lie_apart() {
    let home = tempfile::tempdir().unwrap();
    for (name, class, count, keys) in [("e2b", "per-layer", 1, 12), ("26b-a4b", "experts", 12, 78)] {
        let out = home.path().join(name);
        let offload = format!("output.offload=[{class:?}]");
        recipe(&fixture(name), &out, "bf16-safetensors", &["--set", &offload]).good();
        let files: Vec<_> = names(&out).into_iter().filter(|name| name.ends_with(".safetensors")).collect();
        assert_eq!(files, ["offload-00001-of-00001.safetensors", "resident-00001-of-00001.safetensors"]);
        let apart = Weights::parse(&fs::read(out.join(&files[0])).unwrap()).tensors;
        assert_eq!(apart.len(), count);
        let map = support::json(&out.join("device_map.json"));
        assert_eq!(map.as_object().unwrap().len(), keys);
        let all = weights(&fixture(name)).tensors;
        for tensor in &all {
            let above: Vec<_> = map
                .as_object()
                .unwrap()
                .iter()
                .filter(|(key, _)| {
                    tensor
                        .name
                        .strip_prefix(key.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                })
                .collect();
            let place = if apart.iter().any(|t| t.name == tensor.name) { "disk" } else { "cpu" };
            assert!(matches!(above[..], [(_, found)] if found == place), "{}: {above:?}", tensor.name);
        }
        // those of another recipe do not go with them
        let other = home.path().join(format!("{name}-other"));
        recipe(&fixture(name), &other, "bf16-safetensors", &["--set", &offload, "--set", "purpose=other"])
            .good();
        fs::copy(out.join(&files[1]), other.join(&files[1])).unwrap();
        let mixed = run(["inspect", other.to_str().unwrap()]);
        assert!(mixed.refusal(3).contains("of another conversion"), "{}", mixed.stderr);

        let whole = home.path().join(format!("{name}-whole"));
        recipe(&out, &whole, "bf16-safetensors", &[]).good();
        let mut tensors: [Vec<_>; 2] = [&whole, &fixture(name)]
            .map(|folder| weights(folder).tensors.into_iter().map(|t| (t.name, t.data)).collect());
        tensors.iter_mut().for_each(|tensors| tensors.sort());
        assert!(tensors[0] == tensors[1]);
    }
}

#[test]
fn the_last_part_of_a_split_holds_what_is_offloaded() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("e2b");
    let plan =
        run(["--json", "plan", fixture("e2b").to_str().unwrap(), "--recipe", "q4_0-offload"]).good().json();
    let offloaded = &plan["artifacts"][0]["offloaded"][0];
    // 256 columns of a table of 2048 rows, in Q6_K
    let expected = json!({ "class": "per-layer", "bytes": 2048 * 210, "bytes_per_token": 210 });
    assert_eq!(*offloaded, expected);
    recipe(&fixture("e2b"), &out, "q4_0-offload", &[]).good();
    let parts = ["model-offload-q4_0-00001-of-00002.gguf", "model-offload-q4_0-00002-of-00002.gguf"];
    assert_eq!(names(&out), ["manifest.json", parts[0], parts[1]]);
    let set = gguf::GgufSet::open(out.join(parts[0])).unwrap();
    let of_last: Vec<_> = plan["artifacts"][0]["files"][1]["tensors"].as_array().unwrap().iter().collect();
    assert_eq!(of_last.len(), 1);
    assert_eq!(of_last[0]["tensor"], "per_layer_token_embd.weight");

    let whole = home.path().join("whole.gguf");
    convert(&fixture("e2b"), &whole, &["--type", "q4_0"]).good();
    let whole = gguf::GgufSet::open(whole).unwrap();
    assert_eq!(set.tensors().len(), whole.tensors().len());
    for (index, desc) in whole.tensors().iter().enumerate() {
        let there = set.tensors().iter().position(|t| t == desc).unwrap();
        let [mut a, mut b] = [0, 0].map(|_| vec![0; desc.byte_len() as usize]);
        whole.read_rows(index, 0, &mut a).unwrap();
        set.read_rows(there, 0, &mut b).unwrap();
        assert!(a == b, "{}", desc.name);
    }

    // of parts that are not of one run
    let other = home.path().join("other");
    recipe(&fixture("e2b"), &other, "q4_0-offload", &["--set", "metadata.name=other"]).good();
    fs::copy(out.join(parts[1]), other.join(parts[1])).unwrap();
    let mixed = run(["inspect", other.join(parts[0]).to_str().unwrap()]);
    assert!(mixed.refusal(3).contains("of another conversion"), "{}", mixed.stderr);

    // a model without such a table is as it is without the recipe
    let other = home.path().join("31b");
    let said = recipe(&fixture("31b"), &other, "q4_0-offload", &[]).good();
    assert_eq!(names(&other), ["manifest.json", "model-offload-q4_0.gguf"]);
    assert!(said.stderr.contains("nothing to offload as \"per-layer\""), "{}", said.stderr);
    let unknown = convert(
        &fixture("31b"),
        &home.path().join("x"),
        &["--type", "q4_0", "--set", "output.offload=['all']"],
    );
    assert!(unknown.refusal(2).contains("no such class"));
}
