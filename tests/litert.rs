//! Bundles of LiteRT-LM: `inspect`, `verify`, and `convert --bundle`. What the exporter makes is in `fixtures/golden/litertlm`.
//! `litert_judge.rs` has the real runtime.

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::support::{Run, WEIGHTS, Weights, fixture, run};

/// A folder with the checkpoint of the goldens, the fine-tune of it, and a bundle.
pub(crate) struct Files {
    home: TempDir,
}

impl Files {
    pub(crate) fn new(recipe: &str) -> Files {
        let home = tempfile::tempdir().unwrap();
        let file = |name: &str| testkit::read(format!("golden/litertlm/{name}"));
        let mut weights = Weights::parse(&file("base.safetensors"));
        for name in ["base", "tuned"] {
            let folder = home.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("config.json"), file("config.json")).unwrap();
            fs::write(folder.join(WEIGHTS), weights.to_bytes()).unwrap();
            weights.tensors.iter_mut().for_each(tune);
        }
        let mut bundle = Vec::new();
        let packed = file(&format!("base.{recipe}.litertlm.gz"));
        flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut bundle).unwrap();
        let files = Files { home };
        fs::write(files.path("base.litertlm"), bundle).unwrap();
        for name in ["base", "tuned"] {
            fs::write(files.path(name).join("tokenizer.json"), files.tokenizer()).unwrap();
        }
        files
    }

    /// The tokenizer in the bundle.
    fn tokenizer(&self) -> Vec<u8> {
        let section = &expected()["recipes"]["mixed48"]["base"]["sections"][2];
        assert_eq!(section["type"], "HF_Tokenizer_Zlib");
        let [begin, end] = ["begin", "end"].map(|key| section[key].as_u64().unwrap() as usize);
        let bundle = fs::read(self.path("base.litertlm")).unwrap();
        let mut json = Vec::new();
        // the length comes first
        flate2::read::ZlibDecoder::new(&bundle[begin + 8..end]).read_to_end(&mut json).unwrap();
        json
    }

    /// `verify FILE --against CHECKPOINT`.
    fn verify(&self, file: &str, against: &str, more: &[&str]) -> Run {
        let [file, against] = [file, against].map(|name| self.path(name));
        let args = ["verify".into(), file, "--against".into(), against];
        run(args.into_iter().chain(more.iter().map(PathBuf::from)))
    }

    /// The types of the constants of a bundle, by name.
    fn types(&self, file: &str) -> Vec<(String, String)> {
        let document = run(["inspect", self.path(file).to_str().unwrap(), "--json"]).good().json();
        let models = document["sections"].as_array().unwrap().clone();
        let constants = models.iter().filter_map(|model| model["content"]["constants"].as_array());
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        constants.flatten().map(|one| (text(&one["constant"]), text(&one["type"]))).collect()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// `convert CHECKPOINT --skeleton SKELETON -o OUT`.
    pub(crate) fn fill(&self, skeleton: &str, checkpoint: &str, out: &str, more: &[&str]) -> Run {
        let skeleton = testkit::fixtures(format!("golden/litertlm/{skeleton}.skeleton"));
        let [checkpoint, out] = [checkpoint, out].map(|name| self.path(name));
        let args = ["convert".into(), checkpoint, "--skeleton".into(), skeleton, "-o".into(), out];
        run(args.into_iter().chain(more.iter().map(PathBuf::from)))
    }

    /// `convert tuned --bundle base.litertlm --bundle-base BASE -o OUT`.
    pub(crate) fn convert(&self, base: &str, out: &str, more: &[&str]) -> Run {
        let [tuned, bundle, base, out] = ["tuned", "base.litertlm", base, out].map(|name| self.path(name));
        let args = [
            "convert".into(),
            tuned,
            "--bundle".into(),
            bundle,
            "--bundle-base".into(),
            base,
            "-o".into(),
            out,
        ];
        run(args.into_iter().chain(more.iter().map(PathBuf::from)))
    }
}

