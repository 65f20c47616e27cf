//! `draft extract`: a draft that is cut out of its target. It is a model by itself, llama.cpp drafts with it, and the
//! layers that a text has chosen are better than others.

use std::path::{Path, PathBuf};

use crate::support::{self, Folder, Weights, fixture, names, run, said};
use serde_json::Value;
use tensor::TensorSource;

const PROMPT: &str = "Economy - overview: The country exports";

fn text(name: &str) -> String {
    support::text(name).to_str().unwrap().to_owned()
}

fn extract(model: &Path, layers: &str, out: &Path, more: &[&str]) -> support::Run {
    let (model, out) = (model.to_str().unwrap(), out.to_str().unwrap());
    run([&["draft", "extract", model, "--layers", layers, "-o", out, "--json"], more].concat())
}

/// Chosen by the first pieces of a text.
fn chosen(name: &str, count: usize, out: &Path) -> Vec<u64> {
    let calib = text("calib.txt");
    let by = ["--text", &calib];
    let json = extract(&fixture(name), &count.to_string(), out, &by).good().json();
    let layers: Vec<u64> = json["layers"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
    assert_eq!(layers.len(), count);
    assert_eq!(json["choice"]["left_out"].as_array().unwrap().len() + count, layers_of(name));
    layers
}

fn layers_of(name: &str) -> usize {
    let config = support::json(&fixture(name).join("config.json"));
    config["text_config"]["num_hidden_layers"].as_u64().unwrap() as usize
}

fn generate(model: &Path, more: &[&str]) -> Value {
    let model = model.to_str().unwrap();
    run([&["generate", model, "--json", "-p", PROMPT, "-n", "60"], more].concat()).good().json()
}

/// How many tokens of another text have the same likeliest successor.
fn agreement(draft: &Path, target: &Path) -> f64 {
    let eval = text("eval.txt");
    let args = ["draft", "measure", draft.to_str().unwrap(), "--target", target.to_str().unwrap()];
    let more = ["--text", &eval, "--context", "256", "--chunks", "6", "--json"];
    run([&args[..], &more].concat()).good().json()["top1"].as_f64().unwrap()
}

/// Both kinds: with keys and values that layers share and a per-layer table, and without. The others are the first layers
/// and the evenly spaced ones; the last one is in each, or it would be no model.
#[test]
fn chosen_layers_beat_the_first_and_the_evenly_spaced() {
    for (name, count, others) in [("e2b", 5, ["0,1,2,3,7", "1,3,4,6,7"]), ("31b", 4, ["0,1,2,5", "0,2,3,5"])]
    {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        let layers = chosen(name, count, &file("chosen.gguf"));
        let best = agreement(&file("chosen.gguf"), &fixture(name));
        for (number, other) in others.iter().enumerate() {
            let path = file(&format!("other-{number}.gguf"));
            extract(&fixture(name), other, &path, &[]).good();
            let agreement = agreement(&path, &fixture(name));
            assert!(best > agreement, "{name}: {layers:?} {best}, {other}: {agreement}");
        }
        // nothing is left of the cut but the drafts and their manifests
        assert_eq!(names(dir.path()).len(), 6, "{:?}", names(dir.path()));
    }
}

/// The real llama.cpp drafts with it for the whole model: the text is that of the model alone, and it takes as many guesses.
#[test]
fn llama_cpp_drafts_with_it() {
    let Some(oracle) = xtask::oracle::Oracle::for_tests() else { return };
    for (name, count) in [("e2b", 5), ("31b", 4)] {
        let dir = tempfile::tempdir().unwrap();
        let [model, draft] = ["model", "draft"].map(|file| dir.path().join(format!("{file}.gguf")));
        let target = fixture(name);
        // In F32: of BF16 weights some kernels of llama.cpp round activations, and what is likeliest is close here.
        run(["convert", target.to_str().unwrap(), "-o", model.to_str().unwrap(), "--type", "f32"]).good();
        let layers = chosen(name, count, &dir.path().join("chosen.gguf"));
        let layers: Vec<_> = layers.iter().map(u64::to_string).collect();
        extract(&target, &layers.join(","), &draft, &["--type", "f32"]).good();
        let alone = generate(&model, &[]);
        let ours = generate(&model, &["--draft", draft.to_str().unwrap()]);
        assert_eq!(ours["tokens"], alone["tokens"]);

        // as a draft, and as a model by itself
        let itself = generate(&draft, &[]);
        for (target, text) in [(&model, &alone["text"]), (&draft, &itself["text"])] {
            let mut tool = oracle.runner("llama-speculative-simple");
            tool.arg("-m").arg(target).arg("-md").arg(&draft);
            tool.args(["--spec-type", "draft-simple", "--spec-draft-n-max", "3", "--spec-draft-p-min", "0"]);
            tool.args(["--temp", "0", "-t", "2", "-c", "512", "-n", "60", "-p", PROMPT]);
            let all = format!("{PROMPT}{}", text.as_str().unwrap());
            let (said, figures) =
                said(&mut tool, |said, figures| said.contains(&all) && figures.contains("n_accept"));
            assert!(said.contains(&all), "{name}: {text}\n{said}\n{figures}");
            if target == &model {
                let (_, rest) = figures.split_once("n_accept").unwrap();
                let theirs = rest.trim_start_matches([' ', '=']).split_whitespace().next().unwrap();
                let (ours, theirs) =
                    (ours["draft"]["accepted"].as_u64().unwrap(), theirs.parse::<u64>().unwrap());
                assert!(ours > 10 && ours.abs_diff(theirs) <= 4, "{name}: {ours}, of llama.cpp {theirs}");
            }
        }
    }
}

/// What has a part for each layer is cut to those that are left: bit for bit, under the names of the draft.
#[test]
fn weights_are_those_of_the_layers() {
    let layers = [1, 3, 5, 7];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("draft.gguf");
    extract(&fixture("e2b"), "1,3,5,7", &path, &["--type", "bf16"]).good();
    let mut whole = support::weights(&fixture("e2b"));
    let set = gguf::GgufSet::open(&path).unwrap();
    let read = |name: &str| {
        let index = set.tensors().iter().position(|t| t.name == name).unwrap();
        let mut bytes = vec![0; set.tensors()[index].byte_len() as usize];
        set.read_rows(index, 0, &mut bytes).unwrap();
        bytes
    };
    let find = |whole: &mut Weights, end: &str| {
        whole.tensors.iter().find(|tensor| tensor.name.ends_with(end)).unwrap().data.clone()
    };
    let ple = 32 * 2; // bytes a layer
    let table = find(&mut whole, "embed_tokens_per_layer.weight");
    let cut = table.chunks(8 * ple).flat_map(|row| layers.map(|n| row[n * ple..][..ple].to_vec()).concat());
    assert!(read("per_layer_token_embd.weight") == cut.collect::<Vec<_>>());
    let projection = find(&mut whole, "per_layer_model_projection.weight");
    let rows = 32 * 256 * 2;
    assert!(
        read("per_layer_model_proj.weight")
            == layers.map(|n| projection[n * rows..][..rows].to_vec()).concat()
    );
    for (at, layer) in layers.into_iter().enumerate() {
        let down = find(&mut whole, &format!("layers.{layer}.mlp.down_proj.weight"));
        assert!(read(&format!("blk.{at}.ffn_down.weight")) == down, "{layer}");
    }
    // layers 5 and 7 read what 1 and 3 own; those were wide, these are not
    let key = |name: &str| set.metadata().get(&format!("gemma4.{name}")).unwrap().clone();
    assert_eq!(key("block_count"), 4u32.into());
    assert_eq!(key("attention.shared_kv_layers"), 2u32.into());
    assert_eq!(key("attention.sliding_window_pattern"), vec![true, false, true, false].into());
    assert_eq!(key("feed_forward_length"), vec![512i32, 512, 1024, 1024].into());
    assert!(set.tensors().iter().all(|t| t.name != "blk.2.attn_k.weight"));
    // and the manifest says whose layers they are
    let manifest = support::json(&dir.path().join("draft.gguf.manifest.json"));
    let target = &manifest["artifacts"][0]["target"];
    let fingerprint = checkpoint::Checkpoint::open(fixture("e2b")).unwrap().fingerprint().unwrap();
    assert_eq!(target["layers"], serde_json::json!(layers));
    assert_eq!(target["fingerprint"], base::hex(&fingerprint));
}

/// Several types in one run, under names of their own beside the target; safetensors are a text model.
#[test]
fn any_recipe_makes_one() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    extract(&fixture("31b"), "0,5", &out, &["--type", "q8_0", "--type", "q4_0"]).good();
    assert_eq!(names(&out), ["draft-q4_0.gguf", "draft-q8_0.gguf", "manifest.json"]);
    for draft in ["draft-q4_0.gguf", "draft-q8_0.gguf"].map(|name| out.join(name)) {
        let alone = generate(&fixture("31b"), &[]);
        assert_eq!(
            generate(&fixture("31b"), &["--draft", draft.to_str().unwrap()])["tokens"],
            alone["tokens"]
        );
    }
    let folder = dir.path().join("folder");
    extract(&fixture("e2b"), "0,1,2,3", &folder, &["--recipe", "bf16-safetensors"]).good();
    let gguf = dir.path().join("same.gguf");
    extract(&fixture("e2b"), "0,1,2,3", &gguf, &[]).good();
    assert_eq!(generate(&folder, &[])["tokens"], generate(&gguf, &[])["tokens"]);
}

