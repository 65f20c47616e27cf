//! mmproj files: whole files against llama.cpp's converter, in one run with a text model, and what is refused.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Folder, Weights, convert, names, run, sha256};

/// checkpoint → type → (bytes, sha256)
fn golden() -> BTreeMap<String, BTreeMap<String, (u64, String)>> {
    let text = String::from_utf8(testkit::read("golden/multimodal/mmproj.tsv")).unwrap();
    let mut table: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let [checkpoint, outtype, bytes, sha256] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let entry = (bytes.parse().unwrap(), sha256.to_owned());
        table.entry(checkpoint.to_owned()).or_default().insert(outtype.to_owned(), entry);
    }
    table
}

/// A copy of a tiny checkpoint with the tensors of an overlay in place of its own.
pub(crate) fn with_overlay(name: &str) -> Folder {
    let overlay =
        Weights::parse(&testkit::read(format!("golden/multimodal/{name}-stress.overlay.safetensors")));
    let folder = Folder::of(name);
    folder.reweigh(|weights| {
        for tensor in overlay.tensors {
            weights.get(&tensor.name).data = tensor.data;
        }
    });
    folder
}

pub(crate) fn converted(checkpoint: &Path, out: &Path, more: &[&str]) -> Value {
    convert(checkpoint, out, &[&["--json"], more].concat()).good().json()
}

/// Bytes and SHA-256 by the name of the recipe.
fn outputs(document: &Value) -> BTreeMap<String, (u64, String)> {
    let artifacts = document["artifacts"].as_array().unwrap().iter();
    let output = |artifact: &Value| {
        let file = &artifact["outputs"][0];
        let entry = (file["bytes"].as_u64().unwrap(), file["sha256"].as_str().unwrap().to_owned());
        (artifact["recipe"].as_str().unwrap().to_owned(), entry)
    };
    artifacts.map(output).collect()
}

#[test]
fn every_type_is_the_converters_file() {
    let golden = golden();
    assert_eq!(golden.len(), 4);
    for (name, types) in golden {
        assert_eq!(types.len(), 4, "{name}");
        let folder = match name.strip_suffix("-stress") {
            Some(base) => with_overlay(base),
            None => Folder::of(&name),
        };
        let document = converted(
            &folder.path(),
            &folder.out(),
            &["--mmproj", "bf16,f16,f32,q8_0", "--set", "metadata.name=Tiny"],
        );
        let made = outputs(&document);
        let wanted = types.into_iter().map(|(outtype, entry)| (format!("mmproj-{outtype}"), entry));
        assert_eq!(made, wanted.collect::<BTreeMap<_, _>>(), "{name}");
    }
}

/// Neither the other outputs of a run nor the number of threads change a byte, and `--mmproj` is the embedded recipe.
#[test]
fn company_changes_nothing() {
    let folder = Folder::of("e2b");
    let (one, two, three) = (folder.home().join("1"), folder.home().join("2"), folder.home().join("3"));
    let checkpoint = folder.path();
    let together = converted(
        &checkpoint,
        &one,
        &["--recipe", "q4_0", "--recipe", "bf16-safetensors", "--mmproj", "q8_0"],
    );
    let together = outputs(&together);
    let text = outputs(&converted(&checkpoint, &two, &["--recipe", "q4_0"]));
    let towers = outputs(&converted(&checkpoint, &three, &["--recipe", "mmproj-q8_0", "--threads", "1"]));
    assert_eq!(together["q4_0"], text["q4_0"]);
    assert_eq!(together["mmproj-q8_0"], towers["mmproj-q8_0"]);
    let folder = converted(&checkpoint, &folder.home().join("4"), &["--recipe", "bf16-safetensors"]);
    assert_eq!(together["bf16-safetensors"], outputs(&folder)["bf16-safetensors"]);
    assert!(one.join("mmproj-q8_0.gguf").is_file());
}

