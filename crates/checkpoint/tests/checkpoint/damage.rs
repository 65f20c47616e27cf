//! Contradictory folders: each is refused with an error that names the file, the problem and the remedy.

use std::fs;

use checkpoint::Checkpoint;
use tensor::Fault;

use crate::{folder, index, refused, shard};

const INDEX: &str = "model.safetensors.index.json";

#[test]
fn no_checkpoint_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let error = refused(&dir.path().join("absent"));
    assert_eq!(error.fault(), Fault::Malformed);
    let file = dir.path().join("config.json");
    assert_eq!(refused(dir.path()).place(), file.display().to_string());
    fs::write(&file, "[]").unwrap();
    assert_eq!(refused(dir.path()).problem(), "not a JSON object");
    assert_eq!(refused(&file).problem(), "not a folder");
    fs::write(&file, "{\n \"a\": 1,\n \"b\": tru }").unwrap();
    assert!(refused(dir.path()).place().ends_with("config.json:3:10"));
    fs::write(&file, b"{\n\n \"a\": \"\xff\"}").unwrap();
    assert!(refused(dir.path()).to_string().ends_with("config.json:3: not UTF-8 text"));
}

#[test]
fn no_weights_or_in_another_container() {
    let cases: [(&str, Fault, &str); 5] = [
        ("notes.txt", Fault::Malformed, "no weights in this folder"),
        ("pytorch_model.bin", Fault::Unsupported, "the weights are PyTorch pickles"),
        ("pytorch_model-00001-of-00002.bin", Fault::Unsupported, "the weights are PyTorch pickles"),
        ("model-q4_0.gguf", Fault::Unsupported, "the weights are already GGUF"),
        (
            "model-00001-of-00002.safetensors",
            Fault::Malformed,
            "shards are missing: model-00002-of-00002.safetensors",
        ),
    ];
    for (name, fault, problem) in cases {
        let dir = folder(&[(name, b"x")]);
        let error = refused(dir.path());
        assert_eq!((error.fault(), error.problem()), (fault, problem));
        let (expected, found) = error.expected_found().unwrap();
        assert!(expected.contains("model.safetensors") && expected.contains(INDEX));
        assert!(found == "neither" || found == name);
    }
}

#[test]
fn the_index_must_stay_in_the_folder() {
    let outside = folder(&[("x.safetensors", &shard(&["a"]))]);
    let absolute = outside.path().join("x.safetensors").display().to_string();
    let names = [
        "../x.safetensors",
        &absolute,
        "a/../../x.safetensors",
        "./x.safetensors",
        "a//x.safetensors",
        "",
        "x.bin",
    ];
    for name in names {
        let dir = folder(&[("x.safetensors", &shard(&["a"])), (INDEX, &index(&[("a", name)]))]);
        let error = refused(dir.path());
        assert_eq!(error.fault(), Fault::Malformed);
        assert!(error.place().ends_with("model.safetensors.index.json: weight_map: a"), "{error}");
        assert_eq!(error.expected_found().unwrap().1, format!("{name:?}"));
    }
}

#[test]
fn the_index_must_match_the_shards() {
    let [one, two] = ["1.safetensors", "2.safetensors"];
    let open = |entries: &[(&str, &str)], first: &[&str], second: &[&str]| {
        let dir = folder(&[(one, &shard(first)), (two, &shard(second)), (INDEX, &index(entries))]);
        refused(dir.path())
    };
    let error = open(&[("a", one), ("b", two), ("c", two)], &["a"], &["b"]);
    assert!(error.place().ends_with("index.json: tensor c"));
    assert_eq!(error.expected_found(), Some((two, "no shard has it")));

    let error = open(&[("a", one), ("b", one)], &["a"], &["b"]);
    assert_eq!(error.expected_found(), Some((one, "no shard has it")), "a shard nobody names is not opened");

    let error = open(&[("a", one), ("b", one), ("c", two)], &["a"], &["b", "c"]);
    assert_eq!(error.expected_found(), Some((one, two)));

    let error = open(&[("a", one), ("b", two)], &["a"], &["b", "c", "d"]);
    assert_eq!(error.problem(), "2.safetensors holds tensors that the index lacks");
    assert_eq!(error.expected_found(), Some(("2 tensors", "also c, d")));

    let error = open(&[("a", one), ("b", two)], &["a"], &["b", "a"]);
    assert!(error.place().ends_with("2.safetensors: tensor a"), "{error}");
    assert_eq!(error.expected_found().unwrap().1, "also in 1.safetensors");
}

#[test]
fn shards_that_are_missing_are_all_named() {
    let dir = folder(&[
        ("1.safetensors", &shard(&["a"])),
        (INDEX, &index(&[("a", "1.safetensors"), ("b", "2.safetensors"), ("c", "3.safetensors")])),
    ]);
    let error = refused(dir.path());
    assert_eq!(error.problem(), "files it names are missing: 2.safetensors, 3.safetensors");
    assert_eq!(error.expected_found(), Some(("3 shards", "1")));
    fs::create_dir(dir.path().join("2.safetensors")).unwrap();
    assert_eq!(refused(dir.path()).problem(), "not a regular file");
}

#[test]
fn a_broken_index() {
    for (bytes, place) in [
        ("{", "index.json:1:1"),
        ("{}", "index.json:1:2"),
        ("{\"weight_map\":[]}", "index.json:1:"),
        ("{\"weight_map\":{\"a\":1}}", "index.json:1:"),
        ("{\"weight_map\":{}}", "index.json"),
    ] {
        let dir = folder(&[(INDEX, bytes.as_bytes())]);
        let error = refused(dir.path());
        assert!(error.fault() == Fault::Malformed && error.place().contains(place), "{error}");
    }
}

#[test]
fn a_single_file_beside_an_index_of_others_is_ambiguous() {
    let dir = folder(&[
        ("model.safetensors", &shard(&["a"])),
        ("1.safetensors", &shard(&["a"])),
        (INDEX, &index(&[("a", "1.safetensors")])),
    ]);
    assert!(refused(dir.path()).help_text().unwrap().starts_with("remove model.safetensors, or"));
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    Checkpoint::open(dir.path()).unwrap();
}
