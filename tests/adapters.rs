//! Adapters merged during a conversion: the files are those of the merged checkpoint, whose tensors PEFT has made
//! (fixtures/golden/lora). The values themselves are tested in the crate `checkpoint`.

use std::fs;
use std::path::{Path, PathBuf};

use checkpoint::{Adapter, Checkpoint};
use serde_json::{Value, json};
use tensor::TensorSource;

use crate::support::{self, Folder, convert, fixture, names, run, sha256, text};

fn golden(name: &str) -> PathBuf {
    testkit::fixtures("golden/lora").join(name)
}

fn lora(folder: &Path) -> [String; 2] {
    ["--lora".to_owned(), folder.display().to_string()]
}

/// A conversion with an adapter.
fn convert_with(from: &Path, out: &Path, adapter: &Path, more: &[&str]) -> support::Run {
    let [option, adapter] = lora(adapter);
    convert(from, out, &[&[option.as_str(), &adapter], more].concat())
}

/// The checkpoint that PEFT saves: every merged tensor has the digest of its golden.
fn merged(base: &str, adapter: &str) -> Folder {
    let folder = Folder::of(base);
    let adapters = [Adapter { folder: golden(adapter), scale: 1.0, tie: false }];
    let checkpoint = Checkpoint::open(fixture(base)).unwrap().with_adapters(&adapters).unwrap();
    let expected = testkit::json(format!("golden/lora/{adapter}/merged.json"));
    folder.reweigh(|weights| {
        for (name, expected) in expected.as_object().unwrap() {
            let index = checkpoint.tensors().iter().position(|desc| desc.name == *name).unwrap();
            let mut data = vec![0; checkpoint.tensors()[index].byte_len() as usize];
            checkpoint.read_rows(index, 0, &mut data).unwrap();
            let (_, sha256) = base::sha256(&data[..], &|_| ()).unwrap();
            assert_eq!(expected["sha256"], sha256, "{name}");
            weights.get(name).data = data;
        }
    });
    folder
}

#[test]
fn a_merged_conversion_is_that_of_the_merged_folder() {
    for (base, adapter) in [("e2b", "plain-e2b"), ("26b-a4b", "experts-26b-a4b")] {
        let folder = merged(base, adapter);
        let types =
            ["--type", "q4_0", "--type", "q4_k_m", "--type", "bf16", "--mmproj", "bf16", "--recipe", "sfp8"];
        for (number, types) in [&types[..8], &types[8..]].into_iter().enumerate() {
            let outs = ["merged", "with-lora"].map(|name| folder.home().join(format!("{name}-{number}")));
            convert(&folder.path(), &outs[0], types).good();
            convert_with(&fixture(base), &outs[1], &golden(adapter), types).good();
            let files: Vec<_> = names(&outs[0]).into_iter().filter(|name| *name != "manifest.json").collect();
            assert!(!files.is_empty());
            for file in files {
                assert_eq!(sha256(&outs[0].join(&file)), sha256(&outs[1].join(&file)), "{adapter} {file}");
            }
        }
    }
}

#[test]
fn calibration_reads_the_merged_weights() {
    let folder = merged("e2b", "plain-e2b");
    let calib = text("calib.txt");
    let args = ["--recipe", "q4_0-calibrated", "--text", calib.to_str().unwrap(), "--chunks", "4"];
    let outs = ["merged", "with-lora"].map(|name| folder.home().join(name));
    convert(&folder.path(), &outs[0], &args).good();
    convert_with(&fixture("e2b"), &outs[1], &golden("plain-e2b"), &args).good();
    let file = "model-calibrated-q4_0.gguf";
    assert_eq!(sha256(&outs[0].join(file)), sha256(&outs[1].join(file)));
}

#[test]
fn the_manifest_names_adapters_and_another_scale_is_another_plan() {
    let home = tempfile::tempdir().unwrap();
    let (out, adapter) = (home.path().join("out"), golden("plain-e2b"));
    convert_with(&fixture("e2b"), &out, &adapter, &["--type", "q8_0"]).good();
    let entry = support::json(&out.join("manifest.json"))["artifacts"][0].clone();
    let recorded = &entry["adapters"][0];
    assert_eq!((&recorded["scale"], &recorded["rule"]), (&json!(1.0), &json!("peft 0.21 merge_and_unload")));
    for (number, name) in ["adapter_config.json", "adapter_model.safetensors"].into_iter().enumerate() {
        assert_eq!(recorded["files"][number]["name"], name);
        assert_eq!(recorded["files"][number]["sha256"], sha256(&adapter.join(name)));
    }
    let is_weights = |input: &&Value| input["name"].as_str().unwrap().ends_with(".safetensors");
    assert_eq!(entry["inputs"].as_array().unwrap().iter().filter(is_weights).count(), 1);

    let before = sha256(&out.join("model-q8_0.gguf"));
    let again = ["--type", "q8_0", "--skip-existing", "--force"];
    let skipped = convert_with(&fixture("e2b"), &out, &adapter, &again).good();
    assert!(skipped.stdout.contains("skipped"), "{}", skipped.stdout);
    let scaled = PathBuf::from(format!("{}:0.5", adapter.display()));
    let made = convert_with(&fixture("e2b"), &out, &scaled, &again).good();
    assert!(!made.stdout.contains("skipped"), "{}", made.stdout);
    assert_ne!(sha256(&out.join("model-q8_0.gguf")), before);
}

