//! Input that must be refused: exit 3, one message that names the file, tensor or key with what was expected and found,
//! and nothing in the target. Every case is a good checkpoint with one thing broken; a new way to break one is a new
//! row. Weights that must be refused belong in `bad_weights.rs`, recipes and options in `traps.rs`, places to write to
//! in `target.rs`; damage without a plan is in `noise.rs`.

use std::fs;

use crate::support::refused::{Seen, all_refused, case};
use crate::support::{self, Folder, INDEX, Run, WEIGHTS, command, convert, names, run};
use serde_json::json;

const Q_PROJ: &str = "layers.0.self_attn.q_proj.weight";
const Q4_0: &[&str] = &["--type", "q4_0"];

#[test]
fn shards_and_their_index() {
    const LAST: &str = "model.language_model.norm.weight";
    all_refused(
        Seen::Opening,
        Q4_0,
        &[
            case(
                "a missing shard",
                "31b",
                &[INDEX, "missing: model-00002-of-00003.safetensors", "expected 3 shards, found 2"],
                |f| {
                    f.shard(3, |_| {});
                    f.remove("model-00002-of-00003.safetensors");
                },
            ),
            case(
                "an index that climbs out of the folder",
                "31b",
                &[INDEX, LAST, "inside the folder", "without `..`", "found \"../x.safetensors\""],
                |f| f.shard(2, |map| map[LAST] = "../x.safetensors".into()),
            ),
            case(
                "an index with an absolute path",
                "31b",
                &[INDEX, LAST, "expected a relative path", "found \"/etc/x.safetensors\""],
                |f| f.shard(2, |map| map[LAST] = "/etc/x.safetensors".into()),
            ),
            case(
                "an index that names an absent tensor",
                "31b",
                &[INDEX, "tensor model.extra", "expected model-00001-of-00002", "found no shard has it"],
                |f| {
                    f.shard(2, |map| {
                        map.insert("model.extra".into(), support::shard_name(0, 2).into());
                    })
                },
            ),
            case(
                "an index that lacks a tensor",
                "31b",
                &[INDEX, "holds tensors that the index lacks", LAST],
                |f| {
                    f.shard(2, |map| {
                        map.remove(LAST);
                    })
                },
            ),
            case("an index that is cut off", "31b", &[INDEX, "safetensors.index.json:1:", "EOF"], |f| {
                f.shard(2, |_| {});
                let text = fs::read_to_string(f.file(INDEX)).unwrap();
                f.write(INDEX, &text[..text.len() / 2]);
            }),
        ],
    );
}

