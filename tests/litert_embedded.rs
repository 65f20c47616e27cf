//! The graph skeletons that are part of the program, filled from checkpoints with the real layers and names and a sixteenth of all widths.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use testkit::SplitMix64;
use xtask::oracle::clients::LITERT_LM;

use crate::litert_judge::says;
use crate::support::{Run, WEIGHTS, Weights, fixture, run};

/// Those that have a skeleton, and the backends.
const GRAPHS: [(&str, &str); 5] = [
    ("gemma-4-E2B-it", "cpu"),
    ("gemma-4-E2B-it", "gpu"),
    ("gemma-4-E4B-it", "cpu"),
    ("gemma-4-E4B-it", "gpu"),
    ("gemma-4-12B-it", "cpu"),
];
const SMALLER: u64 = 16;
/// Sizes of the config that depend on the width.
const WIDTHS: [&str; 7] = [
    "hidden_size",
    "intermediate_size",
    "head_dim",
    "global_head_dim",
    "hidden_size_per_layer_input",
    "vocab_size",
    "vocab_size_per_layer_input",
];
const ONE: [u8; 2] = 0x3f80u16.to_le_bytes();

/// A checkpoint with random matrices, and norms and layer scalars of 1, which equal each other and a constant of the graph.
fn checkpoint(folder: &Path, model: &str) {
    fs::create_dir_all(folder).unwrap();
    let mut config = testkit::json(format!("configs/{model}.json"));
    for width in WIDTHS {
        let value = &mut config["text_config"][width];
        // 12B has no per-layer embeddings
        if let Some(full) = value.as_u64() {
            *value = (full / SMALLER).into();
        }
    }
    config["vision_config"] = Value::Null;
    config["audio_config"] = Value::Null;
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    for file in ["tokenizer_config.json", "chat_template.jinja"] {
        fs::copy(fixture("e2b").join(file), folder.join(file)).unwrap();
    }
    let mut tokenizer = testkit::json("checkpoints/e2b/tokenizer.json");
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    // rows of the embedding that no token names would be cut
    for id in vocabulary.len() as u64..config["text_config"]["vocab_size"].as_u64().unwrap() {
        vocabulary.insert(format!("<more {id}>"), id.into());
    }
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let inventory = String::from_utf8(testkit::read(format!("inventories/{model}.tsv"))).unwrap();
    let (mut weights, mut random) = (Weights { tensors: Vec::new() }, SplitMix64(29));
    for line in inventory.lines().filter(|line| line.starts_with("model.language_model.")) {
        let mut fields = line.split('\t');
        let (name, shape) = (fields.next().unwrap(), fields.next().unwrap());
        let shape: Vec<u64> = serde_json::from_str(shape).unwrap();
        let shape: Vec<u64> = shape.iter().map(|size| size.div_ceil(SMALLER)).collect();
        weights.add(name, "BF16", &shape, 2 * shape.iter().product::<u64>() as usize);
        let tensor = weights.tensors.last_mut().unwrap();
        for value in tensor.data.as_chunks_mut().0 {
            // 1/32 to 1/16, and minus that
            *value =
                if shape.len() == 1 { ONE } else { (random.next() as u16 & 0x807f | 0x3d00).to_le_bytes() };
        }
    }
    fs::write(folder.join(WEIGHTS), weights.to_bytes()).unwrap();
}

fn convert(checkpoint: &Path, out: &Path, more: &[&str]) -> Run {
    let args = ["convert".into(), checkpoint.into(), "-o".into(), out.to_owned()];
    let recipe = ["--recipe", "litertlm-int4"].iter().chain(more).map(PathBuf::from);
    run(args.into_iter().chain(recipe))
}

fn made(home: &TempDir, (model, backend): (&str, &str)) -> (PathBuf, PathBuf) {
    let (folder, bundle) = (home.path().join(model), home.path().join(format!("{model}-{backend}.litertlm")));
    checkpoint(&folder, model);
    convert(&folder, &bundle, &["--bundle-backend", backend]).good();
    (folder, bundle)
}