/// Types beyond those of the converter: the preset's type for every matrix whose rows are whole blocks.
#[test]
fn matrices_take_any_type() {
    let folder = Folder::of("e2b");
    let types = "q4_0,q4_k_m,q6_k,iq4_nl";
    let document = converted(
        &folder.path(),
        &folder.out(),
        &["--mmproj", types, "--tensor-type", r"^v\.blk\.1\.ffn_down=f16"],
    );
    assert_eq!(outputs(&document).len(), 4);
    for (name, wanted) in [("q4_0", "Q4_0"), ("q4_k_m", "Q5_0"), ("q6_k", "Q8_0"), ("iq4_nl", "IQ4_NL")] {
        let file = folder.out().join(format!("mmproj-{name}.gguf"));
        let tensors = run(["inspect", file.to_str().unwrap(), "--tensors", "--json"]).good().json();
        let dtype = |wanted: &str| {
            let tensors = tensors["tensors"].as_array().unwrap();
            let found = tensors
                .iter()
                .find(|tensor| tensor["tensor"] == wanted)
                .unwrap_or_else(|| panic!("{wanted}"));
            found["type"].as_str().unwrap().to_uppercase()
        };
        // rows of 64 are no whole blocks of 256: the fall-backs of llama-quantize
        assert_eq!(dtype("v.blk.0.attn_q.weight"), wanted, "{name}");
        assert_eq!(dtype("v.blk.1.ffn_down.weight"), "F16", "{name}");
        assert_eq!(dtype("mm.input_projection.weight"), wanted, "{name}");
        assert_eq!(dtype("v.patch_embd.weight"), "F32", "{name}");
        assert_eq!(dtype("a.blk.0.attn_k_rel.weight"), wanted, "{name}");
    }
}

/// In a run of both kinds each output gets the settings and rules for it.
#[test]
fn settings_go_to_the_output_they_are_for() {
    let folder = Folder::of("e2b");
    let document = converted(
        &folder.path(),
        &folder.out(),
        &[
            "--type",
            "q4_0",
            "--mmproj",
            "bf16",
            "--set",
            "mmproj.gelu=exact",
            "--set",
            "unused_kv=drop",
            "--set",
            "metadata.name=Both",
            "--tensor-type",
            "^blk.0.ffn_down=q8_0",
            "--tensor-type",
            "mm.input=q8_0",
        ],
    );
    let made = outputs(&document);
    assert_eq!(made.len(), 2);
    let keys = |name: &str| {
        let file = folder.out().join(name);
        run(["inspect", file.to_str().unwrap(), "--json"]).good().json()["metadata"].clone()
    };
    let (text, towers) = (keys("model-q4_0.gguf"), keys("mmproj-bf16.gguf"));
    assert_eq!(
        (&text["general.name"]["value"], &towers["general.name"]["value"]),
        (&json!("\"Both\""), &json!("\"Both\""))
    );
    assert_eq!(towers["clip.use_gelu"]["value"], json!("true"));
    assert_eq!(text["clip.use_gelu"], Value::Null);
}