#[test]
fn safetensors_files() {
    all_refused(
        Seen::Opening,
        Q4_0,
        &[
            case(
                "data cut off",
                "31b",
                &[WEIGHTS, "truncated", "within tensor model.", "found 11072260"],
                |f| with_bytes(f, |bytes| bytes.truncate(bytes.len() - 1000)),
            ),
            case("bytes to spare", "31b", &[WEIGHTS, "bytes after the last tensor", "found 11073261"], |f| {
                with_bytes(f, |bytes| bytes.push(0))
            }),
            case("overlapping offsets", "31b", &[WEIGHTS, Q_PROJ, "overlaps", "expected data from"], |f| {
                move_tensor(f, -2)
            }),
            case("a gap between tensors", "31b", &[WEIGHTS, Q_PROJ, "gap", "expected data from"], |f| {
                move_tensor(f, 2)
            }),
            case(
                "a header longer than the file",
                "31b",
                &[WEIGHTS, "longer than the file", "found 11073260"],
                |f| with_bytes(f, |bytes| bytes[..8].copy_from_slice(&11_073_253u64.to_le_bytes())),
            ),
            case("a header of impossible length", "31b", &[WEIGHTS, "header is longer than the file"], |f| {
                with_bytes(f, |bytes| bytes[..8].fill(0xff))
            }),
            case(
                "no JSON in the header",
                "31b",
                &[WEIGHTS, "header: not JSON", "expected `{`", "byte 0x78"],
                |f| with_bytes(f, |bytes| bytes[8] = b'x'),
            ),
            case(
                "a dtype nobody knows",
                "31b",
                &[WEIGHTS, Q_PROJ, "unknown dtype", "BF16, F16", "found Q4"],
                |f| f.reweigh(|w| w.get(Q_PROJ).dtype = "Q4".into()),
            ),
            case(
                "a shape that is not the data's",
                "31b",
                &[WEIGHTS, Q_PROJ, "expected 131584", "131072"],
                |f| f.reweigh(|w| w.get(Q_PROJ).shape = vec![257, 256]),
            ),
            case("a negative dimension", "31b", &[WEIGHTS, Q_PROJ, "header:1:"], |f| {
                f.rehead(|h| h[&format!("model.language_model.{Q_PROJ}")]["shape"] = json!([-1, 256]))
            }),
            case("an empty file", "31b", &[WEIGHTS, "expected safetensors, found an empty file"], |f| {
                f.write(WEIGHTS, "")
            }),
            case("a git-lfs pointer", "31b", &[WEIGHTS, "found a git-lfs pointer", "git lfs pull"], |f| {
                f.write(WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
            }),
            case("a web page", "31b", &[WEIGHTS, "found a web page"], |f| {
                f.write(WEIGHTS, "<!DOCTYPE html>")
            }),
            case("a GGUF file", "31b", &[WEIGHTS, "found a GGUF file"], |f| {
                f.write(WEIGHTS, "GGUF\x03\0\0\0")
            }),
        ],
    );
}

fn with_bytes(folder: &Folder, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(folder.file(WEIGHTS)).unwrap();
    change(&mut bytes);
    folder.write(WEIGHTS, bytes);
}

/// Shifts the data of a tensor by some bytes.
fn move_tensor(folder: &Folder, by: i64) {
    folder.rehead(|header| {
        let offsets = &mut header[&format!("model.language_model.{Q_PROJ}")]["data_offsets"];
        for offset in offsets.as_array_mut().unwrap() {
            *offset = (offset.as_i64().unwrap() + by).into();
        }
    });
}

#[test]
fn weights_that_are_not_those_of_the_config() {
    all_refused(
        Seen::Opening,
        Q4_0,
        &[
            case("a wrong shape", "31b", &[WEIGHTS, Q_PROJ, "expected [256, 256], found [128, 512]"], |f| {
                f.reweigh(|w| w.get(Q_PROJ).shape = vec![128, 512])
            }),
            case("a flattened tensor", "26b-a4b", &["experts.down_proj", "found [2048, 128]"], |f| {
                f.reweigh(|w| w.get("layers.2.experts.down_proj").shape = vec![2048, 128])
            }),
            case(
                "a config of another width",
                "31b",
                &[WEIGHTS, "embed_tokens", "[2048, 512]", "[2048, 256]"],
                |f| f.configure("hidden_size", 512),
            ),
            case(
                "weights of no weights' type",
                "31b",
                &[WEIGHTS, Q_PROJ, "bf16, f16 or f32", "found i16"],
                |f| f.reweigh(|w| w.get(Q_PROJ).dtype = "I16".into()),
            ),
            case(
                "a tensor nobody uses",
                "31b",
                &[WEIGHTS, "layers.0.mlp.extra.weight", "uses it", "[2, 3] f32"],
                |f| {
                    f.reweigh(|w| w.add("model.language_model.layers.0.mlp.extra.weight", "F32", &[2, 3], 24))
                },
            ),
            case(
                "a layer too many",
                "31b",
                &[WEIGHTS, "tensor model.language_model.layers.6.layer_scalar"],
                |f| f.reweigh(|w| w.add("model.language_model.layers.6.layer_scalar", "BF16", &[1], 2)),
            ),
            case(
                "a missing tensor",
                "31b",
                &["tensor model.language_model.layers.3.mlp.up_proj.weight: missing"],
                |f| f.reweigh(|w| w.drop("language_model.layers.3.mlp.up_proj.weight")),
            ),
            case(
                "a renamed tensor",
                "e2b",
                &["tensor model.language_model.layers.0.layer_scalar: missing"],
                |f| f.reweigh(|w| w.get("language_model.layers.0.layer_scalar").name.push('s')),
            ),
            case("no per-layer table", "e2b", &["embed_tokens_per_layer.weight: missing"], |f| {
                f.reweigh(|w| w.drop("embed_tokens_per_layer.weight"))
            }),
            case("an untied head that is not there", "31b", &["tensor lm_head.weight: missing"], |f| {
                f.edit("config.json", |c| c["tie_word_embeddings"] = false.into())
            }),
        ],
    );
}

#[test]
fn configs() {
    all_refused(
        Seen::Opening,
        Q4_0,
        &[
            case(
                "an unknown architecture",
                "31b",
                &[
                    "config.json: architectures",
                    "Gemma4ForCausalLM, Gemma4ForConditionalGeneration, ",
                    "Gemma4UnifiedForConditionalGeneration, ",
                    "found LlamaForCausalLM",
                ],
                |f| f.edit("config.json", |c| c["architectures"] = json!(["LlamaForCausalLM"])),
            ),
            case(
                "a draft model",
                "31b",
                &["config.json: architectures", "found Gemma4AssistantForCausalLM", "draft model"],
                |f| f.edit("config.json", |c| c["architectures"] = json!(["Gemma4AssistantForCausalLM"])),
            ),
            case("no architecture", "31b", &["config.json: architectures", "found null"], |f| {
                f.edit("config.json", |c| {
                    c.as_object_mut().unwrap().remove("architectures");
                })
            }),
            case(
                "a size of its class's default",
                "31b",
                &["embed_tokens.weight", "wrong shape", "2304"],
                |f| {
                    f.edit("config.json", |c| {
                        c["text_config"].as_object_mut().unwrap().remove("hidden_size");
                    })
                },
            ),
            case(
                "a text for a number",
                "31b",
                &["config.json: num_attention_heads", "\"many\"", "an integer"],
                |f| f.configure("num_attention_heads", "many"),
            ),
            case("a model of no width", "31b", &["config.json: hidden_size", "at least 1, found 0"], |f| {
                f.configure("hidden_size", 0)
            }),
            case("too few layer types", "31b", &["config.json: layer_types", "expected 7, found 6"], |f| {
                f.configure("num_hidden_layers", 7)
            }),
            case("a kind of layer nobody knows", "31b", &["layer_types[0]", "found linear_attention"], |f| {
                f.edit("config.json", |c| c["text_config"]["layer_types"][0] = "linear_attention".into())
            }),
            case(
                "more shared layers than layers",
                "e2b",
                &["num_kv_shared_layers", "at most 8, found 9"],
                |f| f.configure("num_kv_shared_layers", 9),
            ),
            case(
                "nobody to share with",
                "e2b",
                &["config.json: num_kv_shared_layers", "no layer is left"],
                |f| f.configure("num_kv_shared_layers", 8),
            ),
            case("no config.json", "31b", &["config.json: no such file"], |f| f.remove("config.json")),
            case("a config that is no JSON", "31b", &["config.json:2:10: "], |f| {
                f.write("config.json", "{\n \"a\": tru }")
            }),
        ],
    );
}

#[test]
fn companion_files() {
    all_refused(
        Seen::Opening,
        Q4_0,
        &[
            case("no tokenizer.json", "31b", &["tokenizer.json: no such file"], |f| {
                f.remove("tokenizer.json")
            }),
            case(
                "another kind of tokenizer",
                "31b",
                &["tokenizer.json: model.type", "BPE, found Unigram"],
                |f| f.write("tokenizer.json", "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",-1.5]]}}"),
            ),
            case("a tokenizer that is no JSON", "31b", &["tokenizer.json:1:40: "], |f| {
                let text = fs::read(f.file("tokenizer.json")).unwrap();
                f.write("tokenizer.json", &text[..40]);
            }),
            case("a broken generation_config.json", "31b", &["generation_config.json:1:11: "], |f| {
                f.write("generation_config.json", "{\"top_k\": }")
            }),
            case("a broken tokenizer_config.json", "31b", &["tokenizer_config.json:2:1: "], |f| {
                f.write("tokenizer_config.json", "{\n]")
            }),
            case(
                "a template that is no text",
                "31b",
                &["tokenizer_config.json: chat_template", "found 5"],
                |f| f.edit("tokenizer_config.json", |t| t["chat_template"] = 5.into()),
            ),
            case("a template that is not UTF-8", "31b", &["chat_template.jinja:2: not UTF-8"], |f| {
                f.write("chat_template.jinja", b"a\nb\xff")
            }),
            case("broken front matter", "31b", &["README.md:3:", "front matter"], |f| {
                f.write("README.md", "---\nlicense: mit\ntags: [a\n---\n")
            }),
            case("endless front matter", "31b", &["README.md:1: ", "no end"], |f| {
                f.write("README.md", "---\nlicense: mit\n")
            }),
            case(
                "a number too large",
                "31b",
                &["config.json: max_position_embeddings", "4294967295", "found 4294967296"],
                |f| f.configure("max_position_embeddings", 1u64 << 32),
            ),
        ],
    );
    all_refused(
        Seen::Planning,
        Q4_0,
        &[case(
            "a text for a number",
            "31b",
            &["generation_config.json: top_k", "an integer", "found \"many\""],
            |f| f.edit("generation_config.json", |g| g["top_k"] = "many".into()),
        )],
    );
}

