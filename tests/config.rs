//! `config.json` as transformers reads it: an edit changes what is written as it changes what transformers computes, or it
//! is refused with the name of its key. None is lost without a word.

use std::fs;

use crate::support::{self, Folder, convert};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

type Edit = fn(&mut Value);

const FULL: &str = "/text_config/rope_parameters/full_attention";
const SLIDING: &str = "/text_config/rope_parameters/sliding_attention";

/// The SHA-256 of a conversion, and what was said; or the refusal.
fn made(base: &str, edit: Edit) -> Result<(String, String), String> {
    let folder = Folder::of(base);
    folder.edit("config.json", edit);
    let run = convert(&folder.path(), &folder.out(), &["--type", "q4_0", "--no-sync"]);
    if run.code != Some(0) {
        return Err(run.refusal(3).to_owned());
    }
    let name = support::names(&folder.out()).into_iter().find(|name| name.ends_with(".gguf")).unwrap();
    let digest = Sha256::digest(fs::read(folder.out().join(name)).unwrap());
    Ok((format!("{digest:x?}"), run.stdout + &run.stderr))
}

fn set(config: &mut Value, place: &str, key: &str, value: impl Into<Value>) {
    config.pointer_mut(place).unwrap()[key] = value.into();
}

fn remove(config: &mut Value, place: &str, key: &str) {
    config.pointer_mut(place).unwrap().as_object_mut().unwrap().remove(key).unwrap();
}

#[test]
fn what_says_the_same_gives_the_same_bytes() {
    let clean = made("31b", |_| {}).unwrap().0;
    let same: &[(&str, Edit)] = &[
        ("no rope_parameters", |c| remove(c, "/text_config", "rope_parameters")),
        ("no model_type", |c| remove(c, "", "model_type")),
        ("no model_type inside", |c| remove(c, "/text_config", "model_type")),
        ("defaults left out", |c| {
            for key in
                ["rms_norm_eps", "max_position_embeddings", "use_double_wide_mlp", "num_kv_shared_layers"]
            {
                remove(c, "/text_config", key);
            }
        }),
        ("no layer_types", |c| remove(c, "/text_config", "layer_types")),
        ("type for rope_type", |c| {
            remove(c, FULL, "rope_type");
            set(c, FULL, "type", "proportional");
        }),
        ("the other dialect too", |c| {
            set(c, "/text_config", "global_head_dim", 128);
            set(c, "/text_config", "num_global_key_value_heads", 1);
        }),
        ("the other dialect alone", |c| {
            remove(c, "/text_config", "per_layer_config");
            set(c, "/text_config", "global_head_dim", 128);
            set(c, "/text_config", "num_global_key_value_heads", 1);
        }),
        ("tied inside, as the weights are", |c| set(c, "/text_config", "tie_word_embeddings", false)),
    ];
    for (what, edit) in same {
        assert_eq!(made("31b", *edit).unwrap().0, clean, "{what}");
    }
}

