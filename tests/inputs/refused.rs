//! What looks like a checkpoint and cannot be converted: the message says what it is and what to do. Damage to a good
//! checkpoint is in `bad_input.rs`, forms that are read are in the files beside this one.

use std::fs;

use crate::support::refused::{Seen, all_refused, case};
use crate::support::{self, Folder, INDEX, WEIGHTS, run};
use serde_json::json;

const Q4_0: &[&str] = &["--type", "q4_0"];
const Q_PROJ: &str = "model.language_model.layers.0.self_attn.q_proj";

fn empty(f: &Folder) {
    fs::remove_dir_all(f.path()).unwrap();
    fs::create_dir(f.path()).unwrap();
}

#[test]
fn what_is_no_model() {
    all_refused(
        Seen::Opening,
        Q4_0,
        &[
            case(
                "an adapter beside a config",
                "31b",
                &["a LoRA adapter", "adapter_model.safetensors"],
                |f| {
                    f.remove(WEIGHTS);
                    f.write("adapter_model.safetensors", "x");
                },
            ),
            case(
                "an adapter within the weights",
                "31b",
                &["lora_A", "not merged", "merge_and_unload"],
                |f| {
                    f.reweigh(|w| {
                        w.add(
                            &format!("base_model.model.{Q_PROJ}.lora_A.default.weight"),
                            "BF16",
                            &[4, 256],
                            2048,
                        )
                    })
                },
            ),
            case("a pickle", "31b", &["PyTorch pickles", "pytorch_model.bin", "save_pretrained"], |f| {
                f.remove(WEIGHTS);
                f.write("pytorch_model.bin", "PK");
            }),
            case("a pickle of Meta's kind", "31b", &["PyTorch pickles", "consolidated.00.pth"], |f| {
                f.remove(WEIGHTS);
                f.write("consolidated.00.pth", "PK");
            }),
            case("ONNX", "31b", &["an ONNX model", "model.onnx"], |f| {
                f.remove(WEIGHTS);
                f.write("model.onnx", "x");
            }),
            case("Flax", "31b", &["Flax", "flax_model.msgpack"], |f| {
                f.remove(WEIGHTS);
                f.write("flax_model.msgpack", "x");
            }),
            case("TensorFlow", "31b", &["TensorFlow", "tf_model.h5"], |f| {
                f.remove(WEIGHTS);
                f.write("tf_model.h5", "x");
            }),
            case("shards of a training", "31b", &["DeepSpeed", "global_step100", "zero_to_fp32"], |f| {
                f.remove(WEIGHTS);
                fs::create_dir(f.file("global_step100")).unwrap();
            }),
            case("a GGUF", "31b", &["already GGUF", "model.gguf"], |f| {
                f.remove(WEIGHTS);
                f.write("model.gguf", "GGUF");
            }),
            case("Gemma 3", "31b", &["architectures", "Gemma3ForConditionalGeneration", "Gemma 3"], |f| {
                f.edit("config.json", |c| c["architectures"] = json!(["Gemma3ForConditionalGeneration"]))
            }),
        ],
    );
}

#[test]
fn downloads_that_are_not_finished() {
    const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
    all_refused(
        Seen::Opening,
        Q4_0,
        &[
            case("no weights but a part", "31b", &["not finished", "model.safetensors.part"], |f| {
                f.remove(WEIGHTS);
                f.write("model.safetensors.part", "x");
            }),
            case("aria2's control file", "31b", &["not finished", "model.safetensors.aria2"], |f| {
                f.write("model.safetensors.aria2", "x")
            }),
            case(
                "a shard and its part",
                "31b",
                &["missing: model-00002-of-00002", "model-00002-of-00002.safetensors.incomplete"],
                |f| {
                    f.shard_in_order(2);
                    let name = support::shard_name(1, 2);
                    fs::rename(f.file(&name), f.file(format!("{name}.incomplete"))).unwrap();
                },
            ),
            case(
                "shards that are not all there, without an index",
                "31b",
                &["shards are missing: model-00001-of-00003.safetensors, model-00003-of-00003.safetensors"],
                |f| {
                    f.shard_in_order(3);
                    f.remove(INDEX);
                    f.remove(&support::shard_name(0, 3));
                    f.remove(&support::shard_name(2, 3));
                },
            ),
            case(
                "a pointer for the tokenizer",
                "31b",
                &["tokenizer.json", "git-lfs pointer", "git lfs pull"],
                |f| f.write("tokenizer.json", POINTER),
            ),
            case(
                "a pointer for the config",
                "31b",
                &["config.json", "git-lfs pointer", "git lfs pull"],
                |f| f.write("config.json", POINTER),
            ),
            case("a pointer for the index", "31b", &[INDEX, "git-lfs pointer"], |f| {
                f.shard_in_order(2);
                f.write(INDEX, POINTER);
            }),
            case("a web page for the config", "31b", &["config.json", "a web page"], |f| {
                f.write("config.json", "<!DOCTYPE html><html></html>")
            }),
        ],
    );
}