#[test]
fn what_is_no_model_is_refused() {
    let refused = |name: &str, layers: &str, code: i32, says: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let out: PathBuf = dir.path().join("out");
        let refusal = extract(&fixture(name), layers, &out, &[]);
        let said = refusal.refusal(code);
        says.iter().for_each(|says| assert!(said.contains(says), "{says}: {said}"));
        assert!(!out.exists() || names(&out).is_empty(), "{:?}", names(&out));
    };
    refused("31b", "0,1,2", 2, &["layers 0, 1, 2", "no full-attention layer is left", "one of 5"]);
    refused("e2b", "2,3,4", 2, &["the last layer must be a full-attention one", "one of 3, 7"]);
    // 4 is a sliding layer and reads the keys of the sliding one before the last that own some: 2
    refused("e2b", "2,4,7", 2, &["fewer than 2", "own"]);
    refused(
        "e2b",
        "0,1,7",
        2,
        &["no layer is left to own the keys and values that layer 7 reads", "as layer 3"],
    );
    refused("e2b", "3,7", 2, &["fewer than 2 layers have keys and values of their own"]);
    refused("e2b", "3,3,7", 2, &["ascending numbers below 8"]);
    refused("e2b", "3,9", 2, &["ascending numbers below 8"]);
    refused("e2b", "4", 2, &["no text to select the layers on", "--text"]);
    for count in ["0", "1", "8", "99"] {
        refused(
            "e2b",
            count,
            2,
            &["not a possible number of layers for a draft of a model with 8 layers", "2 to 7"],
        );
    }
    refused("e2b", "some", 2, &["not a number of layers"]);
    refused("e2b-assistant", "0,1", 3, &["a draft model"]);
    // a text that rounds and one that chooses are the same; without either there is nothing to do it for
    let folder = Folder::of("e2b");
    let nothing = extract(
        &folder.path(),
        "0,1,2,3",
        &folder.out(),
        &["--text", "/nowhere/text.txt", "--recipe", "q4_0-calibrated"],
    );
    assert!(nothing.refusal(3).contains("/nowhere/text.txt"), "{}", nothing.stderr);
}