#[test]
fn what_is_no_checkpoint_folder() {
    let folder = Folder::of("31b");
    let [empty, absent] = ["empty", "absent"].map(|name| folder.home().join(name));
    fs::create_dir(&empty).unwrap();
    for (model, says) in [
        (folder.file("config.json"), ["config.json", "a file"]),
        (folder.file(WEIGHTS), ["the folder of a checkpoint", "a file"]),
        (empty, ["empty/config.json", "no such file"]),
        (absent, ["absent", "No such file"]),
    ] {
        let attempt = convert(&model, &folder.out(), Q4_0);
        let message = attempt.refusal(3);
        assert!(says.iter().all(|part| message.contains(part)), "{message}");
        run(["inspect", model.to_str().unwrap()]).refusal(3);
        assert_eq!(names(&folder.out()), [""; 0]);
    }
}

#[test]
fn the_document_of_an_error_is_all_of_stdout() {
    let folder = Folder::of("31b");
    folder.reweigh(|w| w.get(Q_PROJ).shape = vec![128, 512]);
    let path = folder.path();
    let output = command(["--json", "inspect", path.to_str().unwrap()]).output().unwrap();
    let found = Run::of(output).json();
    let place = format!("{}: tensor model.language_model.{Q_PROJ}", folder.file(WEIGHTS).display());
    let expected = json!({ "error": {
        "fault": "malformed", "place": place, "problem": "wrong shape for the config",
        "expected": "[256, 256]", "found": "[128, 512]", "help": null, "exit_code": 3,
    }, "schema": 1 });
    assert_eq!(found, expected);
}