#[test]
fn verification_needs_the_adapter() {
    let home = tempfile::tempdir().unwrap();
    let (e2b, out) = (fixture("e2b"), home.path().join("out"));
    convert_with(&e2b, &out, &golden("plain-e2b"), &["--type", "q8_0"]).good();
    let file = out.join("model-q8_0.gguf").display().to_string();
    let verify = ["verify", &file, "--against", e2b.to_str().unwrap()];
    let [option, adapter] = lora(&golden("plain-e2b"));
    run(verify.iter().copied().chain([option.as_str(), &adapter])).good();
    let without = run(verify);
    assert_eq!(without.code, Some(1));
    assert!(without.stdout.contains("give them with --lora"), "{}", without.stdout);
    assert!(run(["verify", &file, &option, &adapter]).refusal(2).contains("--against"));
}

/// The folder of an adapter that replaces the embedding of the E2B, and nothing else.
fn trained_table(home: &Path) -> PathBuf {
    let adapter = home.join("adapter");
    fs::create_dir(&adapter).unwrap();
    fs::write(adapter.join("adapter_config.json"), json!({ "peft_type": "LORA" }).to_string()).unwrap();
    let base = support::weights(&fixture("e2b"));
    let mut table = base.tensors.into_iter().find(|t| t.name.ends_with("embed_tokens.weight")).unwrap();
    table.poke(0, 1.5);
    table.name = format!("base_model.model.{}", table.name);
    let weights = support::Weights { tensors: vec![table] };
    fs::write(adapter.join("adapter_model.safetensors"), weights.to_bytes()).unwrap();
    adapter
}

#[test]
fn a_trained_table_unties_the_head_of_a_gguf() {
    let home = tempfile::tempdir().unwrap();
    let adapter = trained_table(home.path());
    let out = home.path().join("out");
    let run = convert_with(&fixture("e2b"), &out, &adapter, &["--type", "bf16"]).good();
    assert!(run.stderr.contains("the head stays the old embedding"), "{}", run.stderr);
    assert!(run.stderr.contains("--tie"), "{}", run.stderr);
    let set = gguf::GgufSet::open(out.join("model-bf16.gguf")).unwrap();
    assert!(set.tensors().iter().any(|desc| desc.name == "output.weight"));
}

/// The files are those of the folder with the trained embedding, whose config ties the head to it.
#[test]
fn a_tied_head_follows_the_trained_table() {
    let folder = Folder::of("e2b");
    let adapter = trained_table(folder.home());
    folder.reweigh(|weights| weights.get("embed_tokens.weight").poke(0, 1.5));
    let types =
        [&["--type", "q4_0", "--type", "bf16", "--mmproj", "bf16"][..], &["--recipe", "bf16-safetensors"]];
    for (number, types) in types.into_iter().enumerate() {
        let outs = ["merged", "with-lora"].map(|name| folder.home().join(format!("{name}-{number}")));
        convert(&folder.path(), &outs[0], types).good();
        let run = convert_with(&fixture("e2b"), &outs[1], &adapter, &[types, &["--tie"]].concat()).good();
        assert!(!run.stderr.contains("old embedding"), "{}", run.stderr);
        for file in names(&outs[0]).into_iter().filter(|name| *name != "manifest.json") {
            assert_eq!(sha256(&outs[0].join(&file)), sha256(&outs[1].join(&file)), "{file}");
        }
        let entry = support::json(&outs[1].join("manifest.json"))["artifacts"][0].clone();
        assert_eq!(entry["adapters"][0]["tie"], true);
    }
    let file = folder.home().join("with-lora-0/model-q4_0.gguf").display().to_string();
    let [option, path] = lora(&adapter);
    let verify =
        ["verify", &file, "--against", fixture("e2b").to_str().unwrap(), &option, &path].map(str::to_owned);
    run(verify.iter().map(String::as_str).chain(["--tie"])).good();
    assert_eq!(run(&verify).code, Some(1));
}

#[test]
fn a_tie_without_effect_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let without = convert_with(&fixture("e2b"), &out, &golden("plain-e2b"), &["--type", "q8_0", "--tie"]);
    assert!(without.refusal(2).contains("no adapter replaces an embedding"), "{}", without.stderr);
    assert!(convert(&fixture("e2b"), &out, &["--type", "q8_0", "--tie"]).refusal(2).contains("--lora"));
    assert!(!out.exists());
}