#[test]
fn several_models() {
    all_refused(
        Seen::Opening,
        Q4_0,
        &[
            case("two files", "31b", &["several safetensors files", "a.safetensors, b.safetensors"], |f| {
                fs::copy(f.file(WEIGHTS), f.file("a.safetensors")).unwrap();
                fs::rename(f.file(WEIGHTS), f.file("b.safetensors")).unwrap();
            }),
            case(
                "two states of a training",
                "31b",
                &["checkpoint-500, checkpoint-1000", "Give the path of one", "checkpoint-1000\n"],
                |f| {
                    for name in ["checkpoint-500", "checkpoint-1000"] {
                        fs::create_dir(f.file(name)).unwrap();
                        fs::copy(f.file(WEIGHTS), f.file(name).join(WEIGHTS)).unwrap();
                    }
                    f.remove(WEIGHTS);
                },
            ),
            case("two snapshots", "31b", &["several snapshots", "aaaa, bbbb"], |f| {
                empty(f);
                for name in ["aaaa", "bbbb"] {
                    fs::create_dir_all(f.file("snapshots").join(name)).unwrap();
                }
            }),
            case("two models in the cache", "31b", &["several models", "models--a--b, models--c--d"], |f| {
                empty(f);
                for name in ["models--a--b", "models--c--d"] {
                    fs::create_dir(f.file(name)).unwrap();
                }
            }),
            case(
                "a model below",
                "31b",
                &["config.json", "no such file", "give the folder of the model", "final"],
                |f| {
                    let inner = f.home().join("final");
                    fs::rename(f.path(), &inner).unwrap();
                    fs::create_dir(f.path()).unwrap();
                    fs::rename(inner, f.file("final")).unwrap();
                },
            ),
            case(
                "one tensor under two names",
                "31b",
                &["module.model.language_model.norm.weight", "are both"],
                |f| f.reweigh(|w| w.add("module.model.language_model.norm.weight", "BF16", &[256], 512)),
            ),
            case("experts twice", "26b-a4b", &["experts.0.down_proj.weight", "hold the same experts"], |f| {
                f.reweigh(|w| {
                    w.add(
                        "model.language_model.layers.0.experts.0.down_proj.weight",
                        "BF16",
                        &[256, 128],
                        65536,
                    )
                })
            }),
        ],
    );
}

/// Adds tensors beside a projection, whose own bytes become those of codes.
fn quantise(f: &Folder, dtype: &str, ends: &[&str], config: serde_json::Value) {
    f.reweigh(|w| {
        let weight = w.get(&format!("{Q_PROJ}.weight"));
        weight.dtype = dtype.to_owned();
        weight.shape = vec![weight.data.len() as u64];
        for end in ends {
            w.add(&format!("{Q_PROJ}{end}"), "U8", &[4], 4);
        }
    });
    if !config.is_null() {
        f.edit("config.json", |c| c["quantization_config"] = config);
    }
}

