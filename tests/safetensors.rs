//! Safetensors out and in again: the checkpoint's own bytes, shards, SFP8, FP8, and what they hold. What is refused is in
//! `safetensors_bad.rs`, what lies apart in `offload.rs`; real transformers,
//! compressed-tensors and llama.cpp judge in `safetensors_judge.rs`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use crate::support::{
    self, Folder, INDEX, WEIGHTS, convert, fixture, metadata, names, recipe, run, sha256, weights,
};
use serde_json::{Value, json};

const MODELS: [&str; 3] = ["e2b", "31b", "26b-a4b"];
const COMPANIONS: [&str; 6] = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

fn config(folder: &Path) -> Value {
    support::json(&folder.join("config.json"))
}

/// The config of a fixture, which has `per_layer_config`, with the older names of the same sizes as well.
fn in_both_dialects(mut config: Value) -> Value {
    let text = &mut config["text_config"];
    let full = text["per_layer_config"].as_object().unwrap().values().next().unwrap().clone();
    text["global_head_dim"] = full["head_dim"].clone();
    if let Some(heads) = full.get("num_key_value_heads") {
        text["num_global_key_value_heads"] = heads.clone();
    }
    config
}

#[test]
fn bf16_of_bf16_is_the_same_folder() {
    let home = tempfile::tempdir().unwrap();
    for name in MODELS {
        let (model, out) = (fixture(name), home.path().join(name));
        recipe(&model, &out, "bf16-safetensors", &[]).good();
        let mut files = [&COMPANIONS[..], &["manifest.json", WEIGHTS]].concat();
        files.sort_unstable();
        assert_eq!(names(&out), files, "{name}");
        assert_eq!(config(&out), in_both_dialects(config(&model)), "{name}");
        for file in COMPANIONS.iter().chain([&WEIGHTS]).filter(|&&file| file != "config.json") {
            assert_eq!(sha256(&out.join(file)), sha256(&model.join(file)), "{name}: {file}");
        }
    }
}

/// The plan says where every tensor lies, the files have it there, and put together again they are the checkpoint.
#[test]
fn shards_hold_what_the_plan_says() {
    const MAX: u64 = 3_000_000;
    let home = tempfile::tempdir().unwrap();
    let (model, out) = (fixture("e2b"), home.path().join("shards"));
    let args = ["--max-shard-size", "3MB"];
    recipe(&model, &out, "bf16-safetensors", &args).good();
    let plan = ["--json", "plan", model.to_str().unwrap(), "--recipe", "bf16-safetensors"];
    let plan = run([&plan[..], &args].concat()).good().json();
    let planned = plan["artifacts"][0]["files"].as_array().unwrap();
    let shards: Vec<_> =
        planned.iter().filter(|file| !file["tensors"].as_array().unwrap().is_empty()).collect();
    assert!(shards.len() > 4);

    let index = support::json(&out.join(INDEX));
    let mut found = BTreeMap::new();
    let mut total = 0;
    for (number, shard) in shards.iter().enumerate() {
        let name = shard["name"].as_str().unwrap();
        assert_eq!(name, support::shard_name(number, shards.len()));
        let bytes = fs::read(out.join(name)).unwrap();
        assert_eq!(bytes.len() as u64, shard["bytes"].as_u64().unwrap());
        let mut held = 0;
        for tensor in shard["tensors"].as_array().unwrap() {
            let [offset, len] = ["offset", "bytes"].map(|key| tensor[key].as_u64().unwrap() as usize);
            let tensor_name = tensor["tensor"].as_str().unwrap();
            assert_eq!(index["weight_map"][tensor_name], name);
            held += len as u64;
            found.insert(tensor_name.to_owned(), bytes[offset..offset + len].to_vec());
        }
        assert!(held <= MAX, "{name}: {held}");
        total += held;
    }
    assert_eq!(index["metadata"]["total_size"], total);
    let originals = weights(&model).tensors;
    assert_eq!(found.len(), originals.len());
    assert_eq!(index["weight_map"].as_object().unwrap().len(), originals.len());
    for tensor in originals {
        assert!(found[&tensor.name] == tensor.data, "{}", tensor.name);
    }

    let whole = home.path().join("whole");
    recipe(&out, &whole, "bf16-safetensors", &[]).good();
    assert_eq!(sha256(&whole.join(WEIGHTS)), sha256(&model.join(WEIGHTS)));
}

