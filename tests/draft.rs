//! Draft models: `draft convert` writes the bytes of llama.cpp's own tools, and refuses a draft of another model. The
//! published sizes are planned in `plans.rs`; what the drafter computes is for `crates/runtime/tests/draft.rs`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{self, Folder, fixture, names, run};
use gemma::{Config, ModelSpec};
use serde_json::Value;
use tensor::DType;

const PAIRS: [&str; 2] = ["e2b", "26b-a4b"];

/// `draft convert` of an assistant for a target.
fn draft(assistant: &Path, target: &Path, out: &Path, more: &[&str]) -> support::Run {
    let mut args: Vec<&OsStr> = ["draft", "convert"].map(OsStr::new).to_vec();
    args.extend([
        assistant.as_os_str(),
        "--target".as_ref(),
        target.as_os_str(),
        "-o".as_ref(),
        out.as_os_str(),
    ]);
    args.extend(more.iter().map(OsStr::new));
    run(args)
}

fn assistant(name: &str) -> PathBuf {
    fixture(&format!("{name}-assistant"))
}

/// SHA-256 of what `convert_hf_to_gguf.py` and `llama-quantize` make, preset by preset.
#[test]
fn every_preset_is_stocks_file() {
    for name in PAIRS {
        let golden = fs::read_to_string(fixture("../golden/llama-quantize.tsv")).unwrap();
        let rows = golden.lines().map(|line| line.split('\t').collect::<Vec<_>>());
        let golden: Vec<_> = rows.filter(|row| row[0] == format!("{name}-assistant")).collect();
        assert_eq!(golden.len(), 20, "{name}");
        let out = tempfile::tempdir().unwrap();
        let types: Vec<_> = golden.iter().flat_map(|row| ["--type", row[1]]).collect();
        let args = [&["--json", "--set", "metadata.name=Tiny"], types.as_slice()].concat();
        let json = draft(&assistant(name), &fixture(name), out.path(), &args).good().json();
        let made = json["artifacts"].as_array().unwrap();
        for (row, artifact) in golden.iter().zip(made) {
            let file = &artifact["outputs"][0];
            assert_eq!(file["name"], format!("draft-{}.gguf", row[1]));
            assert_eq!(
                (file["bytes"].to_string(), &file["sha256"]),
                (row[2].to_owned(), &row[3].into()),
                "{name} {}",
                row[1]
            );
        }
        // and the manifest says whose draft it is
        let manifest = support::json(&out.path().join("manifest.json"));
        let target = checkpoint::Checkpoint::open(fixture(name)).unwrap();
        let fingerprint = base::hex(&target.fingerprint().unwrap());
        assert_eq!(manifest["artifacts"][0]["target"]["fingerprint"], fingerprint);
    }
}

/// The real tools, where they are: the digests above are theirs, and what we add to their file does not disturb them.
#[test]
fn llama_cpp_passes_the_ordered_embedding_through() {
    let Some(oracle) = xtask::oracle::Oracle::for_tests() else { return };
    let dir = tempfile::tempdir().unwrap();
    let [ours, copy] = ["ours.gguf", "copy.gguf"].map(|name| dir.path().join(name));
    draft(&assistant("e2b"), &fixture("e2b"), &ours, &["--type", "q4_0", "--set", "masked_embedding=keep"])
        .good();
    let status = oracle.tool("llama-quantize").arg(&ours).arg(&copy).arg("COPY").output().unwrap().status;
    assert!(status.success());
    assert!(fs::read(&ours).unwrap() == fs::read(&copy).unwrap());
}