#[test]
fn quantised_weights() {
    macro_rules! says {
        ($name:literal) => {
            &["already quantised", "q_proj", "BF16 checkpoint", $name]
        };
    }
    all_refused(
        Seen::Opening,
        Q4_0,
        &[
            case("HQQ", "31b", says!("HQQ"), |f| {
                quantise(f, "U8", &[".W_q"], json!({ "quant_method": "hqq" }))
            }),
            case("quanto", "31b", says!("quanto"), |f| {
                quantise(f, "I8", &[".weight._data", ".weight._scale"], json!({ "quant_method": "quanto" }))
            }),
            case("AutoRound", "31b", says!("AutoRound"), |f| {
                quantise(f, "U8", &[".qweight", ".qzeros"], json!({ "quant_method": "auto-round" }))
            }),
            case("FP8 of FBGEMM", "31b", says!("FBGEMM"), |f| {
                quantise(f, "F8_E4M3", &[".weight_scale"], json!({ "quant_method": "fbgemm_fp8" }))
            }),
            case("MXFP4 of transformers", "31b", says!("MXFP4"), |f| {
                quantise(f, "U8", &["_blocks", "_scales"], json!({ "quant_method": "mxfp4" }))
            }),
            case("AQLM", "31b", says!("AQLM"), |f| quantise(f, "I8", &[], json!({ "quant_method": "aqlm" }))),
            case("EETQ", "31b", says!("EETQ"), |f| quantise(f, "I8", &[], json!({ "quant_method": "eetq" }))),
            case("torchao", "31b", says!("torchao"), |f| {
                quantise(f, "I8", &[], json!({ "quant_method": "torchao" }))
            }),
            case("a way nobody knows", "31b", says!("shrinkray"), |f| {
                quantise(f, "I8", &[], json!({ "quant_method": "shrinkray" }))
            }),
        ],
    );
}

#[test]
fn tables_that_do_not_fit() {
    fn add_token(f: &Folder) {
        f.edit("tokenizer.json", |t| {
            t["added_tokens"]
                .as_array_mut()
                .unwrap()
                .push(json!({ "id": 2048, "content": "<extra_0>", "special": true }))
        });
    }
    fn grow(f: &Folder, table: &str) {
        f.reweigh(|w| {
            let table = w.get(table);
            let row = table.data.len() / 2048;
            table.data.resize(2049 * row, 0);
            table.shape[0] = 2049;
        });
    }
    all_refused(
        Seen::Opening,
        Q4_0,
        &[
            case(
                "a per-layer table that did not grow",
                "e2b",
                &["embed_tokens_per_layer.weight", "fewer rows", "expected 2049 rows", "found 2048 rows"],
                |f| {
                    add_token(f);
                    grow(f, ".embed_tokens.weight");
                    f.configure("vocab_size", 2049);
                },
            ),
            case(
                "an embedding that did not grow",
                "31b",
                &[
                    "embed_tokens.weight",
                    "fewer rows",
                    "expected 2049 rows",
                    "found 2048 rows",
                    "tokenizer.json",
                ],
                add_token,
            ),
            case(
                "a token that is missing in the middle",
                "31b",
                &["tokenizer.json", "none has the id 2040"],
                |f| {
                    f.edit("tokenizer.json", |t| {
                        t["added_tokens"].as_array_mut().unwrap().retain(|token| token["id"] != 2040);
                        t["model"]["vocab"].as_object_mut().unwrap().retain(|_, id| *id != json!(2040));
                    })
                },
            ),
            case(
                "an expert that is missing",
                "26b-a4b",
                &["layers.1.experts.3.up_proj.weight", "missing", "experts.0.gate_proj.weight"],
                |f| {
                    f.reweigh(|w| {
                        for expert in (0..8).filter(|expert| *expert != 3) {
                            let name =
                                format!("model.language_model.layers.1.experts.{expert}.up_proj.weight");
                            w.add(&name, "BF16", &[128, 256], 65536);
                        }
                        for expert in 0..8 {
                            let name =
                                format!("model.language_model.layers.1.experts.{expert}.gate_proj.weight");
                            w.add(&name, "BF16", &[128, 256], 65536);
                        }
                        w.drop("layers.1.experts.gate_up_proj");
                    })
                },
            ),
            case(
                "a name that is a little different",
                "31b",
                &[
                    "layers.2.mlp.up_proj.weight: missing",
                    "Unknown tensors in the checkpoint: model.language_model.layers.2.mlp.up_projection.weight",
                ],
                |f| {
                    f.reweigh(|w| {
                        let name = "model.language_model.layers.2.mlp.up_projection.weight";
                        w.get("language_model.layers.2.mlp.up_proj.weight").name = name.to_owned();
                    })
                },
            ),
        ],
    );
}

/// The file itself, given instead of its folder.
#[test]
fn a_file_is_no_folder() {
    let folder = Folder::of("31b");
    let out = folder.out();
    for (name, says) in [(WEIGHTS, "safetensors"), ("config.json", "a file")] {
        let file = folder.file(name);
        let attempt = support::convert(&file, &out, Q4_0);
        assert!(attempt.refusal(3).contains(says), "{}", attempt.stderr);
    }
    run(["inspect", folder.path().to_str().unwrap()]).good();
}
