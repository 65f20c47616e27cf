//! `adapter convert`: GGUF adapters for llama.cpp. That llama.cpp computes with them what merging computes is in
//! `adapter_judge.rs`.

use std::fs;
use std::path::{Path, PathBuf};

use checkpoint::{Adapter, Checkpoint};
use gguf::{GgufFile, GgufSet};
use serde_json::{Value, json};
use tensor::{TensorDesc, TensorSource};

use crate::support::{self, Folder, Run, Weights, convert, fixture, run, sha256};

const M: &str = "base_model.model.model.language_model.";

pub(crate) fn golden(name: &str) -> PathBuf {
    testkit::fixtures("golden/lora").join(name)
}

/// The conversion of an adapter.
pub(crate) fn adapt(adapter: &Path, base: &Path, out: &Path, more: &[&str]) -> Run {
    let [adapter, base, out] = [adapter, base, out].map(|path| path.to_str().unwrap());
    run([&["adapter", "convert", adapter, "--base", base, "-o", out], more].concat())
}

/// A golden adapter with other settings.
pub(crate) fn changed(name: &str, home: &Path, settings: &Value) -> PathBuf {
    let folder = home.join(format!("changed-{name}"));
    fs::create_dir_all(&folder).unwrap();
    fs::copy(golden(name).join("adapter_model.safetensors"), folder.join("adapter_model.safetensors"))
        .unwrap();
    let mut config = testkit::json(format!("golden/lora/{name}/adapter_config.json"));
    config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    folder
}

/// An adapter of zeros: for each module its name and the shape [out, in].
fn zeros(home: &Path, modules: &[(&str, [u64; 2])]) -> PathBuf {
    let mut weights = Weights::default();
    for (module, [out, inner]) in modules {
        weights.add(&format!("{module}.lora_A.weight"), "F32", &[2, *inner], 8 * *inner as usize);
        weights.add(&format!("{module}.lora_B.weight"), "F32", &[*out, 2], 8 * *out as usize);
    }
    folder(home, &json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 2 }), &weights)
}

fn folder(home: &Path, config: &Value, weights: &Weights) -> PathBuf {
    let folder = home.join("adapter");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    fs::write(folder.join("adapter_model.safetensors"), weights.to_bytes()).unwrap();
    folder
}