#[test]
fn the_text_model_alone_is_a_model() {
    let home = tempfile::tempdir().unwrap();
    let [out, gguf, other] = ["text", "a.gguf", "b.gguf"].map(|name| home.path().join(name));
    recipe(&fixture("e2b"), &out, "bf16-safetensors", &["--text-only"]).good();
    assert!(
        weights(&out)
            .tensors
            .iter()
            .all(|t| t.name.starts_with("model.layers.") || t.name.matches('.').count() == 2)
    );
    assert_eq!(config(&out)["architectures"], json!(["Gemma4ForCausalLM"]));
    assert!(!out.join("processor_config.json").exists());
    // the same GGUF as from the whole, but for the names that come from the architecture
    convert(&out, &gguf, &["--type", "q4_0"]).good();
    convert(&fixture("e2b"), &other, &["--type", "q4_0"]).good();
    let [gguf, other] = [gguf, other].map(|path| gguf::GgufSet::open(path).unwrap());
    use tensor::TensorSource;
    assert_eq!(gguf.tensors(), other.tensors());
    for (index, desc) in gguf.tensors().iter().enumerate() {
        let [mut a, mut b] = [0, 0].map(|_| vec![0; desc.byte_len() as usize]);
        gguf.read_rows(index, 0, &mut a).unwrap();
        other.read_rows(index, 0, &mut b).unwrap();
        assert!(a == b, "{}", desc.name);
    }
}

#[test]
fn floats_of_another_type_become_bf16() {
    let folder = Folder::of("31b");
    let before = folder.weights();
    folder.reweigh(|weights| weights.tensors.iter_mut().for_each(|t| t.retype("F32")));
    folder.edit("config.json", |c| c["dtype"] = "float32".into());
    recipe(&folder.path(), &folder.out(), "bf16-safetensors", &[]).good();
    for (now, then) in weights(&folder.out()).tensors.iter().zip(&before.tensors) {
        assert_eq!((&now.name, &now.dtype, &now.data), (&then.name, &then.dtype, &then.data));
    }
    assert_eq!(config(&folder.out())["dtype"], "bfloat16");
    // SFP8 and FP8 leave them as they are
    let out = folder.home().join("sfp8");
    recipe(&folder.path(), &out, "sfp8", &[]).good();
    assert_eq!(weights(&out).get("layers.0.input_layernorm.weight").dtype, "F32");
}

#[test]
fn sfp8_is_as_it_says_and_comes_back() {
    let home = tempfile::tempdir().unwrap();
    for name in MODELS {
        let [sfp8, back, again] =
            ["sfp8", "back", "again"].map(|step| home.path().join(format!("{name}-{step}")));
        recipe(&fixture(name), &sfp8, "sfp8", &[]).good();
        assert_eq!(metadata(&sfp8)["format"], "sfp8");
        assert_eq!(metadata(&sfp8)["rule"], "gemma.cpp");
        let originals: HashMap<String, _> =
            weights(&fixture(name)).tensors.into_iter().map(|t| (t.name.clone(), t)).collect();
        let mut coded = 0;
        let held = weights(&sfp8).tensors;
        for tensor in &held {
            if tensor.name.ends_with(".sfp_scale") {
                assert_eq!((tensor.dtype.as_str(), tensor.shape.len()), ("F32", 0));
                continue;
            }
            let original = &originals[&tensor.name];
            assert_eq!(tensor.shape, original.shape);
            if tensor.dtype == "U8" {
                coded += 1;
            } else {
                assert!(tensor.data == original.data, "{}", tensor.name);
            }
        }
        assert_eq!(held.len(), originals.len() + coded);
        assert!(held.iter().any(|t| t.name.ends_with("embed_tokens.weight") && t.dtype == "U8"));
        assert!(held.iter().all(|t| !t.name.contains("router.proj") || t.dtype == "BF16"));

        recipe(&sfp8, &back, "bf16-safetensors", &[]).good();
        assert_eq!(config(&back), in_both_dialects(config(&fixture(name))), "nothing is quantised any more");
        assert_eq!(weights(&back).tensors.len(), originals.len());
        assert!(weights(&back).tensors.iter().all(|t| t.dtype == "BF16"));
        recipe(&back, &again, "sfp8", &[]).good();
        assert_eq!(sha256(&sfp8.join(WEIGHTS)), sha256(&again.join(WEIGHTS)), "{name}");
    }
}