#[test]
fn the_ordered_embedding_is_kept_when_asked_for_and_missed_when_not() {
    let dir = tempfile::tempdir().unwrap();
    let [plain, kept] = ["plain.gguf", "kept.gguf"].map(|name| dir.path().join(name));
    let run = draft(&assistant("e2b"), &fixture("e2b"), &plain, &["--type", "bf16"]).good();
    assert!(
        run.stderr.contains("ordered embedding (24576 bytes in the checkpoint) is left out"),
        "{}",
        run.stderr
    );
    draft(&assistant("e2b"), &fixture("e2b"), &kept, &["--type", "bf16", "--set", "masked_embedding=keep"])
        .good();
    let [plain, kept] = [plain, kept].map(|path| gguf::GgufSet::open(&path).unwrap());
    let named = |set: &gguf::GgufSet| {
        let tensors = tensor::TensorSource::tensors(set).iter();
        tensors.map(|t| (t.name.clone(), t.dtype, t.shape.clone())).collect::<Vec<_>>()
    };
    let added: Vec<_> = named(&kept).into_iter().filter(|tensor| !named(&plain).contains(tensor)).collect();
    assert_eq!(
        added,
        [
            ("masked_embd_centroids.weight".to_owned(), DType::BF16, vec![32, 128]),
            ("masked_embd_ordering".to_owned(), DType::I64, vec![2048]),
        ]
    );
    // what was read from the checkpoint is read from the file
    let read = |set: &gguf::GgufSet| {
        Config::draft_from_metadata(set.metadata(), tensor::TensorSource::tensors(set)).unwrap()
    };
    let json = support::json(&assistant("e2b").join("config.json"));
    assert_eq!(read(&kept).draft, Config::draft_from_json(&json).unwrap().draft);
    assert_eq!(read(&plain).ordered(), None);
    let run = draft(
        &assistant("26b-a4b"),
        &fixture("26b-a4b"),
        dir.path(),
        &["--type", "bf16", "--set", "masked_embedding=keep"],
    );
    assert!(run.good().stderr.contains("this model has no ordered embedding"));
}

/// Safetensors hold all of it, with the files that belong to it and a scale for each encoded matrix: five a layer, both
/// projections and, of SFP8, the embedding.
#[test]
fn safetensors_are_whole() {
    for (recipe, weights) in [("bf16-safetensors", 50), ("sfp8", 50 + 23), ("fp8", 50 + 22)] {
        let out = tempfile::tempdir().unwrap();
        draft(&assistant("e2b"), &fixture("e2b"), out.path(), &["--recipe", recipe]).good();
        let checkpoint = checkpoint::Checkpoint::open(out.path()).unwrap();
        assert!(names(out.path()).contains(&"tokenizer.json".to_owned()));
        let model = ModelSpec::open_draft(&checkpoint).unwrap();
        assert_eq!(model.inventory.text.len(), 50, "{recipe}");
        let header = support::weights(out.path());
        assert_eq!(header.tensors.len(), weights, "{recipe}");
        let ordering = |mut weights: support::Weights| weights.get("token_ordering").data.clone();
        let original = support::weights(&assistant("e2b"));
        assert!(ordering(header) == ordering(original), "{recipe}");
    }
}

#[test]
fn a_draft_of_another_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |draft_of: &Path, target: &Path, says: &[&str]| {
        let out = dir.path().join("out");
        let run = draft(draft_of, target, &out, &["--type", "q8_0"]);
        assert_eq!(run.code, Some(3), "{}", run.stderr);
        says.iter().for_each(|says| assert!(run.stderr.contains(says), "{says}: {}", run.stderr));
        assert!(!out.exists());
    };
    let e2b = assistant("e2b");
    refused(
        &e2b,
        &fixture("26b-a4b"),
        &["e2b-assistant", "key heads of sliding layers", "expected 2, found 1"],
    );
    refused(&e2b, &e2b, &["architectures", "a draft model"]);
    refused(&fixture("e2b"), &fixture("e2b"), &["architectures", "not a draft model"]);

    let broken = |file: &str, change: &dyn Fn(&mut Value), says: &[&str]| {
        let folder = Folder::of("e2b-assistant");
        folder.edit(file, |json| change(json));
        refused(&folder.path(), &fixture("e2b"), says);
    };
    broken(
        "config.json",
        &|c| c["backbone_hidden_size"] = 512.into(),
        &["pre_projection.weight", "wrong shape"],
    );
    broken(
        "config.json",
        &|c| c["text_config"]["num_kv_shared_layers"] = 3.into(),
        &["num_kv_shared_layers", "no keys and values of its own"],
    );
    broken(
        "config.json",
        &|c| c["text_config"]["sliding_window"] = 32.into(),
        &["sliding window", "expected 64, found 32"],
    );
    broken(
        "config.json",
        &|c| c["centroid_intermediate_top_k"] = 33.into(),
        &["centroid_intermediate_top_k", "33 of 32"],
    );
    broken(
        "config.json",
        &|c| c["num_centroids"] = 16.into(),
        &["masked_embedding.centroids.weight", "wrong shape"],
    );
    broken(
        "tokenizer.json",
        &|t| t["model"]["merges"].as_array_mut().unwrap().swap(7, 8),
        &["merges other pairs"],
    );
    let swap = |t: &mut Value| {
        let vocab = &mut t["model"]["vocab"];
        let (a, b) = (vocab["▁t"].take(), vocab["▁("].take());
        (vocab["▁t"], vocab["▁("]) = (b, a);
    };
    broken("tokenizer.json", &swap, &["token ", "differs from the target's"]);
}
