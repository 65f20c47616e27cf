//! Checkpoints as people have them: saved from inside a wrapper, with experts one by one, padded, in the hub's cache … Each
//! gives the same bytes as the form in which transformers saves the model, and a note says what was done. What stays refused
//! is in `inputs_refused.rs`. A new form is a new row.

mod support;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::{Folder, INDEX, Tensor, WEIGHTS, convert, fixture, recipe, run, sha256};

const TEXT: &str = "model.language_model.";

/// One form of a checkpoint.
struct Form {
    what: &'static str,
    bases: &'static [&'static str],
    /// All of this is in the notes.
    says: &'static [&'static str],
    make: fn(&Folder),
}

const ALL: &[&str] = &["e2b", "26b-a4b", "31b"];
const MOE: &[&str] = &["26b-a4b"];

fn form(
    what: &'static str,
    bases: &'static [&'static str],
    says: &'static [&'static str],
    make: fn(&Folder),
) -> Form {
    Form { what, bases, says, make }
}

/// What is made of the fixtures themselves.
#[derive(Default)]
struct Clean {
    made: HashMap<&'static str, Made>,
}

#[derive(Clone, Debug, PartialEq)]
struct Made {
    gguf: String,
    safetensors: String,
    tokens: Value,
}

fn made(model: &Path, out: &Path) -> (Made, String) {
    let gguf = convert(model, &out.join("gguf"), &["--type", "q4_0"]).good();
    recipe(model, &out.join("safetensors"), "bf16-safetensors", &[]).good();
    let generate = [
        "--json",
        "generate",
        model.to_str().unwrap(),
        "--prompt",
        "The sea",
        "-n",
        "4",
        "--temperature",
        "0",
    ];
    let generate = run(generate).good();
    let made = Made {
        gguf: sha256(&out.join("gguf/model-Q4_0.gguf")),
        safetensors: sha256(&out.join("safetensors").join(WEIGHTS)),
        tokens: generate.json()["tokens"].take(),
    };
    for note in gguf.stderr.lines().filter(|line| line.starts_with("note: ") && !line.contains("K/V tensors"))
    {
        assert!(generate.stderr.contains(note), "generate does not say {note}: {}", generate.stderr);
    }
    (made, gguf.stderr)
}

impl Clean {
    fn of(&mut self, base: &'static str) -> Made {
        let make = || {
            let home = tempfile::tempdir().unwrap();
            let (made, said) = made(&fixture(base), home.path());
            assert!(!said.contains("note: "), "{base}: {said}");
            assert_eq!(made.safetensors, sha256(&fixture(base).join(WEIGHTS)));
            made
        };
        self.made.entry(base).or_insert_with(make).clone()
    }
}

fn all_the_same(forms: &[Form]) {
    let mut clean = Clean::default();
    for form in forms {
        for base in form.bases {
            #[allow(clippy::print_stdout, reason = "shown only when the test fails: what it was at")]
            {
                println!("{}, {base}", form.what);
            }
            let folder = Folder::of(base);
            (form.make)(&folder);
            same(&folder, &clean.of(base), form.says);
        }
    }
}

/// What is made of `folder` is `clean`, and every command says what was done.
fn same(folder: &Folder, clean: &Made, says: &[&str]) {
    let path = folder.path();
    let model = path.to_str().unwrap();
    let (made, said) = made(&path, folder.home());
    let inspected = run(["--json", "inspect", model]).good().json();
    let planned = run(["--json", "plan", model, "--type", "q4_0"]).good().json();
    for part in says {
        assert!(said.contains(part), "convert: {part:?} is not in {said}");
        for json in [&inspected["notes"], &planned["notes"]] {
            assert!(json.to_string().contains(part), "{part:?} is not in {json}");
        }
    }
    assert_eq!(&made, clean);
    let text = run(["inspect", model]).good().stdout;
    assert_eq!(text.matches("note: ").count(), inspected["notes"].as_array().unwrap().len());
}

