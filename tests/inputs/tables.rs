//! Tables of the vocabulary, special tokens, templates and cards that say what is not there.

use serde_json::{Value, json};

use super::{ALL, all_the_same, form, made, of_the_checkpoint, rename};
use crate::support::{Folder, Tensor, convert, run, sha256};

#[test]
fn tables_of_the_vocabulary() {
    fn pad(f: &Folder, rows: u64) {
        f.reweigh(|w| {
            for tensor in w.tensors.iter_mut().filter(|t| t.name.contains(".embed_tokens")) {
                let row = tensor.data.len() / tensor.shape[0] as usize;
                tensor.data.resize(rows as usize * row, 0x3f);
                tensor.shape[0] = rows;
            }
        });
    }
    fn say(f: &Folder, rows: u64) {
        f.configure("vocab_size", rows);
        f.configure("vocab_size_per_layer_input", rows);
    }
    all_the_same(&[
        form("padded", ALL, &["rows 2048 to 2111 of", "embed_tokens.weight", "are left out"], |f| {
            pad(f, 2112);
            say(f, 2112);
        }),
        form("padded, and the config does not say so", ALL, &["rows 2048 to 2111 of", "are left out"], |f| {
            pad(f, 2112)
        }),
        form("not padded, though the config says so", ALL, &["vocab_size is 2112", "2048 rows"], |f| {
            say(f, 2112)
        }),
        form(
            "padded per-layer table alone",
            &["e2b"],
            &["rows 2048 to 2063", "embed_tokens_per_layer"],
            |f| {
                f.reweigh(|w| {
                    let table = w.get("embed_tokens_per_layer.weight");
                    let row = table.data.len() / 2048;
                    table.data.resize(2064 * row, 0);
                    table.shape[0] = 2064;
                });
                f.configure("vocab_size_per_layer_input", 2064);
            },
        ),
        form(
            "the head without the embedding",
            ALL,
            &["lm_head.weight exists", "read as the embedding"],
            |f| {
                rename(f, |name| {
                    if name.ends_with(".embed_tokens.weight") {
                        "lm_head.weight".to_owned()
                    } else {
                        name.to_owned()
                    }
                })
            },
        ),
    ]);
}

/// A head of its own is cut as the embedding is.
#[test]
fn a_padded_head() {
    let head = |f: &Folder, rows: usize| {
        f.reweigh(|w| {
            let mut data = w.get("embed_tokens.weight").data.clone();
            data.reverse();
            data.iter_mut().skip(1).step_by(2).for_each(|byte| *byte = 0x3c | *byte & 0x83);
            let row = data.len() / 2048;
            let embedding = w.get("embed_tokens.weight");
            for data in [&mut embedding.data, &mut data] {
                data.resize(rows * row, 0);
            }
            embedding.shape[0] = rows as u64;
            let shape = embedding.shape.clone();
            // by name, as the library orders a file
            w.tensors.insert(0, Tensor { name: "lm_head.weight".into(), dtype: "BF16".into(), shape, data });
        });
        f.edit("config.json", |c| c["tie_word_embeddings"] = false.into());
        f.configure("tie_word_embeddings", false);
    };
    let (clean, padded) = (Folder::of("31b"), Folder::of("31b"));
    head(&clean, 2048);
    head(&padded, 2112);
    padded.configure("vocab_size", 2112);
    let (clean, _) = made(&clean.path(), clean.home());
    let (padded, said) = made(&padded.path(), padded.home());
    assert!(said.contains("rows 2048 to 2111 of") && said.contains("lm_head.weight"), "{said}");
    assert_eq!(padded, clean);
}

#[test]
fn a_card_that_names_a_path() {
    let of = |card: &str| {
        let folder = Folder::of("31b");
        folder.write("README.md", card);
        let gguf = folder.home().join("q4_0.gguf");
        let run = convert(&folder.path(), &gguf, &["--type", "q4_0"]).good();
        (sha256(&gguf), run.stderr)
    };
    let (clean, said) = of("---\nlicense: mit\n---\n");
    assert_eq!(of_the_checkpoint(&said).count(), 0, "{said}");
    for path in [
        "/data/x/gemma",
        "./out",
        "../out",
        "~/gemma",
        "'C:\\models\\gemma'",
        "out/checkpoint-500",
        "[/data/x, ./y]",
    ] {
        let (bytes, said) = of(&format!("---\nlicense: mit\nbase_model: {path}\n---\n"));
        assert!(said.contains("a path on a machine"), "{path}: {said}");
        assert_eq!(bytes, clean, "{path}");
    }
    let (one, _) = of("---\nlicense: mit\nbase_model: google/gemma-4-31B\n---\n");
    let (two, said) = of("---\nlicense: mit\nbase_model: [/data/x, google/gemma-4-31B]\n---\n");
    assert_eq!(one, two);
    assert!(said.contains("/data/x is a path"), "{said}");
    assert_ne!(one, clean);
}

/// What is named and is not there is left out, and said.
#[test]
fn tokens_and_templates_that_are_not_there() {
    let folder = Folder::of("31b");
    let said =
        || run(["--json", "inspect", folder.path().to_str().unwrap()]).good().json()["notes"].to_string();
    folder.remove("chat_template.jinja");
    assert!(
        said()
            .contains("no chat template is there, though generation_config.json ends an answer with <turn|>")
    );
    folder.edit("generation_config.json", |g| g["eos_token_id"] = 1.into());
    assert_eq!(said(), "[]", "a base model has no template");
    folder.edit("config.json", |c| c["eos_token_id"] = json!([1, 2040]));
    assert!(said().contains("though config.json ends an answer"));
    folder.edit("config.json", |c| c["eos_token_id"] = Value::Null);

    folder.edit("generation_config.json", |g| g["eos_token_id"] = json!([1, 9999]));
    assert!(said().contains("eos_token_id has 9999, and there are 2048 tokens"));
    folder.edit("generation_config.json", |g| g["eos_token_id"] = 1.into());

    folder.edit("tokenizer_config.json", |t| drop(t.as_object_mut().unwrap().remove("eos_token")));
    folder.edit("config.json", |c| c["eos_token_id"] = 262_144.into());
    assert!(said().contains("eos_token_id is 262144, and there are 2048 tokens: it is left out"));
    let gguf = folder.home().join("q4_0.gguf");
    convert(&folder.path(), &gguf, &["--type", "q4_0"]).good();
    let inspected = run(["--json", "inspect", gguf.to_str().unwrap()]).good().json();
    assert_eq!(inspected["metadata"]["tokenizer.ggml.eos_token_id"], Value::Null);

    folder.edit("config.json", |c| c["eos_token_id"] = Value::Null);
    folder.edit("tokenizer_config.json", |t| t["eos_token"] = "<nothing>".into());
    folder.configure("eos_token_id", Value::Null);
    assert!(
        said().contains("eos_token is \\\\\\\"<nothing>\\\\\\\"") || said().contains("<nothing>"),
        "{}",
        said()
    );
}
