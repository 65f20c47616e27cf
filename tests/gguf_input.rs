//! A GGUF in the place of a checkpoint: the bytes of a conversion are those of the checkpoint that it was made from, and those of
//! llama-quantize on the same file.

use std::fs;
use std::path::{Path, PathBuf};

use gguf::GgufFile;
use tempfile::TempDir;
use xtask::oracle::Oracle;

use crate::faults::edit::Gguf;
use crate::support::{convert, fixture, names, run, text};

/// Types of every kind: plain, blocks of 32, blocks of 256 with other types for some layers, non-linear.
const TYPES: [&str; 9] = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m", "q6_k", "q2_k", "iq4_xs"];

fn given(types: &[&str]) -> Vec<String> {
    types.iter().flat_map(|preset| ["--type".to_owned(), (*preset).to_owned()]).collect()
}

fn convert_all(from: &Path, out: &Path, types: &[&str], more: &[&str]) {
    let types = given(types);
    let options: Vec<&str> = types.iter().map(String::as_str).chain(more.iter().copied()).collect();
    convert(from, out, &options).good();
}

fn is_same(a: &Path, b: &Path) {
    assert!(fs::read(a).unwrap() == fs::read(b).unwrap(), "{} and {} differ", a.display(), b.display());
}

/// A folder with `source.gguf`, made from a fixture.
fn source(checkpoint: &str, options: &[&str]) -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("source.gguf");
    convert(&fixture(checkpoint), &file, options).good();
    (home, file)
}

#[test]
fn the_bytes_are_those_of_the_checkpoint() {
    for checkpoint in ["e2b", "26b-a4b", "31b"] {
        let (home, bf16) = source(checkpoint, &["--type", "bf16"]);
        let [direct, f32, by_bf16, by_f32] =
            ["direct", "f32.gguf", "by-bf16", "by-f32"].map(|name| home.path().join(name));
        convert(&fixture(checkpoint), &f32, &["--type", "f32"]).good();
        convert_all(&fixture(checkpoint), &direct, &TYPES, &[]);
        convert_all(&bf16, &by_bf16, &TYPES, &[]);
        convert_all(&f32, &by_f32, &TYPES, &[]);
        for preset in TYPES {
            let name = format!("model-{preset}.gguf");
            is_same(&direct.join(&name), &by_bf16.join(&name));
            is_same(&direct.join(&name), &by_f32.join(&name));
        }
    }
}

/// A blob of Ollama or of the hub's cache has no `.gguf` in its name.
#[test]
fn the_content_says_that_it_is_a_gguf() {
    let (home, bf16) = source("31b", &["--type", "bf16"]);
    let blob = home.path().join("sha256-0123");
    fs::rename(&bf16, &blob).unwrap();
    let out = home.path().join("out.gguf");
    convert(&blob, &out, &["--type", "q8_0"]).good();
    let direct = home.path().join("direct.gguf");
    convert(&fixture("31b"), &direct, &["--type", "q8_0"]).good();
    is_same(&out, &direct);
}

/// Settings of the recipe, an importance matrix, parts as source and as output.
#[test]
fn options_have_the_effect_that_they_have_on_a_checkpoint() {
    let (home, whole) = source("e2b", &["--type", "bf16"]);
    let at = |name: &str| home.path().join(name);
    let matrix = at("imatrix.gguf");
    let (model, calib) = (fixture("e2b"), text("calib.txt"));
    let args = [
        "calibrate",
        whole.to_str().unwrap(),
        "--text",
        calib.to_str().unwrap(),
        "-c",
        "128",
        "--chunks",
        "2",
        "-o",
    ];
    run(args.iter().chain(&[matrix.to_str().unwrap()])).good();
    convert(&model, &at("parts"), &["--type", "bf16", "--split-max-size", "2MB"]).good();
    let parts: Vec<_> = names(&at("parts")).into_iter().filter(|name| name.ends_with(".gguf")).collect();
    assert!(parts.len() > 1);
    let options: &[&[&str]] = &[
        &["--imatrix", matrix.to_str().unwrap()],
        &["--set", "unused_kv=drop"],
        &["--tensor-type", "ffn_down=q6_k", "--token-embd-type", "q8_0"],
        &["--set", "kv.gemma4.context_length=4096"],
    ];
    for (number, options) in options.iter().enumerate() {
        let [direct, ours] = ["direct", "ours"].map(|name| at(&format!("{name}-{number}.gguf")));
        let options: Vec<_> = ["--type", "q4_k_m"].iter().chain(*options).copied().collect();
        convert(&model, &direct, &options).good();
        convert(&at("parts").join(&parts[0]), &ours, &options).good();
        is_same(&direct, &ours);
    }
    convert(&whole, &at("again"), &["--type", "bf16", "--split-max-size", "2MB"]).good();
    let made: Vec<_> = names(&at("again")).into_iter().filter(|name| name.ends_with(".gguf")).collect();
    assert_eq!(made.len(), parts.len());
}