#[test]
fn what_cannot_become_an_mmproj_file_is_refused() {
    let refusal = |change: &dyn Fn(&Folder), more: &[&str], code: i32, words: &[&str]| {
        let folder = Folder::of("e2b");
        change(&folder);
        let run = convert(&folder.path(), &folder.out(), &[&["--mmproj", "bf16"], more].concat());
        let message = run.refusal(code);
        words.iter().for_each(|word| assert!(message.contains(word), "{word}: {message}"));
        assert!(names(&folder.out()).is_empty(), "{message}");
    };
    refusal(
        &|folder| folder.remove("processor_config.json"),
        &[],
        3,
        &["image_mean", "processor_config.json"],
    );
    refusal(
        &|folder| {
            folder.edit("processor_config.json", |json| json["image_processor"]["image_std"] = json!([1.0]))
        },
        &[],
        3,
        &["image_std", "three numbers", "[1.0]"],
    );
    refusal(
        &|folder| {
            folder.edit("config.json", |config| {
                config["vision_config"] = Value::Null;
                config["audio_config"] = Value::Null;
            });
            folder.reweigh(Weights::drop_towers);
        },
        &[],
        3,
        &["no image tower", "text-only"],
    );
    let lost = "vision_tower.encoder.layers.1.mlp.up_proj.input_max";
    refusal(&|folder| folder.reweigh(|weights| weights.drop(lost)), &[], 3, &[lost, "missing"]);
    refusal(
        &|folder| {
            folder.reweigh(|weights| weights.add("model.vision_tower.adapter.weight", "BF16", &[2, 2], 8));
        },
        &[],
        3,
        &["vision_tower.adapter.weight"],
    );
    refusal(
        &|folder| {
            folder.reweigh(|weights| weights.get("layers.0.mlp.up_proj.linear.weight").poke(7, f32::NAN))
        },
        &["--type", "q4_0"],
        3,
        &["vision_tower.encoder.layers.0.mlp.up_proj", "not finite"],
    );
    // what belongs to the text model has no effect here
    for setting in ["unused_kv=drop", "types.token_embd=q8_0", "text_only=true", "calibration.method=ldlq"] {
        refusal(&|_| (), &["--set", setting], 2, &["mmproj"]);
    }
    refusal(&|_| (), &["--set", "mmproj.gelu=none"], 2, &["gelu"]);
    refusal(&|_| (), &["--tensor-type", "blk.0.attn_q.input_max=q8_0"], 2, &["has no effect"]);
}

/// Bounds of clipped linears may be infinite: a linear without a bound has them so.
#[test]
fn infinite_bounds_are_written() {
    let folder = Folder::of("e2b");
    folder.reweigh(|weights| weights.get("layers.0.mlp.up_proj.input_max").poke(0, f32::INFINITY));
    converted(&folder.path(), &folder.out(), &["--mmproj", "f32"]);
}

