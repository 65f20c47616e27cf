//! Every command that takes `--lora` makes of a base and an adapter what it makes of the merged folder.

use std::fs;
use std::path::{Path, PathBuf};

use checkpoint::{Adapter, Checkpoint};
use serde_json::{Value, json};
use tempfile::TempDir;
use tensor::TensorSource;

use crate::adapter_convert::golden;
use crate::support::{Folder, Weights, convert, fixture, json, names, run, sha256, text};

/// The folder with an adapter merged into its tensors.
fn merged(base: &str, adapter: &Path) -> Folder {
    let folder = Folder::of(base);
    let adapters = [Adapter { folder: adapter.to_owned(), scale: 1.0, tie: false }];
    let checkpoint = Checkpoint::open(fixture(base)).unwrap().with_adapters(&adapters).unwrap();
    let mut count = 0;
    folder.reweigh(|weights| {
        for tensor in &mut weights.tensors {
            let index = checkpoint.tensors().iter().position(|desc| desc.name == tensor.name).unwrap();
            if checkpoint.is_adapted(index) {
                checkpoint.read_rows(index, 0, &mut tensor.data).unwrap();
                count += 1;
            }
        }
    });
    assert!(count > 0);
    folder
}

/// An adapter of rank 2 for these weights of a fixture.
fn adapter(base: &str, tensors: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let base = Checkpoint::open(fixture(base)).unwrap();
    let mut weights = Weights::default();
    for name in tensors {
        let desc = base.tensors().iter().find(|desc| desc.name == *name).unwrap_or_else(|| panic!("{name}"));
        let module = format!("base_model.model.{}", name.strip_suffix(".weight").unwrap());
        for (end, shape) in [("lora_A", [2, desc.cols()]), ("lora_B", [desc.rows(), 2])] {
            let count = (shape[0] * shape[1]) as usize;
            weights.add(&format!("{module}.{end}.weight"), "F32", &shape, 4 * count);
            let tensor = weights.tensors.last_mut().unwrap();
            (0..count).for_each(|i| tensor.poke(i, (i * 37 % 255) as f32 / 1024.0 - 0.125));
        }
    }
    let config = json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 4 });
    fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
    fs::write(dir.path().join("adapter_model.safetensors"), weights.to_bytes()).unwrap();
    dir
}

/// Runs a command on the merged folder and on the base with the adapter, each with a place for its output.
fn both(base: &str, adapter: &Path, args: &dyn Fn(&Path, &Path) -> Vec<String>) -> (Folder, [PathBuf; 2]) {
    let folder = merged(base, adapter);
    let outs = ["merged", "with-lora"].map(|name| folder.home().join(name));
    run(args(&folder.path(), &outs[0])).good();
    let lora = ["--lora".to_owned(), adapter.display().to_string()];
    run([args(&fixture(base), &outs[1]), lora.to_vec()].concat()).good();
    (folder, outs)
}

fn strings<'a>(args: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    args.into_iter().map(str::to_owned).collect()
}

/// Compares the GGUF files of two folders.
fn assert_same_files(outs: &[PathBuf; 2], count: usize) {
    let files: Vec<_> = names(&outs[0]).into_iter().filter(|name| name.ends_with(".gguf")).collect();
    assert_eq!(files.len(), count, "{files:?}");
    for file in files {
        assert_eq!(sha256(&outs[0].join(&file)), sha256(&outs[1].join(&file)), "{file}");
    }
}

#[test]
fn draft_models_of_merged_checkpoints() {
    let plain = golden("plain-e2b");
    let (_folder, outs) = both("e2b", &plain, &|model, out| {
        let [model, out] = [model, out].map(|path| path.to_str().unwrap());
        strings(["draft", "extract", model, "--layers", "0,3,4,6,7", "--type", "q8_0", "-o", out])
    });
    assert_same_files(&outs, 1);

    let q = "model.layers.0.self_attn.q_proj.weight";
    let (assistant, target) = (adapter("e2b-assistant", &[q]), fixture("e2b"));
    let (folder, outs) = both("e2b-assistant", assistant.path(), &|model, out| {
        let [model, out, target] = [model, out, &target].map(|path| path.to_str().unwrap());
        strings(["draft", "convert", model, "--target", target, "--type", "q8_0", "-o", out])
    });
    assert_same_files(&outs, 1);
    let unadapted = folder.home().join("unadapted");
    let args =
        ["draft", "convert", fixture("e2b-assistant").to_str().unwrap(), "--target"].map(str::to_owned);
    let more = [fixture("e2b").display().to_string(), "--type".into(), "q8_0".into(), "-o".into()];
    run([&args[..], &more, &[unadapted.display().to_string()]].concat()).good();
    let file = "draft-q8_0.gguf";
    assert_ne!(sha256(&unadapted.join(file)), sha256(&outs[0].join(file)), "the adapter has an effect");
}

#[test]
fn towers_of_merged_checkpoints() {
    let towers = [
        "model.vision_tower.encoder.layers.0.self_attn.q_proj.linear.weight",
        "model.audio_tower.layers.0.self_attn.q_proj.linear.weight",
        "model.embed_vision.embedding_projection.weight",
    ];
    let adapter = adapter("e2b", &towers);
    let (folder, outs) = both("e2b", adapter.path(), &|model, out| {
        let [model, out] = [model, out].map(|path| path.to_str().unwrap());
        strings(["convert", model, "--mmproj", "bf16,q8_0", "-o", out])
    });
    assert_same_files(&outs, 2);
    let plain = folder.home().join("plain");
    convert(&fixture("e2b"), &plain, &["--mmproj", "bf16"]).good();
    let file = "mmproj-bf16.gguf";
    assert_ne!(sha256(&plain.join(file)), sha256(&outs[0].join(file)), "the adapter has an effect");
}

#[test]
fn sensitivities_of_merged_checkpoints() {
    let calib = text("calib.txt");
    let (_folder, outs) = both("e2b", &golden("plain-e2b"), &|model, out| {
        let [model, out, text] = [model, out, &calib].map(|path| path.to_str().unwrap());
        strings(["sensitivity", model, "--text", text, "--chunks", "1", "-c", "256", "-o", out])
    });
    let [merged, with_lora]: [Value; 2] = outs.each_ref().map(|path| json(path));
    assert!(!merged["tensors"].as_object().unwrap().is_empty());
    assert_eq!(merged["tensors"], with_lora["tensors"]);
}

#[test]
fn a_release_of_a_merged_checkpoint() {
    let recipe = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    fs::write(recipe.path(), "purpose = \"One file\"\n\n[[text]]\nrecipe = \"q8_0\"\n").unwrap();
    let (_folder, outs) = both("e2b", &golden("plain-e2b"), &|model, out| {
        let [model, out, recipe] = [model, out, recipe.path()].map(|path| path.to_str().unwrap());
        let release = ["release", model, "-o", out, "--recipe", recipe, "--name", "tuned"];
        strings([&release[..], &["-q", "-c", "64", "--eval-chunks", "1"]].concat())
    });
    assert_same_files(&outs, 1);
}