#[test]
fn what_says_something_else_gives_other_bytes() {
    let clean = made("31b", |_| {}).unwrap().0;
    let others: &[(&str, Edit)] = &[
        ("a factor", |c| set(c, FULL, "factor", 8.0)),
        ("no partial_rotary_factor", |c| remove(c, FULL, "partial_rotary_factor")),
        ("no rope_type", |c| {
            remove(c, FULL, "rope_type");
            remove(c, FULL, "partial_rotary_factor");
        }),
        ("linear", |c| {
            *c.pointer_mut(FULL).unwrap() = json!({"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0})
        }),
        ("no soft cap", |c| remove(c, "/text_config", "final_logit_softcapping")),
        ("a soft cap of null", |c| set(c, "/text_config", "final_logit_softcapping", Value::Null)),
        ("no window: the default of the class", |c| remove(c, "/text_config", "sliding_window")),
    ];
    for (what, edit) in others {
        assert_ne!(made("31b", *edit).unwrap().0, clean, "{what}");
    }
}

#[test]
fn what_cannot_be_said_is_refused_by_name() {
    let refused: &[(&str, &str, Edit)] = &[
        ("31b", "rope_theta", |c| set(c, FULL, "rope_theta", 1e39)),
        ("31b", "rope_theta", |c| set(c, FULL, "rope_theta", 0)),
        ("31b", "rope_theta", |c| remove(c, FULL, "rope_theta")),
        ("31b", "rope_type", |c| set(c, FULL, "rope_type", "yarn")),
        ("31b", "partial_rotary_factor", |c| set(c, FULL, "partial_rotary_factor", 1.5)),
        ("31b", "factor", |c| set(c, FULL, "factor", 0.0)),
        ("31b", "full_attention", |c| set(c, "/text_config/rope_parameters", "full_attention", Value::Null)),
        ("31b", "sliding_attention", |c| {
            set(c, SLIDING, "rope_type", "linear");
            set(c, SLIDING, "factor", 8.0);
        }),
        ("31b", "rope_scaling", |c| {
            set(c, "/text_config", "rope_scaling", json!({"rope_type": "linear", "factor": 8.0}))
        }),
        ("31b", "rope_theta", |c| set(c, "/text_config", "rope_theta", 5e5)),
        ("31b", "rope_local_base_freq", |c| set(c, "/text_config", "rope_local_base_freq", 5e3)),
        ("31b", "final_logit_softcapping", |c| set(c, "/text_config", "final_logit_softcapping", 1e39)),
        ("31b", "final_logit_softcapping", |c| set(c, "/text_config", "final_logit_softcapping", 0.0)),
        ("31b", "rms_norm_eps", |c| set(c, "/text_config", "rms_norm_eps", -1.0)),
        ("31b", "rms_norm_eps", |c| set(c, "/text_config", "rms_norm_eps", 1e39)),
        ("31b", "sliding_window", |c| set(c, "/text_config", "sliding_window", 0)),
        ("31b", "sliding_window", |c| set(c, "/text_config", "sliding_window", 2.5)),
        ("31b", "max_position_embeddings", |c| set(c, "/text_config", "max_position_embeddings", 0)),
        ("31b", "max_position_embeddings", |c| set(c, "/text_config", "max_position_embeddings", 1u64 << 40)),
        ("31b", "global_head_dim", |c| set(c, "/text_config", "global_head_dim", 64)),
        ("31b", "num_global_key_value_heads", |c| set(c, "/text_config", "num_global_key_value_heads", 2)),
        ("31b", "use_bidirectional_attention", |c| {
            set(c, "/text_config", "use_bidirectional_attention", "some")
        }),
        ("31b", "model_type", |c| set(c, "", "model_type", "gemma3")),
        ("31b", "model_type", |c| set(c, "", "model_type", "gemma4_unified")),
        ("26b-a4b", "top_k_experts", |c| set(c, "/text_config", "top_k_experts", 99)),
        ("26b-a4b", "top_k_experts", |c| set(c, "/text_config", "top_k_experts", 0)),
        ("26b-a4b", "num_experts", |c| set(c, "/text_config", "num_experts", Value::Null)),
    ];
    for (base, key, edit) in refused {
        let message = made(base, *edit).expect_err(key);
        assert!(message.contains("config.json: ") && message.contains(key), "{key}: {message}");
    }
}

/// Python writes these into JSON, which has none of them.
#[test]
fn numbers_that_json_does_not_have_are_refused_by_name() {
    for value in ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "[1, NaN]"] {
        for (place, key) in [("\"rms_norm_eps\"", "rms_norm_eps"), ("\"rope_theta\"", "rope_theta")] {
            let folder = Folder::of("31b");
            let path = folder.path().join("config.json");
            let text = fs::read_to_string(&path).unwrap();
            let at = text.find(place).unwrap() + place.len();
            let end = at + text[at..].find([',', '\n', '}']).unwrap();
            fs::write(&path, format!("{}: {value}{}", &text[..at], &text[end..])).unwrap();
            let run = convert(&folder.path(), &folder.out(), &["--type", "q4_0"]);
            let said = run.refusal(3);
            let number = value.trim_start_matches("[1, ").trim_end_matches(']');
            assert!(said.contains(&format!("{key}: not a finite number")), "{said}");
            assert!(said.contains(number), "{said}");
        }
    }
}

/// What the files beside the config ask for, and no GGUF can say or llama.cpp stops at.
#[test]
fn what_other_files_ask_for_is_refused_by_name() {
    const TOKENIZER: &str = "tokenizer.json";
    const GENERATION: &str = "generation_config.json";
    let refused: &[(&str, &str, Edit)] = &[
        (TOKENIZER, "model.merges", |t| t["model"]["merges"] = json!([])),
        (TOKENIZER, "end_of_word_suffix", |t| t["model"]["end_of_word_suffix"] = "</w>".into()),
        (TOKENIZER, "continuing_subword_prefix", |t| t["model"]["continuing_subword_prefix"] = "##".into()),
        (TOKENIZER, "dropout", |t| t["model"]["dropout"] = 0.1.into()),
        (TOKENIZER, "ignore_merges", |t| t["model"]["ignore_merges"] = true.into()),
        (TOKENIZER, "byte_fallback", |t| t["model"]["byte_fallback"] = false.into()),
        (TOKENIZER, "normalizer", |t| t["normalizer"] = json!({"type": "NFC"})),
        (TOKENIZER, "pre_tokenizer", |t| t["pre_tokenizer"]["invert"] = true.into()),
        (TOKENIZER, "post_processor", |t| t["post_processor"]["special_tokens"]["<bos>"]["ids"] = json!([5])),
        (TOKENIZER, "merge", |t| {
            let merges = t["model"]["merges"].as_array_mut().unwrap();
            merges.push(merges[0].clone());
        }),
        (GENERATION, "not a JSON object", |g| *g = json!([])),
        (GENERATION, "eos_token_id", |g| g["eos_token_id"] = "1".into()),
        (GENERATION, "eos_token_id", |g| g["eos_token_id"] = json!([1, -1])),
        (GENERATION, "bos_token_id", |g| g["bos_token_id"] = json!([[2]])),
        (GENERATION, "top_k", |g| g["top_k"] = (1u64 << 40).into()),
        (GENERATION, "temperature", |g| g["temperature"] = json!(-1)),
        ("config.json", "sliding_window", |c| set(c, "/text_config", "sliding_window", 1u64 << 31)),
    ];
    for (file, word, edit) in refused {
        let folder = Folder::of("31b");
        folder.edit(file, edit);
        let run = convert(&folder.path(), &folder.out(), &["--type", "q4_0", "--no-sync"]);
        let message = run.refusal(3);
        assert!(message.contains(word), "{file}: {word}: {message}");
    }
    for (file, bytes, word) in [
        ("config.json", &b""[..], "is empty"),
        (TOKENIZER, b" \n", "is empty"),
        (GENERATION, "\u{feff}{}".as_bytes(), "byte order mark"),
    ] {
        let folder = Folder::of("31b");
        fs::write(folder.path().join(file), bytes).unwrap();
        let run = convert(&folder.path(), &folder.out(), &["--type", "q4_0", "--no-sync"]);
        assert!(run.refusal(3).contains(word), "{file}: {}", run.stderr);
    }
}

#[test]
fn a_template_of_nothing_is_none() {
    for text in ["", " \n"] {
        let folder = Folder::of("31b");
        folder.edit("generation_config.json", |g| g["eos_token_id"] = json!([1, 2040]));
        fs::write(folder.path().join("chat_template.jinja"), text).unwrap();
        let run = convert(&folder.path(), &folder.out(), &["--type", "q4_0", "--no-sync"]).good();
        assert!(run.stderr.contains("no chat template is there"), "{text:?}: {}", run.stderr);
    }
}

/// A stored head of other bytes than the embedding is the head, whatever the config says; of the same bytes it is not.
#[test]
fn a_stored_head_is_compared() {
    let with_head = |scale: u8| {
        let folder = Folder::of("31b");
        folder.reweigh(|weights| {
            let embedding = weights.get("embed_tokens.weight");
            let (dtype, shape, mut data) =
                (embedding.dtype.clone(), embedding.shape.clone(), embedding.data.clone());
            data[1000] ^= scale;
            let bytes = data.len();
            weights.add("lm_head.weight", &dtype, &shape, bytes);
            weights.get("lm_head.weight").data = data;
        });
        let run = convert(&folder.path(), &folder.out(), &["--type", "q8_0", "--no-sync"]);
        run.good();
        let file = support::names(&folder.out()).into_iter().find(|name| name.ends_with(".gguf")).unwrap();
        let bytes = fs::read(folder.out().join(file)).unwrap();
        // a name in a GGUF follows its length
        let name = [&13u64.to_le_bytes()[..], b"output.weight"].concat();
        bytes.windows(name.len()).any(|window| window == name)
    };
    assert!(with_head(1));
    assert!(!with_head(0));
}