/// The order is that of the files, within a file by name.
#[test]
fn shards_are_read_in_order() {
    let whole = Folder::of("31b");
    let split = Folder::of("31b");
    split.shard_in_order(3);
    for folder in [&whole, &split] {
        converted(&folder.path(), &folder.out(), &["--mmproj", "f32"]);
    }
    let tensors = |folder: &Folder| {
        let file = folder.out().join("mmproj-f32.gguf");
        let document = run(["inspect", file.to_str().unwrap(), "--tensors", "--json"]).good().json();
        let tensors = document["tensors"].as_array().unwrap().iter();
        tensors.map(|tensor| tensor["tensor"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (mut of_whole, mut of_split) = (tensors(&whole), tensors(&split));
    assert_ne!(sha256(&whole.out().join("mmproj-f32.gguf")), "");
    of_whole.sort();
    of_split.sort();
    assert_eq!(of_whole, of_split);
}

/// The places of tensors in the file of a plan: first byte and length.
fn places(folder: &Folder, outtype: &str) -> BTreeMap<String, (usize, usize)> {
    let checkpoint = folder.path();
    let plan = run(["plan", checkpoint.to_str().unwrap(), "--mmproj", outtype, "--json"]).good().json();
    let tensors = plan["artifacts"][0]["files"][0]["tensors"].as_array().unwrap().iter();
    let place = |tensor: &Value| {
        let number = |key: &str| tensor[key].as_u64().unwrap() as usize;
        (tensor["tensor"].as_str().unwrap().to_owned(), (number("offset"), number("bytes")))
    };
    tensors.map(place).collect()
}

/// A file without its manifest, as one downloads it.
fn alone(folder: &Folder, name: &str) -> std::path::PathBuf {
    let place = folder.home().join(format!("alone-{name}"));
    std::fs::copy(folder.out().join(name), &place).unwrap();
    place
}

#[test]
fn good_files_pass_with_and_without_a_manifest() {
    let folder = with_overlay("e2b");
    converted(
        &folder.path(),
        &folder.out(),
        &["--mmproj", "bf16,f16,f32,q8_0,q4_0,q5_k_m", "--type", "q8_0"],
    );
    for name in ["bf16", "f16", "f32", "q8_0", "q4_0", "q5_k_m"] {
        let file = format!("mmproj-{name}.gguf");
        for path in [folder.out().join(&file), alone(&folder, &file)] {
            let arguments =
                ["verify", path.to_str().unwrap(), "--against", folder.path().to_str().unwrap(), "--json"]
                    .map(str::to_owned);
            let report = run(arguments).good().json();
            assert_eq!(report["outcome"], "passed", "{name}");
            assert_eq!(report["structure"]["tensors"], 217, "{name}");
        }
    }
}

#[test]
fn a_wrong_tensor_is_named() {
    let folder = with_overlay("e2b");
    converted(&folder.path(), &folder.out(), &["--mmproj", "bf16"]);
    let file = folder.out().join("mmproj-bf16.gguf");
    let (bytes, places) = (std::fs::read(&file).unwrap(), places(&folder, "bf16"));
    let fault = |name: &str, change: &dyn Fn(&mut [u8])| {
        let mut bytes = bytes.clone();
        let (start, len) = places[name];
        change(&mut bytes[start..start + len]);
        let path = folder.home().join("fault.gguf");
        std::fs::write(&path, bytes).unwrap();
        let run =
            run(["verify", path.to_str().unwrap(), "--against", folder.path().to_str().unwrap(), "--json"]);
        assert_eq!(run.code, Some(1), "{name}: {}", run.stderr);
        let report = run.json();
        let failures: Vec<_> = report["findings"].as_array().unwrap().iter().collect();
        let named = |finding: &&&Value| {
            finding["severity"] == "failure" && finding["place"].as_str().unwrap().contains(name)
        };
        assert!(failures.iter().any(|finding| named(&finding)), "{name}: {failures:#?}");
    };
    // the tables of x and of y, exchanged
    fault("v.position_embd.weight", &|table| {
        let (x, y) = table.split_at_mut(table.len() / 2);
        x.swap_with_slice(y);
    });
    // a bound that never binds
    fault("v.blk.0.ffn_down.input_max", &|bound| bound.copy_from_slice(&f32::MAX.to_le_bytes()));
    // 4 ulp beside softplus; 1 ulp is torch's on another processor
    fault("a.blk.1.per_dim_scale.weight", &|scale| scale[8] ^= 4);
    // two rows of a matrix, exchanged
    fault("mm.input_projection.weight", &|matrix| {
        let row = matrix.len() / 256;
        let (first, second) = matrix.split_at_mut(row);
        first.swap_with_slice(&mut second[..row]);
    });
    // patches with channels last
    fault("v.patch_embd.weight", &|weight| {
        let patch: Vec<u8> = weight[..3072].to_vec();
        for at in 0..768 {
            let from = (at % 3) * 256 + at / 3;
            weight[4 * at..4 * at + 4].copy_from_slice(&patch[4 * from..4 * from + 4]);
        }
    });
}

#[test]
fn the_file_of_another_model_is_refused() {
    let (folder, other) = (Folder::of("e2b"), Folder::of("31b"));
    converted(&other.path(), &other.out(), &["--mmproj", "bf16"]);
    let file = alone(&other, "mmproj-bf16.gguf");
    let run = run(["verify", file.to_str().unwrap(), "--against", folder.path().to_str().unwrap()]);
    assert!(matches!(run.code, Some(1 | 3)), "{}{}", run.stdout, run.stderr);
    let said = format!("{}{}", run.stdout, run.stderr);
    assert!(said.contains("clip.has_audio_encoder") || said.contains("another variant"), "{said}");
}

/// Soft tokens of given images and sounds, of the file and of the checkpoint.
/// llama.cpp goes by the hidden size, 256 in all tiny models, and takes the attention of their images as that of a 31B.
#[test]
fn another_attention_of_images_is_noted() {
    const NOTE: &str = "by use_bidirectional_attention in config.json they attend to earlier positions only";
    for (direction, noted) in [(json!("vision"), false), (Value::Null, true)] {
        let folder = Folder::of("31b");
        folder.configure("use_bidirectional_attention", direction.clone());
        let convert = convert(&folder.path(), &folder.out(), &["--type", "q4_0", "--mmproj", "bf16"]).good();
        assert_eq!(convert.stderr.contains(NOTE), noted, "{direction}: {}", convert.stderr);
        let base = folder.path();
        for (file, noted) in [("mmproj-bf16.gguf", noted), ("model-q4_0.gguf", false)] {
            let file = folder.out().join(file);
            let arguments = ["verify", file.to_str().unwrap(), "--against", base.to_str().unwrap(), "--json"];
            let report = run(arguments).good().json();
            let findings = report["findings"].as_array().unwrap();
            let note = findings.iter().find(|finding| finding["problem"].as_str().unwrap().contains(NOTE));
            assert_eq!(note.is_some(), noted, "{direction} {}: {report:#}", file.display());
            assert!(note.is_none_or(|note| note["severity"] == "note"), "{report:#}");
        }
    }
}

#[test]
fn features_are_compared() {
    let folder = with_overlay("e2b");
    converted(
        &folder.path(),
        &folder.out(),
        &["--recipe", "mmproj-f32", "--recipe", "mmproj-q8_0", "--type", "q8_0"],
    );
    let media = |name: &str| testkit::fixtures("golden/multimodal").join(name).to_str().unwrap().to_owned();
    let (image, sound) = (media("wide.png"), media("chirp-1.37s.wav"));
    let verify = |file: &str, more: &[&str]| {
        let file = folder.out().join(file);
        let checkpoint = folder.path();
        let base = ["verify", file.to_str().unwrap(), "--against", checkpoint.to_str().unwrap(), "--json"];
        run([&base[..], more].concat())
    };
    let given = ["--image", &image, "--audio", &sound];
    let report = verify("mmproj-f32.gguf", &given).good().json();
    let features = report["features"].as_array().unwrap();
    assert_eq!(features.len(), 2);
    for (features, soft_tokens) in features.iter().zip([78, 34]) {
        assert_eq!(features["soft_tokens"], soft_tokens);
        let of = |key: &str| features[key].as_f64().unwrap();
        assert!(of("relative_rms") < 1e-5 && of("cosine") > 0.9999, "{features}");
        // llama.cpp's activation and spectrum
        assert!((1e-4..0.2).contains(&of("reader_rms")), "{features}");
    }
    assert_eq!(report["thresholds"][0]["figure"], "features.relative_rms");

    let report = verify("mmproj-q8_0.gguf", &given).json();
    let error = report["features"][0]["relative_rms"].as_f64().unwrap();
    assert!((1e-3..0.5).contains(&error), "{error}");
    for (features, first) in report["features"].as_array().unwrap().iter().zip(["patch_embd", "subsample"]) {
        let stages = features["stages"].as_array().unwrap();
        let names: Vec<_> = stages.iter().map(|stage| stage["stage"].as_str().unwrap()).collect();
        assert_eq!(names, [first, "block0", "block1"]);
        let errors: Vec<_> = stages.iter().map(|stage| stage["relative_rms"].as_f64().unwrap()).collect();
        assert!(errors[0] < errors[2] && (1e-5..0.5).contains(&errors[2]), "{errors:?}");
    }
    let strict = verify("mmproj-q8_0.gguf", &[&given[..], &["--max-feature-error", "0.0001"]].concat());
    assert_eq!(strict.code, Some(1), "{}", strict.stderr);

    for (file, more, word) in [
        ("model-q8_0.gguf", &given[..2], "mmproj file"),
        ("mmproj-f32.gguf", &["--max-feature-error", "0.1"], "not measured"),
    ] {
        let run = verify(file, more);
        assert!(run.refusal(2).contains(word), "{file}: {}{}", run.stdout, run.stderr);
    }
}