/// Also if a norm is changed, whose bytes every other norm has.
#[test]
fn the_embedded_skeletons_are_filled_and_verified() {
    let home = tempfile::tempdir().unwrap();
    for graph in GRAPHS {
        let (folder, bundle) = made(&home, graph);
        let verify = || run([Path::new("verify"), &bundle, Path::new("--against"), &folder]);
        assert!(verify().good().stdout.contains("Passed"), "{graph:?}");
        let text = testkit::fixtures("text/eval.txt");
        let measured =
            ["--text", text.to_str().unwrap(), "--context", "32", "--chunks", "1"].map(PathBuf::from);
        let args = ["verify".into(), bundle.clone(), "--against".into(), folder.clone()];
        let said = run(args.into_iter().chain(measured)).good().stdout;
        // only the graph of 12B has the soft cap
        assert_eq!(said.contains("no final soft cap"), graph.0 != "gemma-4-12B-it", "{graph:?}: {said}");
        fs::remove_file(format!("{}.manifest.json", bundle.display())).unwrap();
        let mut bytes = fs::read(&bundle).unwrap();
        let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        let width = config["text_config"]["hidden_size"].as_u64().unwrap();
        // a vector of a flatbuffer has its length before it
        let norm =
            [&(4 * width as u32).to_le_bytes()[..], &1f32.to_le_bytes().repeat(width as usize)].concat();
        let at = bytes.windows(norm.len()).rposition(|bytes| bytes == norm).expect("a norm");
        bytes[at + 4 + 2] ^= 1;
        fs::write(&bundle, bytes).unwrap();
        let said = verify();
        assert_eq!(said.code, Some(1), "{graph:?}: {}", said.stdout);
        assert!(said.stdout.contains("norm.weight"), "{graph:?}: {}", said.stdout);
    }
}

#[test]
fn the_skeleton_of_another_model_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let [e4b, other] = ["e4b", "other"].map(|name| home.path().join(name));
    for folder in [&e4b, &other] {
        checkpoint(folder, "gemma-4-E4B-it");
    }
    let mut config: Value = serde_json::from_slice(&fs::read(other.join("config.json")).unwrap()).unwrap();
    config["text_config"]["sliding_window"] = 256.into();
    fs::write(other.join("config.json"), config.to_string()).unwrap();
    let e2b = testkit::root().join("formats/litertlm-e2b.skeleton");
    for (folder, more) in [(&e4b, &["--skeleton", e2b.to_str().unwrap()][..]), (&other, &[])] {
        let said = convert(folder, &home.path().join("x.litertlm"), more);
        let refused = said.refusal(3);
        assert!(refused.contains("another architecture than that of the graph skeleton"), "{refused}");
        assert!(refused.contains("35 layers") && refused.contains("42 layers"), "{refused}");
    }
}

#[test]
fn there_are_no_skeletons_of_12b_for_graphics_processors() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("12b");
    checkpoint(&folder, "gemma-4-12B-it");
    let said = convert(&folder, &home.path().join("x.litertlm"), &["--bundle-backend", "gpu"]);
    assert!(said.refusal(3).contains("another architecture than that of the graph skeleton"));
    let gguf = convert(&folder, &home.path().join("x"), &["--bundle-backend", "gpu"]);
    assert!(gguf.refusal(2).contains("--bundle-backend: has no effect on this output"));
}

/// The CPU backend runs graphs for graphics processors, too.
#[test]
fn litert_lm_runs_the_embedded_skeletons() {
    let Some(runtime) = LITERT_LM.for_tests() else { return };
    let home = tempfile::tempdir().unwrap();
    let bundles = GRAPHS.map(|graph| made(&home, graph).1);
    let said = says(&runtime, &["The river"], 8, &bundles);
    for (said, graph) in said.iter().zip(GRAPHS) {
        assert!(!said[0].as_str().unwrap().is_empty(), "{graph:?}: {said}");
    }
    assert_eq!((&said[0], &said[2]), (&said[1], &said[3]));
}
