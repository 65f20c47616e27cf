//! Chat templates, model card, tokenizer and the JSON files beside the weights.

use std::fs;

use checkpoint::Checkpoint;
use tensor::Fault;

use crate::{folder, shard};

fn open(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Checkpoint) {
    let dir = folder(files);
    fs::write(dir.path().join("model.safetensors"), shard(&["a"])).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    (dir, checkpoint)
}

#[test]
fn the_chat_template_comes_from_the_first_that_has_one() {
    let config = ("tokenizer_config.json", &br#"{"chat_template":"config"}"#[..]);
    let jinja = ("chat_template.jinja", &b"jin\r\nja\r"[..]);
    let json = ("chat_template.json", &br#"{"chat_template":"json"}"#[..]);
    let empty = ("tokenizer_config.json", &b"{}"[..]);
    let null = ("tokenizer_config.json", &br#"{"chat_template":null}"#[..]);
    for (files, expected) in [
        (&[config, jinja, json][..], Some("jin\nja\n")),
        (&[config, json], Some("config")),
        (&[empty, jinja, json], Some("jin\nja\n")),
        (&[jinja, json], Some("jin\nja\n")),
        (&[empty, json], Some("json")),
        (&[null, jinja], Some("jin\nja\n")),
        (&[null, json], None),
        (&[empty], None),
    ] {
        let (_dir, checkpoint) = open(files);
        assert_eq!(checkpoint.chat_template().unwrap().as_deref(), expected, "{files:?}");
    }
}

#[test]
fn lists_of_chat_templates() {
    let (_dir, checkpoint) = open(&[(
        "tokenizer_config.json",
        br#"{"chat_template":[{"name":"tool_use","template":"t"},{"name":"default","template":"d"}]}"#,
    )]);
    let templates = checkpoint.chat_templates().unwrap();
    assert_eq!(templates.default.as_deref(), Some("d"));
    assert_eq!(templates.named, [("tool_use".into(), "t".into())]);

    let (_dir, checkpoint) = open(&[
        ("chat_template.jinja", b"d"),
        ("additional_chat_templates/rag.jinja", b"r"),
        ("additional_chat_templates/any.jinja", b"a"),
        ("additional_chat_templates/notes.txt", b"x"),
    ]);
    let templates = checkpoint.chat_templates().unwrap();
    assert_eq!(templates.named, [("any".into(), "a".into()), ("rag".into(), "r".into())]);

    for bad in ["1", "[1]", r#"[{"name":"default"}]"#] {
        let (_dir, checkpoint) =
            open(&[("tokenizer_config.json", format!("{{\"chat_template\":{bad}}}").as_bytes())]);
        let error = checkpoint.chat_template().unwrap_err();
        assert!(error.place().ends_with("tokenizer_config.json: chat_template"), "{error}");
    }
}

#[test]
fn the_card_is_found_and_its_errors_are_placed() {
    let (dir, checkpoint) = open(&[("README.md", b"---\r\nlicense: apache-2.0\r\n---\r\n# Title\r\n")]);
    assert_eq!(checkpoint.model_card().unwrap().license().as_deref(), Some("apache-2.0"));
    fs::write(dir.path().join("README.md"), "---\nlicense: [apache-2.0\n---\n").unwrap();
    let error = checkpoint.model_card().unwrap_err();
    assert_eq!(error.fault(), Fault::Malformed);
    assert!(error.place().contains("README.md:"), "{error}");
}

#[test]
fn malformed_json_is_placed() {
    let (_dir, checkpoint) = open(&[
        ("generation_config.json", b"{\n \"top_k\": 64,\n}"),
        ("tokenizer.json", b"{\"model\":\n{\"type\":\"BPE\",\"vocab\":{},\"merges\":[3]}}"),
    ]);
    let error = checkpoint.generation_config().unwrap_err();
    assert!(error.place().ends_with("generation_config.json:3:1"), "{error}");
    let error = checkpoint.tokenizer().unwrap_err();
    assert!(error.place().contains("tokenizer.json:2:"), "{error}");
    assert_eq!(checkpoint.tokenizer_config().unwrap(), None);
}

#[test]
fn a_missing_tokenizer_says_so() {
    let (dir, checkpoint) = open(&[]);
    let error = checkpoint.tokenizer().unwrap_err();
    assert_eq!(error.fault(), Fault::Malformed);
    assert_eq!(error.place(), dir.path().join("tokenizer.json").display().to_string());
}

#[test]
fn numbers_of_a_config_are_read_exactly() {
    let dir = folder(&[("model.safetensors", &shard(&["a"]))]);
    // Without correct rounding this number is off by one unit in the last place.
    fs::write(dir.path().join("config.json"), r#"{"x": 122.416294033786585}"#).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.config()["x"].as_f64(), Some("122.416294033786585".parse().unwrap()));
}