/// gemma.cpp's own scales and codes, for tensors beyond 1.875 (and some within): they are read a second time.
#[test]
fn large_tensors_are_scaled_as_gemma_cpp_does() {
    let golden = fs::read(fixture("../golden/sfp8/scaled_tensors.bin")).unwrap();
    let word = |at: usize| <[u8; 4]>::try_from(&golden[at..at + 4]).unwrap();
    let mut at = 4;
    let cases: Vec<_> = (0..u32::from_le_bytes(word(0)))
        .map(|_| {
            let (n, scale) = (u32::from_le_bytes(word(at)) as usize, word(at + 4));
            let values = golden[at + 8..at + 8 + 4 * n].to_vec();
            let codes = golden[at + 8 + 4 * n..at + 8 + 5 * n].to_vec();
            at += 8 + 5 * n;
            (scale, values, codes)
        })
        .collect();
    let folder = Folder::of("31b");
    let mut chosen = Vec::new();
    folder.reweigh(|weights| {
        weights.drop_towers();
        let matrices = weights.tensors.iter_mut().filter(|t| t.name.contains("mlp."));
        for (tensor, (_, values, _)) in matrices.zip(&cases) {
            let elements: u64 = tensor.shape.iter().product();
            tensor.dtype = "F32".into();
            tensor.data = values.clone();
            tensor.data.resize(4 * elements as usize, 0);
            chosen.push(tensor.name.clone());
        }
    });
    assert_eq!(chosen.len(), cases.len());
    let mut digests = Vec::new();
    for threads in ["1", "2", "7"] {
        let out = folder.home().join(threads);
        recipe(&folder.path(), &out, "sfp8", &["--threads", threads]).good();
        let mut held = weights(&out);
        for (name, (scale, _, codes)) in chosen.iter().zip(&cases) {
            assert_eq!(held.get(&format!("{name}.sfp_scale")).data, scale, "{name}");
            let data = &held.get(name).data;
            assert!(data[..codes.len()] == codes[..], "{name}");
            assert!(data[codes.len()..].iter().all(|code| *code == 0));
        }
        digests.push(sha256(&out.join(WEIGHTS)));
        let manifest = support::json(&out.join("manifest.json"));
        let said = manifest["artifacts"][0]["outputs"].as_array().unwrap();
        let said = said.iter().find(|file| file["name"] == WEIGHTS).unwrap();
        assert_eq!(said["sha256"], *digests.last().unwrap(), "hashed after the second reading");
    }
    digests.dedup();
    assert_eq!(digests.len(), 1);
}

/// 8 bits in, a GGUF out: that of the values that they stand for.
#[test]
fn a_gguf_of_sfp8_is_that_of_its_bf16() {
    let home = tempfile::tempdir().unwrap();
    let [sfp8, back] = ["sfp8", "back"].map(|name| home.path().join(name));
    recipe(&fixture("e2b"), &sfp8, "sfp8", &[]).good();
    recipe(&sfp8, &back, "bf16-safetensors", &[]).good();
    let [a, b] = [(&sfp8, "a.gguf"), (&back, "b.gguf")].map(|(from, to)| {
        let out = home.path().join(to);
        convert(from, &out, &["--type", "q4_k_m", "--set", "metadata.name=x"]).good();
        sha256(&out)
    });
    assert_eq!(a, b);
}

#[test]
fn eight_bits_can_be_looked_at_and_run() {
    let home = tempfile::tempdir().unwrap();
    for (name, dtype, count) in [("sfp8", "sfp8", 67), ("fp8", "f8_e4m3", 48)] {
        let out = home.path().join(name);
        recipe(&fixture("e2b"), &out, name, &[]).good();
        let out = out.to_str().unwrap();
        let seen = run(["--json", "inspect", out]).good().json();
        let tensors = seen["tensors"].as_array().unwrap();
        assert_eq!(tensors.len(), 346, "scales are no tensors of the model");
        assert_eq!(tensors.iter().filter(|t| t["type"] == dtype).count(), count);
        let said = run(["--json", "generate", out, "-p", "the ", "-n", "8"]).good().json();
        assert_eq!(said["tokens"].as_array().unwrap().len(), 8);
    }
}

#[test]
fn an_sbs_file_is_listed() {
    let path = fixture("../golden/sfp8/sample.sbs");
    let listed = run(["--json", "inspect", path.to_str().unwrap()]).good().json();
    assert_eq!((&listed["kind"], &listed["version"]), (&json!("sbs"), &json!(2)));
    let blobs = listed["blobs"].as_array().unwrap();
    let tensors: Vec<_> = blobs.iter().map(|b| (b["key"].as_str().unwrap(), &b["tensor"])).collect();
    assert_eq!(tensors[0], ("linear_w_0", &json!({ "type": "sfp", "shape": [5, 33], "scale": 1.0 })));
    assert_eq!(tensors[1].1["shape"], json!([14, 16]));
    assert!((tensors[1].1["scale"].as_f64().unwrap() - 3.19).abs() < 0.01);
    let others: Vec<_> = tensors[5..].to_vec();
    assert_eq!(others, [("config", &Value::Null), ("tokenizer", &Value::Null), ("toc", &Value::Null)]);

    let home = tempfile::tempdir().unwrap();
    let bytes = fs::read(&path).unwrap();
    let broken = home.path().join("broken.sbs");
    for (what, bytes) in [
        ("truncated", bytes[..65000].to_vec()),
        ("only a header", bytes[..16].to_vec()),
        ("the magic", bytes[..4].to_vec()),
        ("a blob beyond the end", {
            let mut bytes = bytes.clone();
            bytes[65536 - 16 - 8 * 16 + 7] = 0x7f;
            bytes
        }),
    ] {
        fs::write(&broken, bytes).unwrap();
        let refused = run(["inspect", broken.to_str().unwrap()]);
        assert!(refused.refusal(3).contains("broken.sbs"), "{what}: {}", refused.stderr);
    }
}