/// The rule of the second checkpoint: rows in reverse order, a tensor of one element times 0.5.
fn tune(tensor: &mut crate::support::Tensor) {
    match tensor.data.as_mut_slice() {
        [low, high] => [*low, *high] = (u16::from_le_bytes([*low, *high]) - 0x80).to_le_bytes(),
        data => {
            let row = data.len() / tensor.shape[0] as usize;
            tensor.data = data.chunks(row).rev().flatten().copied().collect();
        }
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn expected() -> Value {
    testkit::json("golden/litertlm/expected.json")
}

#[test]
fn a_fine_tune_in_a_bundle_has_the_bytes_of_an_export() {
    let files = Files::new("mixed48");
    let made = files.convert("base", "tuned.litertlm", &["--json"]).good().json();
    assert_eq!((&made["retyped"], &made["growth"]), (&0.into(), &0.into()));
    let bytes = fs::read(files.path("tuned.litertlm")).unwrap();
    assert_eq!(made["bytes"], bytes.len());
    for section in expected()["recipes"]["mixed48"]["tuned"]["sections"].as_array().unwrap() {
        let [begin, end] = ["begin", "end"].map(|key| section[key].as_u64().unwrap() as usize);
        assert_eq!(sha256(&bytes[begin..end]), section["sha256"].as_str().unwrap(), "{section}");
    }
}

/// Codes of two bits get four unless they are kept: then the file has the size of the bundle.
#[test]
fn int2_is_raised_unless_it_is_kept() {
    let files = Files::new("wi2");
    let size = |name: &str| fs::metadata(files.path(name)).unwrap().len();
    files.convert("base", "kept.litertlm", &["--bundle-types", "keep"]).good();
    assert_eq!(size("kept.litertlm"), size("base.litertlm"));
    let said = files.convert("base", "raised.litertlm", &[]).good().stdout;
    let growth = size("raised.litertlm") - size("base.litertlm");
    let types = |name: &str| files.types(name).iter().filter(|(_, kind)| kind == "INT2 a row").count();
    assert_eq!((types("base.litertlm"), types("kept.litertlm"), types("raised.litertlm")), (36, 36, 0));
    assert!(said.contains("36 of them with more bits") && growth > 100_000, "{said}");
}

/// The graph of a skeleton that was recorded from the bundle of the exporter.
#[test]
fn a_skeleton_needs_no_bundle() {
    let files = Files::new("mixed48");
    files.fill("same", "base", "new.litertlm", &["--recipe", "litertlm-int4"]).good();
    let bytes = fs::read(files.path("new.litertlm")).unwrap();
    let document = run(["inspect", files.path("new.litertlm").to_str().unwrap(), "--json"]).good().json();
    let exported = expected()["recipes"]["mixed48"]["base"]["sections"].clone();
    let sections = document["sections"].as_array().unwrap().iter().zip(exported.as_array().unwrap());
    for (made, exported) in sections.filter(|(_, exported)| exported["type"] == "TFLiteModel") {
        let [begin, len] = ["offset", "bytes"].map(|key| made[key].as_u64().unwrap() as usize);
        let found = sha256(&bytes[begin..begin + len]);
        assert_eq!(found, exported["sha256"].as_str().unwrap(), "{}", made["model_type"]);
    }
    files.verify("new.litertlm", "base", &["--require-manifest"]).good();
    files.fill("same", "base", "again.litertlm", &["--recipe", "litertlm-int4"]).good();
    assert!(fs::read(files.path("again.litertlm")).unwrap() == bytes, "another run has other bytes");

    // the embedded skeleton is that of E2B at its real size
    let (base, out) = (files.path("base"), files.path("x.litertlm"));
    let embedded =
        ["convert", base.to_str().unwrap(), "-o", out.to_str().unwrap(), "--recipe", "litertlm-int4"];
    let refused = run(embedded);
    let said = refused.refusal(3);
    assert!(said.contains("35 layers of hidden size 1536") && said.contains("graph skeleton"), "{said}");
    for more in [["--stream"].as_slice(), &["--part", "1/2"]] {
        let refused = run([&embedded[..], more].concat());
        assert!(refused.refusal(2).contains(more[0]), "{}", refused.stderr);
    }

    let said = files.fill("same", "base", "x.litertlm", &["--recipe", "q4_0"]);
    assert!(said.refusal(2).contains("no such recipe of a bundle"), "{}", said.stderr);
    let config = files.path("base").join("config.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    json["text_config"]["sliding_window"] = 128.into();
    fs::write(&config, json.to_string()).unwrap();
    let said = files.fill("same", "base", "x.litertlm", &["--recipe", "litertlm-int4"]);
    assert!(
        said.refusal(3).contains("another architecture than that of the graph skeleton"),
        "{}",
        said.stderr
    );
}

/// The recipes of the folder `recipes/bundle`, whatever the types of the bundle are.
#[test]
fn a_recipe_gives_the_type_of_each_matrix() {
    let (eight, mixed) = (Files::new("wi8"), Files::new("mixed48"));
    eight.convert("base", "int4.litertlm", &["--recipe", "litertlm-int4"]).good();
    assert_eq!(eight.types("int4.litertlm"), mixed.types("base.litertlm"));
    mixed.convert("base", "int8.litertlm", &["--recipe", "litertlm-int8"]).good();
    assert_eq!(mixed.types("int8.litertlm"), eight.types("base.litertlm"));
    eight.verify("int4.litertlm", "tuned", &[]).good();
    let manifest = fs::read(mixed.path("int8.litertlm.manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["artifacts"][0]["recipe"], "litertlm-int8");
    assert_eq!(manifest["artifacts"][0]["settings"]["types"]["default"], "int8");

    let said = mixed.convert("base", "x.litertlm", &["--recipe", "q4_0"]);
    assert!(said.refusal(2).contains("no such recipe of a bundle"), "{}", said.stderr);
    let [tuned, out] = ["tuned", "out"].map(|name| mixed.path(name));
    let said = run(["convert".into(), tuned, "--recipe".into(), "litertlm-int4".into(), "-o".into(), out]);
    assert!(said.refusal(2).contains("a recipe of a bundle of LiteRT-LM"), "{}", said.stderr);
    let said = mixed.convert("base", "x.litertlm", &["--recipe", "litertlm-int4", "--bundle-types", "keep"]);
    assert_eq!(said.code, Some(2));
}

#[test]
fn verify_holds_a_bundle_against_its_checkpoint() {
    let files = Files::new("mixed48");
    files.convert("base", "tuned.litertlm", &[]).good();
    let report = files.verify("tuned.litertlm", "tuned", &["--require-manifest", "--json"]).good().json();
    assert_eq!((&report["passed"], &report["compared"]), (&true.into(), &true.into()));
    let tensors = report["tensors"]["tensors"].as_array().unwrap();
    assert!(tensors.len() > 60 && tensors.iter().all(|one| one["differing"] == 0), "{}", tensors.len());
    let of = |name: &str| tensors.iter().find(|one| one["name"] == name).unwrap();
    let head = of("model.language_model.embed_tokens.weight (head)");
    assert_eq!((&head["role"], &head["dtype"]), (&"output".into(), &"INT4".into()));
    assert_eq!(of("model.language_model.layers.0.layer_scalar")["relative"], 0.0);
    assert_eq!(report["structure"]["hashed"], 1);

    // the bundle of the exporter has no manifest
    let said = files.verify("base.litertlm", "base", &[]).good();
    assert!(said.stdout.contains("Passed: structure, tensors checked"), "{}", said.stdout);
    assert_eq!(files.verify("base.litertlm", "base", &["--require-manifest"]).code, Some(1));
    let said = files.verify("base.litertlm", "tuned", &[]);
    assert_eq!(said.code, Some(1));
    assert!(said.stdout.contains("not those of the base checkpoint"), "{}", said.stdout);
    let bundle = files.path("base.litertlm");
    let said = run(["verify", bundle.to_str().unwrap()]);
    assert!(said.refusal(2).contains("compared with its checkpoint"), "{}", said.stderr);
}

/// A row of a matrix, a manifest, a tokenizer.
#[test]
fn verify_names_what_was_changed() {
    let files = Files::new("mixed48");
    files.convert("base", "tuned.litertlm", &[]).good();
    let good = fs::read(files.path("tuned.litertlm")).unwrap();
    let expected = expected();
    let model = &expected["recipes"]["mixed48"]["base"]["sections"][3];
    let row = expected["mapping_mixed48"]["rows"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row[9].as_str().is_some_and(|name| name.ends_with("layers.1.mlp.down_proj.weight")));
    // offset of the payload in the section
    let at = row.expect("the matrix")[6].as_u64().unwrap() + model["begin"].as_u64().unwrap();
    let at = at as usize + 5;
    let mut changed = good.clone();
    changed[at] ^= 0x11;
    fs::write(files.path("tuned.litertlm"), &changed).unwrap();
    let said = files.verify("tuned.litertlm", "tuned", &["--keep-going"]);
    assert_eq!(said.code, Some(1));
    for shown in ["changed after it was written", "layers.1.mlp.down_proj.weight", "1 of 64 rows"] {
        assert!(said.stdout.contains(shown), "{shown}: {}", said.stdout);
    }
    fs::write(files.path("tuned.litertlm"), &good).unwrap();
    let tokenizer = files.path("tuned").join("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&tokenizer).unwrap()).unwrap();
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    let names: Vec<String> = vocab.keys().filter(|name| name.starts_with('▁')).take(2).cloned().collect();
    let (a, b) = (vocab[&names[0]].clone(), vocab[&names[1]].clone());
    vocab.insert(names[0].clone(), b);
    vocab.insert(names[1].clone(), a);
    fs::write(&tokenizer, json.to_string()).unwrap();
    let said = files.verify("tuned.litertlm", "tuned", &[]);
    assert_eq!(said.code, Some(1));
    assert!(said.stdout.contains("its vocabulary is not that of the checkpoint"), "{}", said.stdout);
    let said = files.convert("base", "other.litertlm", &[]);
    assert!(said.refusal(3).contains("its vocabulary is not that of the checkpoint"), "{}", said.stderr);
}

/// The fewer bits, the larger the divergence.
#[test]
fn verify_measures_the_predictions_of_the_decoded_weights() {
    let text = crate::support::text("eval.txt");
    let text = ["--text", text.to_str().unwrap(), "-c", "64", "--chunks", "4", "--json"];
    let divergence = |recipe: &str| {
        let report = Files::new(recipe).verify("base.litertlm", "base", &text).good().json();
        report["kld"]["mean"].as_f64().unwrap()
    };
    let [eight, four, two] = ["wi8", "mixed48", "wi2"].map(divergence);
    assert!(0.0 < eight && 4.0 * eight < four && four < two, "{eight} {four} {two}");
}

/// On a trained model. `verify` takes rule and importance from the manifest.
#[test]
fn searched_scales_are_nearer_to_the_checkpoint() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let (base, imatrix) = (fixture("e2b").to_str().unwrap().to_owned(), path("imatrix.gguf"));
    let [text, eval] =
        ["calib.txt", "eval.txt"].map(|name| crate::support::text(name).to_str().unwrap().to_owned());
    let calibrate = |chunks: &str| {
        run(["calibrate", &base, "--text", &text, "-c", "64", "--chunks", chunks, "--force", "-o", &imatrix])
            .good();
    };
    let skeleton = testkit::fixtures("golden/litertlm/e2b.skeleton").to_str().unwrap().to_owned();
    let fill = |name: &str, recipe: &str, more: &[&str]| {
        let bundle = path(name);
        run([&["convert", &base, "--skeleton", &skeleton, "--recipe", recipe, "-o", &bundle], more].concat())
    };
    let verify = |name: &str, more: &[&str]| {
        let bundle = path(name);
        run([&["verify", &bundle, "--against", &base], more].concat())
    };
    calibrate("32");
    let divergence = |name: &str, recipe: &str, more: &[&str]| {
        fill(name, recipe, more).good();
        let predict = ["--require-manifest", "--json", "--text", &eval, "-c", "128", "--chunks", "16"];
        let report = verify(name, &predict).good().json();
        let tensors = report["tensors"]["tensors"].as_array().unwrap();
        assert!(tensors.len() > 60 && tensors.iter().all(|one| one["compared"] == "bytes"), "{report}");
        report["kld"]["mean"].as_f64().unwrap()
    };
    let min_max = divergence("min-max.litertlm", "litertlm-int4", &[]);
    let searched = divergence("searched.litertlm", "litertlm-int4-search", &[]);
    let important = divergence("weighted.litertlm", "litertlm-int4-search", &["--imatrix", &imatrix]);
    assert!(searched < 0.8 * min_max && important < 0.8 * min_max, "{min_max} {searched} {important}");

    // the importance of the file is not at hand, or another one is given
    let kept = fs::read(&imatrix).unwrap();
    calibrate("2");
    let said = verify("weighted.litertlm", &[]).good().stdout;
    assert!(said.contains("is not at hand") && said.contains("--importance"), "{said}");
    let other = verify("weighted.litertlm", &["--importance", &imatrix]);
    assert!(other.code == Some(1), "{}", other.stdout);
    fs::write(&imatrix, kept).unwrap();

    // a changed code, without a manifest
    let mut bytes = fs::read(path("weighted.litertlm")).unwrap();
    let at = bytes.len() - 100_000;
    bytes[at] ^= 0x11;
    fs::remove_file(path("weighted.litertlm.manifest.json")).unwrap();
    fs::write(path("weighted.litertlm"), bytes).unwrap();
    let changed = verify("weighted.litertlm", &["--importance", &imatrix]);
    assert!(changed.code == Some(1) && changed.stdout.contains("rows are not those"), "{}", changed.stdout);

    let refused = fill("x.litertlm", "litertlm-int4", &["--imatrix", &imatrix]);
    assert!(refused.refusal(2).contains("litertlm-int4-search"), "{}", refused.stderr);
    let refused = verify("min-max.litertlm", &["--importance", &imatrix]);
    assert!(refused.refusal(2).contains("has no effect"), "{}", refused.stderr);
}

/// Options of other outputs, which would change nothing.
#[test]
fn options_that_a_bundle_does_not_have_are_refused() {
    let files = Files::new("mixed48");
    for option in [
        ["--set", "metadata.name=x"],
        ["--tensor-type", "attn_q=q8_0"],
        ["--split-max-size", "2GB"],
        ["--target-bpw", "4.5"],
        ["--text", "x.txt"],
        ["--skip-existing", "--force"],
    ] {
        let said = files.convert("base", "x.litertlm", &option);
        let refused = said.refusal(2);
        assert!(
            refused.contains(&option[0].replace('-', "_")[2..]) || refused.contains(option[0]),
            "{refused}"
        );
    }
}

/// A folder of this name is not what the user means.
#[test]
fn types_of_a_gguf_do_not_go_into_a_bundle() {
    let files = Files::new("mixed48");
    let [base, out] = ["base", "x.litertlm"].map(|name| files.path(name));
    for (option, value) in [("--type", "q4_0"), ("--mmproj", "bf16"), ("--recipe", "q4_0")] {
        let said =
            run(["convert".into(), base.clone(), option.into(), value.into(), "-o".into(), out.clone()]);
        assert!(said.refusal(2).contains("bundle"), "{}", said.stderr);
        assert!(!out.exists(), "{option}");
    }
}

/// Commands that get a bundle, or a file of another runtime, in the place of a model.
#[test]
fn files_of_other_runtimes_are_named() {
    let files = Files::new("wi2");
    fs::write(files.path("web.task"), b"PK\x03\x04\0\0TF_LITE_PREFILL_DECODE\0").unwrap();
    fs::write(files.path("web.litertlm"), b"LITERTLM\x01\0\0\0tf_lite_artisan_text_decoder").unwrap();
    let cases = [
        ("base.litertlm", "found a bundle of LiteRT-LM)"),
        ("web.task", "found a .task file of MediaPipe)"),
        ("web.litertlm", "found a bundle of LiteRT-LM for the web)"),
    ];
    let [base, out] = ["base", "out"].map(|name| files.path(name));
    let base = base.to_str().unwrap();
    for (name, says) in cases {
        let (file, out) = (files.path(name), out.to_str().unwrap());
        let file = file.to_str().unwrap();
        let commands: [&[&str]; 5] = [
            &["convert", file, "--type", "q4_0", "-o", out],
            &["plan", file, "--type", "q4_0"],
            &["generate", file, "-p", "x"],
            &["edit", file, "--set", "general.name=x", "-o", out],
            &["verify", base, "--against", file],
        ];
        for command in commands {
            let said = run(command.iter().copied());
            assert!(said.stderr.contains(says), "{command:?}: {}", said.stderr);
        }
    }
    let [task, base] = ["web.task", "base"].map(|name| files.path(name));
    let said = run([
        "convert".into(),
        base.clone(),
        "--bundle".into(),
        task,
        "--bundle-base".into(),
        base,
        "-o".into(),
        files.path("x.litertlm"),
    ]);
    assert!(said.refusal(3).contains("not a .litertlm file"), "{}", said.stderr);
}

#[test]
fn inspect_shows_sections_metadata_and_types() {
    let files = Files::new("mixed48_b32");
    let bundle = files.path("base.litertlm");
    let text = run(["inspect", bundle.to_str().unwrap()]).good().stdout;
    for shown in [
        "LiteRT-LM bundle, version 1.7.0",
        "tf_lite_prefill_decode: 44 subgraphs",
        "INT4 in blocks of 32",
        "start token  \"<bos>\"",
    ] {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    let listed = run(["inspect", bundle.to_str().unwrap(), "--tensors"]).good().stdout;
    assert!(
        listed.contains("Gemma4TextDecoderLayer_0/Gemma4TextAttention_self_attn/Linear_q_proj [64, 64]"),
        "{listed}"
    );
    let json = run(["inspect", bundle.to_str().unwrap(), "--json"]).good().json();
    assert_eq!(
        (json["kind"].as_str(), json["sections"].as_array().map(Vec::len)),
        (Some("litertlm"), Some(6))
    );
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let files = Files::new("mixed48");
    let said = files.convert("tuned", "other.litertlm", &[]);
    assert!(said.refusal(3).contains("not those of the base checkpoint"), "{}", said.stderr);
    let said = files.convert("base", "other.gguf", &[]);
    assert!(said.refusal(2).contains("a name that ends in .litertlm"), "{}", said.stderr);
    let said = files.convert("base", "base.litertlm", &[]);
    assert!(said.refusal(3).contains("the file exists"), "{}", said.stderr);
    assert_eq!(files.convert("base", "other.litertlm", &["--type", "q4_0"]).code, Some(2));
    let e2b = fixture("e2b");
    fs::remove_dir_all(files.path("tuned")).unwrap();
    std::os::unix::fs::symlink(e2b, files.path("tuned")).unwrap();
    let said = files.convert("base", "other.litertlm", &[]);
    assert!(said.refusal(3).contains("another shape than in the base checkpoint"), "{}", said.stderr);
    assert!(!files.path("other.litertlm").exists());
}