#[test]
fn a_quantization_config_left_over_from_training() {
    let rest = [
        (
            "bitsandbytes",
            json!({ "quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4" }),
        ),
        ("gptq", json!({ "quant_method": "gptq", "bits": 4, "group_size": 128 })),
        ("awq", json!({ "quant_method": "awq", "bits": 4 })),
        ("fp8", json!({ "quant_method": "fp8", "weight_block_size": [128, 128] })),
        (
            "compressed-tensors",
            json!({ "quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {} }),
        ),
        (
            "compressed-tensors",
            json!({ "quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": { "group_0": {
                "weights": { "type": "float", "num_bits": 8, "strategy": "channel", "symmetric": true } } } }),
        ),
        ("torchao", json!({ "quant_method": "torchao", "quant_type": "int4_weight_only" })),
        ("hqq", json!({ "quant_method": "hqq" })),
        ("quanto", json!({ "quant_method": "quanto", "weights": "int8" })),
        ("modelopt", json!({ "quant_method": "modelopt", "quant_algo": "NVFP4" })),
        ("left over", json!({ "format": "sfp8", "rule": "gemma.cpp" })),
    ];
    let mut clean = Clean::default();
    let clean = clean.of("31b");
    for (method, config) in rest {
        let folder = Folder::of("31b");
        folder.edit("config.json", |c| c["quantization_config"] = config);
        let home = folder.home().join("once");
        let run = convert(&folder.path(), &home, &["--type", "q4_0"]).good();
        assert!(run.stderr.contains("left over") && run.stderr.contains(method), "{method}: {}", run.stderr);
        assert_eq!(sha256(&home.join("model-Q4_0.gguf")), clean.gguf, "{method}");
    }
    all_the_same(&[
        form("of MLX", &["31b"], &["config.json has a quantization", "left over"], |f| {
            f.edit("config.json", |c| c["quantization"] = json!({ "bits": 4, "group_size": 64 }))
        }),
        form("in the text_config", ALL, &["quantization_config (bitsandbytes)", "left over"], |f| {
            f.configure("quantization_config", json!({ "quant_method": "bitsandbytes" }))
        }),
    ]);
}

/// The config that goes with the weights does not speak of quantisation any more.
#[test]
fn what_was_left_over_is_not_handed_on() {
    let folder = Folder::of("31b");
    folder.edit("config.json", |c| c["quantization_config"] = json!({ "quant_method": "bitsandbytes" }));
    recipe(&folder.path(), &folder.out(), "bf16-safetensors", &[]).good();
    assert_eq!(
        support::json(&folder.out().join("config.json")),
        support::json(&fixture("31b").join("config.json"))
    );
}

#[test]
fn files() {
    all_the_same(&[
        form("complete shards without an index", ALL, &[INDEX, "all 3 shards are there"], |f| {
            f.shard_in_order(3);
            f.remove(INDEX);
        }),
        form("one shard of one without an index", &["31b"], &[INDEX, "all 1 shards"], |f| {
            fs::rename(f.file(WEIGHTS), f.file("model-00001-of-00001.safetensors")).unwrap();
        }),
        form("a file of another name", ALL, &["weights.safetensors", "the only safetensors file"], |f| {
            fs::rename(f.file(WEIGHTS), f.file("weights.safetensors")).unwrap();
        }),
        form(
            "a file of another name beside an adapter",
            &["31b"],
            &["merged.safetensors", "adapter_model.safetensors", "not merged"],
            |f| {
                fs::rename(f.file(WEIGHTS), f.file("merged.safetensors")).unwrap();
                f.write("adapter_model.safetensors", "no model");
            },
        ),
        form("a repository in the hub's cache", ALL, &["hub's cache", "0123abcd", "main"], |f| {
            in_cache(f, true)
        }),
        form(
            "a repository in the hub's cache without refs",
            &["31b"],
            &["hub's cache", "the only one"],
            |f| in_cache(f, false),
        ),
        form("the cache of the hub with one model", &["31b"], &["models--x--y", "hub's cache"], |f| {
            in_cache(f, true);
            let (inner, outer) = (f.home().join("moved"), f.path());
            fs::rename(&outer, &inner).unwrap();
            fs::create_dir(&outer).unwrap();
            fs::rename(inner, outer.join("models--x--y")).unwrap();
        }),
        form("a trainer's output", ALL, &["has no weights of its own: checkpoint-500"], |f| {
            into(f, "checkpoint-500");
            f.write("trainer_state.json", "{}");
        }),
        form("a trainer's output with a config", &["31b"], &["checkpoint-7 in it is read"], |f| {
            into(f, "checkpoint-7");
            fs::copy(fixture("31b").join("config.json"), f.file("config.json")).unwrap();
        }),
        form(
            "weights of others beside the model",
            ALL,
            &[
                "files beside the model that are not read",
                "adapter_model.safetensors",
                "consolidated.00.pth",
                "model-00009-of-00009.safetensors",
                "optimizer.pt",
                "pytorch_model.bin",
                "model.safetensors.part",
            ],
            |f| {
                for name in [
                    "adapter_model.safetensors",
                    "consolidated.00.pth",
                    "model-00009-of-00009.safetensors",
                    "optimizer.pt",
                    "pytorch_model.bin",
                    "model.safetensors.part",
                ] {
                    f.write(name, "not read");
                }
            },
        ),
        form(
            "another template in tokenizer_config.json",
            ALL,
            &["chat_template.jinja counts", "differ"],
            |f| f.edit("tokenizer_config.json", |t| t["chat_template"] = "OLD {{ messages }}".into()),
        ),
        form("another template in a list", &["31b"], &["chat_template.jinja counts"], |f| {
            f.edit("tokenizer_config.json", |t| {
                t["chat_template"] = json!([{ "name": "default", "template": "OLD" }])
            })
        }),
        form("templates in a folder that nobody reads", &["31b"], &["chat_templates/tools.jinja"], |f| {
            fs::create_dir(f.file("chat_templates")).unwrap();
            f.write("chat_templates/tools.jinja", "x");
        }),
    ]);
    let mut clean = Clean::default();
    let folder = Folder::of("31b");
    folder.edit("tokenizer_config.json", |t| {
        t["chat_template"] = fs::read_to_string(fixture("31b").join("chat_template.jinja")).unwrap().into()
    });
    let (made, said) = made(&folder.path(), folder.home());
    assert!(!said.contains("note: "), "the same template twice is nothing to say: {said}");
    assert_eq!(made, clean.of("31b"));
}

/// Moves all files of the folder into one below it.
fn into(folder: &Folder, below: &str) -> PathBuf {
    let inner = folder.home().join("moved");
    fs::rename(folder.path(), &inner).unwrap();
    let to = folder.file(below);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::rename(inner, &to).unwrap();
    to
}

/// Makes the folder a repository in the hub's cache: files are links to blobs.
fn in_cache(folder: &Folder, refs: bool) {
    let snapshot = into(folder, "snapshots/0123abcd");
    fs::create_dir(folder.file("blobs")).unwrap();
    for (number, name) in support::names(&snapshot).into_iter().enumerate() {
        let blob = format!("{number:040x}");
        fs::rename(snapshot.join(&name), folder.file("blobs").join(&blob)).unwrap();
        symlink(format!("../../blobs/{blob}"), snapshot.join(&name)).unwrap();
    }
    if refs {
        fs::create_dir(folder.file("refs")).unwrap();
        folder.write("refs/main", "0123abcd");
        fs::create_dir(folder.file("snapshots/00000000")).unwrap();
    }
}

fn rename(folder: &Folder, to: fn(&str) -> String) {
    folder.reweigh(|w| w.tensors.iter_mut().for_each(|tensor| tensor.name = to(&tensor.name)));
}

#[test]
fn names_of_wrappers() {
    const SAYS: &[&str] = &["tensors have names as a wrapper or another program saves them"];
    all_the_same(&[
        form("PEFT's, of the text model", ALL, &["base_model.model.", "as a wrapper"], |f| {
            rename(f, |name| match name.starts_with(TEXT) {
                true => format!("base_model.model.{name}"),
                false => name.to_owned(),
            })
        }),
        form("DataParallel's", ALL, SAYS, |f| rename(f, |name| format!("module.{name}"))),
        form("torch.compile's", &["e2b"], SAYS, |f| rename(f, |name| format!("_orig_mod.{name}"))),
        form("several", ALL, SAYS, |f| rename(f, |name| format!("_orig_mod.module.base_model.model.{name}"))),
        form("doubled", &["e2b", "31b"], SAYS, |f| rename(f, |name| format!("model.{name}"))),
        form("FSDP's, within", &["26b-a4b"], SAYS, |f| {
            rename(f, |name| {
                name.replace(".layers.", "._fsdp_wrapped_module.layers.")
                    .replace(".mlp.", "._checkpoint_wrapped_module.mlp.")
            })
        }),
        form("one layer alone", &["31b"], &["_orig_mod"], |f| {
            rename(f, |name| name.replace("layers.3.", "layers.3._orig_mod."))
        }),
        form("of older vision models", ALL, SAYS, |f| {
            rename(f, |name| match name.strip_prefix(TEXT) {
                Some(rest) => format!("language_model.model.{rest}"),
                None => name.strip_prefix("model.").unwrap().to_owned(),
            })
        }),
        form("without the outer model", ALL, SAYS, |f| {
            rename(f, |name| name.strip_prefix("model.").unwrap().to_owned())
        }),
        form("in shards", &["31b"], SAYS, |f| {
            rename(f, |name| format!("module.{name}"));
            f.shard_in_order(2);
        }),
    ]);
}

/// Splits the fused experts of a layer: `(expert, gate, up)` or `(expert, down)`, each a matrix.
fn split_experts(folder: &Folder, named: impl Fn(&str, usize, &str) -> String) {
    folder.reweigh(|w| {
        let mut apart = Vec::new();
        for tensor in std::mem::take(&mut w.tensors) {
            let Some((layer, fused)) = tensor.name.rsplit_once(".experts.") else {
                apart.push(tensor);
                continue;
            };
            let (experts, rows, cols) = (tensor.shape[0] as usize, tensor.shape[1], tensor.shape[2]);
            let size = tensor.data.len() / experts;
            for expert in 0..experts {
                let data = &tensor.data[expert * size..][..size];
                let mut add = |part: &str, rows: u64, data: &[u8]| {
                    let name = named(layer, expert, part);
                    apart.push(Tensor {
                        name,
                        dtype: tensor.dtype.clone(),
                        shape: vec![rows, cols],
                        data: data.to_vec(),
                    });
                };
                if fused == "down_proj" {
                    add("down", rows, data);
                } else {
                    add("gate", rows / 2, &data[..size / 2]);
                    add("up", rows / 2, &data[size / 2..]);
                }
            }
        }
        w.tensors = apart;
    });
}

#[test]
fn experts_apart() {
    const SAYS: &[&str] = &["tensors of experts are stored apart"];
    fn one_by_one(f: &Folder) {
        split_experts(f, |layer, expert, part| format!("{layer}.experts.{expert}.{part}_proj.weight"));
    }
    all_the_same(&[
        form("one by one", MOE, SAYS, one_by_one),
        form("as Mixtral names them", MOE, SAYS, |f| {
            split_experts(f, |layer, expert, part| {
                let part =
                    ["w1", "w2", "w3"][["gate", "down", "up"].iter().position(|p| *p == part).unwrap()];
                format!("{layer}.block_sparse_moe.experts.{expert}.{part}.weight")
            })
        }),
        form("by part", MOE, SAYS, |f| {
            split_experts(f, |layer, expert, part| format!("{layer}.mlp.experts.{part}_proj.{expert}"))
        }),
        form("in a wrapper, backwards", MOE, &["stored apart", "as a wrapper"], |f| {
            one_by_one(f);
            rename(f, |name| format!("module.{name}"));
            f.reweigh(|w| w.tensors.reverse());
        }),
        form("gate and up apart, all experts in one", MOE, SAYS, |f| {
            f.reweigh(|w| {
                let mut apart = Vec::new();
                for tensor in std::mem::take(&mut w.tensors) {
                    let Some(layer) = tensor.name.strip_suffix(".experts.gate_up_proj") else {
                        let name =
                            tensor.name.replace(".experts.down_proj", ".experts.switch_glu.down_proj.weight");
                        apart.push(Tensor { name, ..tensor });
                        continue;
                    };
                    let (experts, rows, cols) = (tensor.shape[0], tensor.shape[1] / 2, tensor.shape[2]);
                    let half = tensor.data.len() / experts as usize / 2;
                    for (part, skip) in [("gate", 0), ("up", 1)] {
                        let data =
                            tensor.data.chunks_exact(half).skip(skip).step_by(2).flatten().copied().collect();
                        let name = format!("{layer}.experts.switch_glu.{part}_proj.weight");
                        apart.push(Tensor {
                            name,
                            dtype: tensor.dtype.clone(),
                            shape: vec![experts, rows, cols],
                            data,
                        });
                    }
                }
                w.tensors = apart;
            })
        }),
        form("fused, with .weight", MOE, SAYS, |f| {
            rename(
                f,
                |name| if name.contains(".experts.") { format!("{name}.weight") } else { name.to_owned() },
            )
        }),
    ]);
}

/// The experts of a layer may lie in several shards.
#[test]
fn experts_dealt_to_shards() {
    let folder = Folder::of("26b-a4b");
    split_experts(&folder, |layer, expert, part| format!("{layer}.experts.{expert}.{part}_proj.weight"));
    folder.shard(3, |_| {});
    convert(&folder.path(), &folder.out(), &["--type", "q4_0"]).good();
    assert_eq!(sha256(&folder.out().join("model-Q4_0.gguf")), Clean::default().of("26b-a4b").gguf);
}

/// Every other way to read a checkpoint sees the joined tensors too.
#[test]
fn experts_apart_are_verified_calibrated_and_rounded_by_importance() {
    let (apart, home) = (Folder::of("26b-a4b"), tempfile::tempdir().unwrap());
    split_experts(&apart, |layer, expert, part| format!("{layer}.experts.{expert}.{part}_proj.weight"));
    let text = home.path().join("text.txt");
    fs::write(&text, &fs::read_to_string(support::text("calib.txt")).unwrap()[..3000]).unwrap();
    let mut digests = Vec::new();
    for (name, model) in [("clean", fixture("26b-a4b")), ("apart", apart.path())] {
        let importance = home.path().join(format!("{name}.gguf"));
        run([
            "calibrate",
            model.to_str().unwrap(),
            "--text",
            text.to_str().unwrap(),
            "-o",
            importance.to_str().unwrap(),
        ])
        .good();
        let out = home.path().join(name);
        let args = ["--type", "q4_k_m", "--importance", importance.to_str().unwrap()];
        let args = [&args[..], &["--set", "metadata.name=\"x\""]].concat();
        // the name of the file of importance is in the keys
        let shared = home.path().join("importance.gguf");
        fs::copy(&importance, &shared).unwrap();
        let args: Vec<_> = args
            .iter()
            .map(|arg| if *arg == importance.to_str().unwrap() { shared.to_str().unwrap() } else { arg })
            .collect();
        convert(&model, &out, &args).good();
        let gguf = out.join("model-Q4_K_M.gguf");
        run(["verify", gguf.to_str().unwrap(), "--against", apart.path().to_str().unwrap()]).good();
        digests.push((sha256(&importance), sha256(&gguf)));
        for recipe_name in ["fp8", "sfp8"] {
            let folder = out.join(recipe_name);
            recipe(&model, &folder, recipe_name, &[]).good();
            digests.push((recipe_name.to_owned(), sha256(&folder.join(WEIGHTS))));
            run(["verify", folder.to_str().unwrap(), "--against", apart.path().to_str().unwrap()]).good();
        }
    }
    assert_eq!(digests[..3], digests[3..]);
}

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
            &["lm_head.weight is there", "read as the embedding"],
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
            w.tensors.push(Tensor { name: "lm_head.weight".into(), dtype: "BF16".into(), shape, data });
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
        let run = convert(&folder.path(), &folder.out(), &["--type", "q4_0"]).good();
        (sha256(&folder.out().join("model-Q4_0.gguf")), run.stderr)
    };
    let (clean, said) = of("---\nlicense: mit\n---\n");
    assert!(!said.contains("note: "), "{said}");
    for path in [
        "/home/x/gemma",
        "./out",
        "../out",
        "~/gemma",
        "'C:\\models\\gemma'",
        "out/checkpoint-500",
        "[/home/x, ./y]",
    ] {
        let (bytes, said) = of(&format!("---\nlicense: mit\nbase_model: {path}\n---\n"));
        assert!(said.contains("a path on a machine"), "{path}: {said}");
        assert_eq!(bytes, clean, "{path}");
    }
    let (one, _) = of("---\nlicense: mit\nbase_model: google/gemma-4-31B\n---\n");
    let (two, said) = of("---\nlicense: mit\nbase_model: [/home/x, google/gemma-4-31B]\n---\n");
    assert_eq!(one, two);
    assert!(said.contains("/home/x is a path"), "{said}");
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
    convert(&folder.path(), &folder.out(), &["--type", "q4_0"]).good();
    let inspected =
        run(["--json", "inspect", folder.out().join("model-Q4_0.gguf").to_str().unwrap()]).good().json();
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

/// `verify` of a folder names what nobody reads in it, and fails it for names that transformers does not know.
#[test]
fn verify_tells_of_the_form_of_a_folder() {
    let base = fixture("31b");
    let folder = Folder::of("31b");
    let verify = |folder: &Folder| {
        run([
            "verify",
            folder.path().to_str().unwrap(),
            "--against",
            base.to_str().unwrap(),
            "--recipe",
            "bf16-safetensors",
        ])
    };
    folder.write("adapter_model.safetensors", "x");
    let run = verify(&folder).good();
    assert!(run.stdout.contains("adapter_model.safetensors"), "{}", run.stdout);
    rename(&folder, |name| format!("module.{name}"));
    let run = verify(&folder);
    assert_eq!(run.code, Some(1), "{}", run.stdout);
    assert!(run.stdout.contains("as a wrapper"), "{}", run.stdout);
}