/// Calibrated rounding reads the same weights and the same text.
#[test]
fn a_calibrated_recipe_takes_a_gguf() {
    let (home, file) = source("e2b", &["--type", "bf16"]);
    let [direct, ours] = ["direct.gguf", "ours.gguf"].map(|name| home.path().join(name));
    let calib = text("calib.txt");
    let options = [
        "--recipe",
        "q4_0-calibrated",
        "--text",
        calib.to_str().unwrap(),
        "--set",
        "calibration.context=128",
        "--chunks",
        "16",
    ];
    convert(&fixture("e2b"), &direct, &options).good();
    convert(&file, &ours, &options).good();
    is_same(&direct, &ours);
}

/// Q8_0 is close enough to be a source without a word; types with fewer bits are not.
#[test]
fn a_source_with_fewer_bits_than_q8_0_is_warned_of() {
    let (home, q8_0) = source("e2b", &["--type", "q8_0"]);
    let q4_0 = home.path().join("q4_0.gguf");
    let first = convert(&q8_0, &q4_0, &["--type", "q4_0"]).good();
    let against = |base: &Path| run(["verify", q4_0.to_str().unwrap(), "--against", base.to_str().unwrap()]);
    against(&q8_0).good();
    assert!(!first.stderr.contains("already quantized"), "{}", first.stderr);
    let second = convert(&q4_0, &home.path().join("q8_0.gguf"), &["--type", "q8_0"]).good();
    assert!(
        second.stderr.contains("already quantized") && second.stderr.contains("in q4_0"),
        "{}",
        second.stderr
    );
    // the same type again copies the bytes
    let same = convert(&q4_0, &home.path().join("same.gguf"), &["--type", "q4_0"]).good();
    assert!(!same.stderr.contains("already quantized"), "{}", same.stderr);
    is_same(&q4_0, &home.path().join("same.gguf"));
    let passed =
        ["verify", home.path().join("q8_0.gguf").to_str().unwrap(), "--against", q4_0.to_str().unwrap()]
            .map(str::to_owned);
    run(passed).good();
}

#[test]
fn what_a_gguf_cannot_give_is_refused() {
    let (home, file) = source("e2b", &["--type", "bf16"]);
    let (model, out) = (file.to_str().unwrap(), home.path().join("out"));
    let out = out.to_str().unwrap();
    let mmproj = home.path().join("mmproj.gguf");
    convert(&fixture("e2b"), &mmproj, &["--mmproj", "bf16"]).good();
    let adapter = fixture("e2b");
    let [draft, assistant] = [home.path().join("draft.gguf"), fixture("e2b-assistant")];
    let args = ["draft", "convert", assistant.to_str().unwrap(), "--target", adapter.to_str().unwrap()];
    run(args.iter().chain(&["--type", "bf16", "-o", draft.to_str().unwrap()])).good();
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["convert", model, "--recipe", "fp8", "-o", out], 2, &["config.json", "folder of a checkpoint"]),
        (&["convert", model, "--mmproj", "bf16", "-o", out], 2, &["towers", "folder of a checkpoint"]),
        (
            &["convert", model, "--type", "q4_0", "--lora", adapter.to_str().unwrap(), "-o", out],
            3,
            &["adapter", "a GGUF file"],
        ),
        (&["convert", model, "--type", "q4_0", "-o", model, "--force"], 3, &["this is a file of the source"]),
        (
            &["convert", mmproj.to_str().unwrap(), "--type", "q4_0", "-o", out],
            2,
            &["mmproj", "no text model"],
        ),
        (
            &["convert", draft.to_str().unwrap(), "--type", "q4_0", "-o", out],
            3,
            &["draft model", "draft convert"],
        ),
        (&["types", mmproj.to_str().unwrap()], 3, &["mmproj", "no text model"]),
        (&["release", model, "-o", out], 3, &["a release", "model card", "a GGUF file"]),
        (&["convert", model, "--type", "q4_0", "--set", "metadata.tags=[\"a\"]", "-o", out], 0, &[]),
    ];
    for (args, code, says) in cases {
        let run = run(*args);
        if *code == 0 {
            run.good();
            continue;
        }
        let error = run.refusal(*code);
        says.iter().for_each(|part| assert!(error.contains(part), "{args:?}: {error}"));
    }
}