fn floats(file: &GgufFile, name: &str) -> (TensorDesc, Vec<f32>) {
    let index = file.tensors().iter().position(|desc| desc.name == name).unwrap_or_else(|| panic!("{name}"));
    let desc = file.tensors()[index].clone();
    let mut bytes = vec![0; desc.byte_len() as usize];
    file.read_rows(index, 0, &mut bytes).unwrap();
    (desc, bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// The columns of a BF16 tensor of a checkpoint, and its values.
fn values(checkpoint: &Checkpoint, name: &str) -> (usize, Vec<f32>) {
    let index = checkpoint.tensors().iter().position(|desc| desc.name == name).unwrap();
    let desc = &checkpoint.tensors()[index];
    let mut bytes = vec![0; desc.byte_len() as usize];
    checkpoint.read_rows(index, 0, &mut bytes).unwrap();
    let value = |bytes: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    (desc.cols() as usize, bytes.as_chunks().0.iter().map(value).collect())
}

fn alpha(file: &GgufFile) -> f32 {
    file.metadata().required("adapter.lora.alpha").unwrap()
}

#[test]
fn an_adapter_has_the_bytes_of_the_stock_converter() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("adapter.gguf");
    // of convert_lora_to_gguf.py of llama.cpp 0.3.36, see fixtures/golden/lora
    for (dtype, digest) in [
        ("f32", "6b50345afebc4ad8d6b9eed9cad09d2e59474ef44fb02b40678a9ef47428b3e5"),
        ("q8_0", "0fd0b5cdd5501b0e7ee792afae5160bf7a14994c3ffc153899071736fd332486"),
    ] {
        let made =
            adapt(&golden("plain-e2b"), &fixture("e2b"), &out, &["--type", dtype, "--force", "--json"]);
        let made = made.good().json();
        assert_eq!(sha256(&out), digest, "{dtype}");
        assert_eq!((&made["sha256"], &made["alpha"]), (&json!(digest), &json!(16.0)));
        assert_eq!(made["pairs"].as_array().unwrap().len(), 19);
        assert_eq!(made["pairs"][0], json!({ "tensor": "blk.0.ffn_down.weight", "rank": 8, "scale": 2.0 }));
    }
}

#[test]
fn alpha_and_factors_have_the_scale_of_the_adapter() {
    let home = tempfile::tempdir().unwrap();
    let made = |settings: &Value| {
        let out = home.path().join("adapter.gguf");
        let adapter = changed("plain-e2b", home.path(), settings);
        adapt(&adapter, &fixture("e2b"), &out, &["--force"]).good();
        GgufFile::open(out).unwrap()
    };
    let plain = made(&json!({}));
    let rslora = made(&json!({ "use_rslora": true }));
    let patterns = made(&json!({ "alpha_pattern": { "q_proj": 32, "0.mlp.down_proj": 4 } }));
    assert_eq!((alpha(&plain), alpha(&patterns)), (16.0, 16.0));
    assert_eq!(alpha(&rslora), 16.0 * 8f32.sqrt());
    for desc in plain.tensors() {
        let expected = floats(&plain, &desc.name).1;
        assert_eq!(floats(&rslora, &desc.name).1, expected, "{}", desc.name);
        let factor = match desc.name.as_str() {
            name if name.ends_with("attn_q.weight.lora_b") => 2.0,
            "blk.0.ffn_down.weight.lora_b" => 0.25,
            _ => 1.0,
        };
        let scaled: Vec<f32> = expected.iter().map(|value| value * factor).collect();
        assert_eq!(floats(&patterns, &desc.name).1, scaled, "{}", desc.name);
    }
    // for llama.cpp, alpha 0 is a scale of 1
    let nothing = changed("plain-e2b", home.path(), &json!({ "lora_alpha": 0 }));
    let refused = adapt(&nothing, &fixture("e2b"), &home.path().join("none.gguf"), &[]);
    assert!(refused.refusal(3).contains("a scale of 0"), "{}", refused.stderr);
}

#[test]
fn an_adapter_of_mlx_is_that_of_peft_transposed() {
    let home = tempfile::tempdir().unwrap();
    let module = "layers.0.self_attn.q_proj";
    let value = |row: usize, col: usize| ((row * 41 + col * 7) % 255) as f32 / 1024.0;
    // rows and columns of each tensor, and whether it is transposed
    let file = |names: [String; 2], transposed: bool| {
        let mut weights = Weights::default();
        for (name, [rows, cols]) in names.iter().zip([[2, 256], [256, 2]]) {
            let shape = if transposed { [cols as u64, rows as u64] } else { [rows as u64, cols as u64] };
            weights.add(name, "F32", &shape, 4 * rows * cols);
            let tensor = weights.tensors.last_mut().unwrap();
            for (row, col) in (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))) {
                let at = if transposed { col * rows + row } else { row * cols + col };
                tensor.poke(at, value(row, col));
            }
        }
        weights
    };
    let peft = ["lora_A", "lora_B"].map(|end| format!("{M}{module}.{end}.weight"));
    let config = json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 40 });
    let peft = folder(home.path(), &config, &file(peft, false));
    let mlx = home.path().join("mlx");
    fs::create_dir(&mlx).unwrap();
    let names = ["lora_a", "lora_b"].map(|end| format!("language_model.model.{module}.{end}"));
    fs::write(mlx.join("adapters.safetensors"), file(names, true).to_bytes()).unwrap();
    let config = json!({ "fine_tune_type": "lora", "lora_parameters": { "rank": 2, "scale": 20.0 } });
    fs::write(mlx.join("adapter_config.json"), config.to_string()).unwrap();
    let [peft, mlx] = [peft, mlx].map(|adapter| {
        let out = home.path().join("adapter.gguf");
        adapt(&adapter, &fixture("e2b"), &out, &["--force"]).good();
        let file = GgufFile::open(out).unwrap();
        let pair = ["lora_a", "lora_b"].map(|end| floats(&file, &format!("blk.0.attn_q.weight.{end}")));
        (alpha(&file), pair)
    });
    assert_eq!(peft, mlx);
    assert_eq!(peft.0, 40.0);
}