/// The logits of transformers for the weights that PEFT merges.
#[test]
fn merged_weights_compute_the_logits_of_transformers() {
    for (base, adapter) in [("e2b", "plain-e2b"), ("e2b", "dora-rslora-e2b"), ("26b-a4b", "experts-26b-a4b")]
    {
        let adapters = [Adapter { folder: golden(adapter), scale: 1.0, tie: false }];
        let checkpoint = Checkpoint::open(fixture(base)).unwrap().with_adapters(&adapters).unwrap();
        let config = gemma::Config::of_checkpoint(&checkpoint).unwrap();
        let inventory = gemma::inventory(&config, checkpoint.tensors(), &|_| base.into()).unwrap();
        let compute = runtime::Compute { kernel: runtime::Kernel::F32, ..runtime::Compute::detect() };
        let weights = runtime::Weights::new(&checkpoint, &inventory, compute).unwrap();
        let model = runtime::Model::new(&config, weights).unwrap();
        let stored = testkit::read(format!("golden/lora/logits/{adapter}.safetensors"));
        let mut stored = support::Weights::parse(&stored);
        let tokens = stored.get("input_ids").data.as_chunks().0.iter();
        let tokens: Vec<u32> = tokens.map(|bytes| u32::from_le_bytes(*bytes)).collect();
        let hidden = model.forward(&tokens, &mut runtime::KvCache::new(&config), |_, _| ()).unwrap();
        let found = model.head(&hidden).unwrap();
        let expected = stored.get("logits_merged").data.as_chunks().0.iter();
        let differences = found.iter().zip(expected).map(|(a, b)| (a - f32::from_le_bytes(*b)).abs());
        let largest = differences.fold(0.0, f32::max);
        assert_eq!(found.len() * 4, stored.get("logits_merged").data.len());
        assert!(largest <= 1e-3, "{adapter}: {largest}");
    }
}

#[test]
fn commands_that_read_a_checkpoint_take_adapters() {
    let (e2b, adapter) = (fixture("e2b"), golden("plain-e2b"));
    let [option, path] = lora(&adapter);
    let e2b = e2b.to_str().unwrap();
    let note = "get a product of low rank";
    let plan = run(["plan", e2b, "--type", "q4_0", &option, &path, "--json"]).good().json();
    assert_eq!(plan["adapters"][0]["scale"], 1.0);
    let inspected = run(["inspect", e2b, &option, &path]).good();
    assert!(inspected.stdout.contains(note), "{}", inspected.stdout);
    let generated =
        |more: &[&str]| run([&["generate", e2b, "--prompt", "The sea", "-n", "8"], more].concat()).good();
    let with = generated(&[&option, &path]);
    assert!(with.stderr.contains(note), "{}", with.stderr);
    // the golden logits differ, and so do the texts
    assert_ne!(with.stdout, generated(&[]).stdout);
}

#[test]
fn an_adapter_is_inspected_alone() {
    let adapter = golden("dora-rslora-e2b");
    let inspected = run(["inspect", adapter.to_str().unwrap()]).good();
    for line in ["self_attn.q_proj.weight", "rank 8, scale", "DoRA", "fixtures/checkpoints/e2b"] {
        assert!(inspected.stdout.contains(line), "{line}: {}", inspected.stdout);
    }
    let json = run(["inspect", adapter.to_str().unwrap(), "--json"]).good().json();
    assert_eq!((&json["kind"], json["tensors"].as_array().unwrap().len()), (&json!("adapter"), 8));
}

#[test]
fn an_adapter_is_no_model() {
    let home = tempfile::tempdir().unwrap();
    let other = home.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("adapter_config.json"), r#"{"peft_type":"IA3","base_model_name_or_path":"y"}"#)
        .unwrap();
    for (folder, says) in [
        (golden("plain-e2b"), "a LoRA adapter of fixtures/checkpoints/e2b"),
        (golden("dora-rslora-e2b"), "a DoRA adapter of fixtures/checkpoints/e2b"),
        (other, "a IA3 adapter of y"),
    ] {
        let refused = run(["plan", folder.to_str().unwrap(), "--type", "q4_0"]);
        let message = refused.refusal(3);
        assert!(message.contains(says) && message.contains("--lora"), "{message}");
    }
}

#[test]
fn adapters_without_a_place_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let (e2b, adapter) = (fixture("e2b"), golden("plain-e2b"));
    let [option, path] = lora(&adapter);
    let (e2b, out) = (e2b.to_str().unwrap(), home.path().join("out"));
    let out = out.to_str().unwrap();
    let of_another =
        run(["convert", fixture("31b").to_str().unwrap(), "--type", "q8_0", "-o", out, &option, &path]);
    assert!(of_another.refusal(3).contains("wrong shape for the base"), "{}", of_another.stderr);
    assert!(!Path::new(out).exists());
    let grid = run(["plan", e2b, "--recipe", "q4_0-qat", &option, &path]);
    assert!(grid.refusal(2).contains("are not on a 4-bit quantization grid"), "{}", grid.stderr);
    run(["convert", e2b, "--type", "q8_0", "-o", out]).good();
    let gguf = format!("{out}/model-q8_0.gguf");
    let into_gguf = run(["generate", &gguf, "--prompt", "x", &option, &path]);
    assert!(into_gguf.refusal(3).contains("not into a GGUF"), "{}", into_gguf.stderr);
}