/// An mmproj file of another type has the bytes of the checkpoint's conversion.
#[test]
fn an_mmproj_file_takes_the_place_of_a_checkpoint() {
    const PRESETS: &str = "f32,f16,bf16,q8_0,q4_0,q4_k_m";
    for checkpoint in ["e2b", "26b-a4b"] {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        convert(&fixture(checkpoint), &at("direct"), &["--mmproj", PRESETS]).good();
        for from in ["f32", "bf16"] {
            let source = at("direct").join(format!("mmproj-{from}.gguf"));
            convert(&source, &at(from), &["--mmproj", PRESETS]).good();
            for preset in PRESETS.split(',') {
                let name = format!("mmproj-{preset}.gguf");
                is_same(&at("direct").join(&name), &at(from).join(&name));
            }
        }
        let bf16 = at("direct/mmproj-bf16.gguf");
        let options: &[&[&str]] = &[
            &["--recipe", "mmproj-q8_0"],
            &["--recipe", "mmproj-q8_0", "--tensor-type", "^mm.=bf16"],
            &["--recipe", "mmproj-f16", "--set", "mmproj.gelu=exact"],
            &[
                "--recipe",
                "mmproj-f16",
                "--set",
                "metadata.name=Eyes",
                "--set",
                "kv.clip.vision.image_size=896",
            ],
        ];
        for (number, options) in options.iter().enumerate() {
            let [direct, ours] = ["direct", "ours"].map(|name| at(&format!("{name}-{number}.gguf")));
            convert(&fixture(checkpoint), &direct, options).good();
            convert(&bf16, &ours, options).good();
            let [a, b] = [&direct, &ours].map(|path| Gguf::read(path));
            assert!(a.tensors == b.tensors, "{options:?}");
            // a new name goes to the end
            let sorted = |gguf: Gguf| {
                let keys = gguf.metadata.iter().map(|(key, value)| (key.to_owned(), format!("{value:?}")));
                keys.collect::<std::collections::BTreeMap<_, _>>()
            };
            assert_eq!(sorted(a), sorted(b), "{options:?}");
        }
        let q8_0 = at("direct/mmproj-q8_0.gguf");
        let [plan, of_folder] = [&bf16, &fixture(checkpoint)].map(|model| {
            run(["plan", model.to_str().unwrap(), "--mmproj", "q8_0", "--json"]).good().json()["artifacts"][0].clone()
        });
        assert_eq!(plan["files"][0]["bytes"], of_folder["files"][0]["bytes"]);
        let args = ["verify", q8_0.to_str().unwrap(), "--against", fixture(checkpoint).to_str().unwrap()]
            .map(str::to_owned);
        run(args).good();
        // the errors of few bits stay
        let noted = convert(&at("direct/mmproj-q4_0.gguf"), &at("again.gguf"), &["--mmproj", "q8_0"]).good();
        assert!(noted.stderr.contains("already quantized"), "{}", noted.stderr);
    }
}

/// The plan, the sizes of recipes and sensitivities of a GGUF.
#[test]
fn other_commands_take_a_gguf() {
    let (home, file) = source("e2b", &["--type", "bf16"]);
    let (model, folder) = (file.to_str().unwrap(), fixture("e2b"));
    let bytes = |model: &str| {
        let json = run(["plan", model, "--type", "q4_0", "--json"]).good().json();
        json["artifacts"][0]["files"][0]["bytes"].clone()
    };
    assert_eq!(bytes(model), bytes(folder.to_str().unwrap()));
    let size = |model: &str| run(["types", model, "--json"]).good().json();
    assert_eq!(size(model), size(folder.to_str().unwrap()));
    let calib = text("calib.txt");
    let out = home.path().join("s.json");
    let args = ["sensitivity", model, "--text", calib.to_str().unwrap(), "-c", "64", "--chunks", "4", "-o"];
    run(args.iter().chain(&[out.to_str().unwrap()])).good();
    let auto = home.path().join("auto.gguf");
    convert(&file, &auto, &["--type", "q4_k_m", "--target-bpw", "6", "--sensitivity", out.to_str().unwrap()])
        .good();
    GgufFile::open(auto).unwrap();
}

/// llama-quantize on the same files: F16 and Q8_0 sources, which differ from the checkpoint.
#[test]
fn the_bytes_are_those_of_llama_quantize() {
    let Some(oracle) = Oracle::for_tests() else { return };
    for checkpoint in ["e2b", "26b-a4b"] {
        let home = tempfile::tempdir().unwrap();
        for from in ["f16", "q8_0", "q4_k_m"] {
            let file = home.path().join(format!("{from}.gguf"));
            convert(&fixture(checkpoint), &file, &["--type", from]).good();
            for to in ["q4_0", "q5_k_m", "q8_0", "bf16"] {
                let [ours, stock] =
                    ["ours", "stock"].map(|who| home.path().join(format!("{from}-{to}-{who}.gguf")));
                convert(&file, &ours, &["--type", to]).good();
                let mut tool = oracle.tool("llama-quantize");
                let output = tool
                    .arg("--allow-requantize")
                    .arg(&file)
                    .arg(&stock)
                    .arg(to.to_uppercase())
                    .output()
                    .unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                is_same(&ours, &stock);
            }
        }
    }
}