/// PEFT's layout of experts, and llama.cpp's: the products of the file are those of the merge, times the scale of the expert.
#[test]
fn experts_are_stacks_of_matrices() {
    let home = tempfile::tempdir().unwrap();
    let (base, out) = (fixture("26b-a4b"), home.path().join("adapter.gguf"));
    adapt(&golden("experts-26b-a4b"), &base, &out, &[]).good();
    let file = GgufFile::open(&out).unwrap();
    let shape = |name: &str| floats(&file, name).0.shape;
    assert_eq!(shape("blk.0.ffn_gate_up_exps.weight.lora_a"), [8, 2, 256]);
    assert_eq!(shape("blk.0.ffn_gate_up_exps.weight.lora_b"), [8, 256, 2]);

    let adapters = [Adapter { folder: golden("experts-26b-a4b"), scale: 1.0, tie: false }];
    let plain = Checkpoint::open(&base).unwrap();
    let merged = Checkpoint::open(&base).unwrap().with_adapters(&adapters).unwrap();
    let layer = "model.language_model.layers.0";
    for (gguf, hf) in [
        ("ffn_gate_up_exps", format!("{layer}.experts.gate_up_proj")),
        ("ffn_down_exps", format!("{layer}.experts.down_proj")),
        ("attn_q", format!("{layer}.self_attn.q_proj.weight")),
    ] {
        let (cols, old) = values(&plain, &hf);
        let (_, new) = values(&merged, &hf);
        // the model multiplies the output of an expert; llama.cpp not that of the product
        let output_scale = match gguf {
            "ffn_down_exps" => values(&plain, &format!("{layer}.router.per_expert_scale")).1,
            _ => vec![1.0; 8],
        };
        let (_, a) = floats(&file, &format!("blk.0.{gguf}.weight.lora_a"));
        let (desc, b) = floats(&file, &format!("blk.0.{gguf}.weight.lora_b"));
        let (rows, rank) = (desc.shape[desc.shape.len() - 2] as usize, 2);
        let scale = alpha(&file) / rank as f32;
        assert!(old != new);
        for (at, (old, new)) in old.iter().zip(&new).enumerate() {
            let (row, col) = (at / cols, at % cols);
            let matrix = row / rows;
            let products = (0..rank).map(|k| b[row * rank + k] * a[(matrix * rank + k) * cols + col]);
            let product = products.sum::<f32>() * scale / output_scale[matrix];
            // the sum is rounded to BF16, for experts the product too
            let step = (old + product).abs() + product.abs();
            assert!((old + product - new).abs() <= step / 256.0, "{gguf} {row} {col}: {product}");
        }
    }
}

#[test]
fn what_has_no_effect_is_listed() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("adapter.gguf");
    let tower = "model.vision_tower.encoder.layers.0.self_attn.q_proj.linear";
    let base = Checkpoint::open(fixture("e2b")).unwrap();
    let shape = |module: &str| -> [u64; 2] {
        let name = format!("{module}.weight");
        let desc = base.tensors().iter().find(|desc| desc.name == name).unwrap_or_else(|| panic!("{name}"));
        desc.shape.clone().try_into().unwrap()
    };
    let q = ("base_model.model.model.language_model.layers.0.self_attn.q_proj", [256, 256]);
    let wrapped = format!("base_model.model.{tower}");
    let k = format!("{M}layers.6.self_attn.k_proj");
    let adapter = zeros(home.path(), &[q, (wrapped.as_str(), shape(tower)), (k.as_str(), [64, 256])]);
    let made = adapt(&adapter, &fixture("e2b"), &out, &["--json"]).good();
    let json = made.json();
    assert_eq!(json["pairs"].as_array().unwrap().len(), 1);
    assert_eq!(json["dropped"][0]["tensor"], format!("{tower}.weight"));
    assert!(json["dropped"][0]["reason"].as_str().unwrap().starts_with("image tower"));
    assert!(made.stderr.contains("K/V of KV-shared layers"), "{}", made.stderr);

    // a checkpoint that has these keys and values
    let original = Folder::of("e2b");
    let name = "model.language_model.layers.6.self_attn.k_proj.weight";
    original.reweigh(|weights| weights.add(name, "BF16", &[64, 256], 64 * 256 * 2));
    let made = adapt(&adapter, &original.path(), &out, &["--force"]).good();
    assert!(made.stdout.contains(name) && made.stdout.contains("no computation reads it"), "{}", made.stdout);

    let only_tower = zeros(home.path(), &[(wrapped.as_str(), shape(tower))]);
    let refused = adapt(&only_tower, &fixture("e2b"), &home.path().join("none.gguf"), &[]);
    assert!(refused.refusal(3).contains("1 others (image tower"), "{}", refused.stderr);
}

#[test]
fn what_llama_cpp_would_not_apply_is_refused_before_anything_is_written() {
    let home = tempfile::tempdir().unwrap();
    let (e2b, out) = (fixture("e2b"), home.path().join("adapter.gguf"));
    let merge = "convert the checkpoint with --lora";
    let mut table = Weights::default();
    table.add(&format!("{M}embed_tokens.lora_embedding_A"), "F32", &[2, 2048], 4 * 2 * 2048);
    table.add(&format!("{M}embed_tokens.lora_embedding_B"), "F32", &[256, 2], 4 * 2 * 256);
    let mut norm = Weights::default();
    norm.add(&format!("{M}norm.weight"), "F32", &[256], 4 * 256);
    let config = json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 2 });
    let of = |weights: &Weights, name: &str| {
        let home = home.path().join(name);
        fs::create_dir(&home).unwrap();
        folder(&home, &config, weights)
    };
    let head = home.path().join("head");
    fs::create_dir(&head).unwrap();
    for (adapter, base, says) in [
        (golden("dora-rslora-e2b"), &e2b, ["(DoRA), which llama.cpp does not read", merge]),
        (golden("embed-e2b"), &e2b, ["llama.cpp applies no adapter to per_layer_", merge]),
        (of(&table, "table"), &e2b, ["llama.cpp applies no adapter to token_embd.weight", merge]),
        (of(&norm, "norm"), &e2b, ["the adapter replaces it", merge]),
        (
            zeros(&head, &[("base_model.model.lm_head", [2048, 256])]),
            &e2b,
            ["the base has no such tensor", "lm_head"],
        ),
        (golden("plain-e2b"), &fixture("31b"), ["wrong shape for the base", "plain-e2b"]),
        (golden("experts-26b-a4b"), &e2b, ["the base has no such tensor", "experts"]),
    ] {
        let refused = adapt(&adapter, base, &out, &[]);
        let message = refused.refusal(3);
        assert!(says.iter().all(|text| message.contains(text)), "{says:?}: {message}");
    }
    let plain = golden("plain-e2b");
    let other_type = adapt(&plain, &e2b, &out, &["--type", "q4_0"]);
    assert!(other_type.refusal(2).contains("f32, f16, bf16, q8_0"), "{}", other_type.stderr);
    let no_file = adapt(&plain, &e2b, &home.path().join("folder"), &[]);
    assert!(no_file.refusal(2).contains("adapter.gguf"), "{}", no_file.stderr);
    assert!(support::names(home.path()).iter().all(|name| !name.contains("gguf")));
    adapt(&plain, &e2b, &out, &[]).good();
    assert!(adapt(&plain, &e2b, &out, &[]).refusal(3).contains("--force"));
}

#[test]
fn a_gguf_adapter_is_listed_and_is_no_model() {
    let home = tempfile::tempdir().unwrap();
    let (e2b, out) = (fixture("e2b"), home.path().join("adapter.gguf"));
    adapt(&golden("plain-e2b"), &e2b, &out, &[]).good();
    let (e2b, file) = (e2b.to_str().unwrap(), out.to_str().unwrap());
    let listed = run(["inspect", file]).good();
    for line in ["19 pairs of factors", "adapter.lora.alpha", "Plain E2B"] {
        assert!(listed.stdout.contains(line), "{line}: {}", listed.stdout);
    }
    assert_eq!(run(["inspect", file, "--json"]).good().json()["kind"], "gguf_adapter");
    let generated = run(["generate", file, "--prompt", "The"]);
    assert!(generated.refusal(3).contains("an adapter (LoRA): no model by itself"), "{}", generated.stderr);
    let merged = run(["plan", e2b, "--type", "q4_0", "--lora", file]);
    assert!(merged.refusal(3).contains("Merge the folder that it was made from"), "{}", merged.stderr);
    let converted = run(["plan", file, "--type", "q4_0"]);
    assert!(converted.code == Some(3) && !converted.stderr.is_empty(), "{}", converted.stderr);
}

#[test]
fn verification_compares_an_adapter_with_its_folder() {
    let home = tempfile::tempdir().unwrap();
    let (e2b, out) = (fixture("e2b"), home.path().join("adapter.gguf"));
    let verify = |adapter: &Path, more: &[&str]| {
        let [adapter, file, base] = [adapter, &out, &e2b].map(|path| path.to_str().unwrap());
        run([&["verify", file, "--against", base, "--lora", adapter], more].concat())
    };
    let rslora = changed("plain-e2b", home.path(), &json!({ "use_rslora": true }));
    for dtype in ["f32", "bf16", "q8_0"] {
        adapt(&rslora, &e2b, &out, &["--type", dtype, "--force"]).good();
        let report = verify(&rslora, &["--json"]).good().json();
        assert_eq!((&report["outcome"], &report["structure"]["tensors"]), (&json!("passed"), &json!(38)));
    }
    // the stock converter writes alpha as it is
    let wrong = verify(&golden("plain-e2b"), &[]);
    assert_eq!(wrong.code, Some(1), "{}", wrong.stderr);
    assert!(wrong.stdout.contains("is not the adapter's product"), "{}", wrong.stdout);

    adapt(&golden("plain-e2b"), &e2b, &out, &["--force"]).good();
    let mut bytes = fs::read(&out).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(&out, bytes).unwrap();
    let changed = verify(&golden("plain-e2b"), &["--json"]);
    let report: Value = changed.json();
    assert_eq!((changed.code, &report["structure"]["tensors"]), (Some(1), &json!(36)));
    let alone = run(["verify", out.to_str().unwrap(), "--against", e2b.to_str().unwrap()]);
    assert!(alone.refusal(2).contains("--lora"), "{}", alone.stderr);

    // a merged file is no adapter, and has no such comparison
    let merged = home.path().join("merged");
    convert(&e2b, &merged, &["--type", "q8_0", "--lora", rslora.to_str().unwrap()]).good();
    assert!(!gemma::is_adapter(GgufSet::open(merged.join("model-q8_0.gguf")).unwrap().metadata()));
}
