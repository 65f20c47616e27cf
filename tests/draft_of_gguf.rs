//! `draft extract` from a GGUF: the bytes are those of the extraction from the checkpoint that it was made from. The real llama.cpp
//! drafts with such files in `draft_extract.rs`.

use std::fs;
use std::path::{Path, PathBuf};

use quant::Simd;
use tensor::DType;

use crate::faults::edit::Gguf;
use crate::support::{self, Run, convert, fixture, names, run, text};

fn extract(model: &Path, layers: &str, out: &Path, more: &[&str]) -> Run {
    let (model, out) = (model.to_str().unwrap(), out.to_str().unwrap());
    run([&["draft", "extract", model, "--layers", layers, "-o", out, "--json"], more].concat())
}

fn is_same(a: &Path, b: &Path) {
    assert!(fs::read(a).unwrap() == fs::read(b).unwrap(), "{} and {} differ", a.display(), b.display());
}

/// A folder with `source.gguf`, made from a fixture.
fn source(checkpoint: &str, preset: &str) -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("source.gguf");
    convert(&fixture(checkpoint), &file, &["--type", preset]).good();
    (home, file)
}

/// All kinds of models: KV-shared layers and a per-layer table, experts, neither. One file, and parts.
#[test]
fn the_bytes_are_those_of_the_checkpoint() {
    for (checkpoint, layers) in [("e2b", "1,3,5,7"), ("e2b", "0,1,2,3"), ("26b-a4b", "0,2,5"), ("31b", "1,5")]
    {
        let (home, bf16) = source(checkpoint, "bf16");
        let at = |name: &str| home.path().join(name);
        let types = ["--type", "bf16", "--type", "q8_0", "--type", "q4_k_m"];
        extract(&fixture(checkpoint), layers, &at("direct"), &types).good();
        extract(&bf16, layers, &at("ours"), &types).good();
        convert(&fixture(checkpoint), &at("parts"), &["--type", "f32", "--split-max-size", "2MB"]).good();
        let part = names(&at("parts")).into_iter().find(|name| name.ends_with(".gguf")).unwrap();
        extract(&at("parts").join(part), layers, &at("of-parts"), &types).good();
        for name in ["draft-bf16.gguf", "draft-q8_0.gguf", "draft-q4_k_m.gguf"] {
            is_same(&at("direct").join(name), &at("ours").join(name));
            is_same(&at("direct").join(name), &at("of-parts").join(name));
        }
        // nothing is left of the extraction
        assert_eq!(names(&at("ours")), names(&at("direct")));
        run(["verify", at("ours/draft-q8_0.gguf").to_str().unwrap()]).good();
        let manifest = support::json(&at("ours/manifest.json"));
        let target = &manifest["artifacts"][0]["target"];
        let numbers: Vec<u64> = layers.split(',').map(|layer| layer.parse().unwrap()).collect();
        assert_eq!(target["layers"], serde_json::json!(numbers));
    }
}

/// A text selects the layers that it selects in the checkpoint, also for the draft of a recipe.
#[test]
fn a_text_selects_the_same_layers() {
    let (home, bf16) = source("31b", "bf16");
    let calib = text("calib.txt");
    let by = ["--text", calib.to_str().unwrap(), "--chunks", "2"];
    let [direct, ours] = ["direct.gguf", "ours.gguf"].map(|name| home.path().join(name));
    let [of_folder, of_gguf] = [(&fixture("31b"), &direct), (&bf16, &ours)]
        .map(|(model, out)| extract(model, "4", out, &by).good().json());
    assert_eq!(of_folder["layers"], of_gguf["layers"]);
    assert_eq!(of_folder["choice"], of_gguf["choice"]);
    is_same(&direct, &ours);
    let recipe = ["--type", "q8_0", "--set", "draft.extract=4", "--set", "draft.type=bf16"];
    convert(&bf16, &home.path().join("pair"), &[&recipe[..], &by].concat()).good();
    is_same(&direct, &home.path().join("pair/draft-bf16.gguf"));
}

/// Quantized tensors keep their blocks. The columns of a layer in the tiny per-layer table are less than a block of 256: they are
/// decoded.
#[test]
fn quantized_weights_are_cut() {
    let layers = [1, 3, 5, 7];
    for (preset, warns) in [("q8_0", false), ("q4_k_m", true)] {
        let (home, file) = source("e2b", preset);
        let at = |name: &str| home.path().join(name);
        let same = extract(&file, "1,3,5,7", &at("same.gguf"), &["--type", preset]).good();
        let f32 = extract(&file, "1,3,5,7", &at("f32.gguf"), &["--type", "f32"]).good();
        // a preset may choose another type for a layer at another depth
        assert!(warns || !same.stderr.contains("already quantized"), "{}", same.stderr);
        assert_eq!(f32.stderr.contains("already quantized"), warns, "{}", f32.stderr);
        let [mut whole, mut same, mut f32] =
            [&file, &at("same.gguf"), &at("f32.gguf")].map(|path| Gguf::read(path));
        let decoded = |(desc, bytes): &(tensor::TensorDesc, Vec<u8>)| {
            let mut values = vec![0.0; desc.elements() as usize];
            quant::decode(Simd::detect(), desc.dtype, bytes, &mut values);
            values
        };
        for (at, layer) in layers.into_iter().enumerate() {
            for role in ["attn_q", "ffn_down", "inp_gate"] {
                let (here, there) = (format!("blk.{at}.{role}.weight"), format!("blk.{layer}.{role}.weight"));
                let [q, stored] = [decoded(f32.tensor(&here)), decoded(whole.tensor(&there))];
                assert_eq!(q, stored, "{here}");
                // the preset may choose another type at another depth
                if same.tensor(&here).0.dtype == whole.tensor(&there).0.dtype {
                    assert_eq!(same.tensor(&here).1, whole.tensor(&there).1, "{here}");
                }
            }
        }
        let table = decoded(whole.tensor("per_layer_token_embd.weight"));
        let cut = table.chunks(8 * 32).flat_map(|row| layers.map(|n| row[n * 32..][..32].to_vec()).concat());
        assert_eq!(decoded(f32.tensor("per_layer_token_embd.weight")), cut.collect::<Vec<_>>());
        let is_table = |gguf: &mut Gguf| gguf.tensor("per_layer_token_embd.weight").0.dtype;
        assert_eq!(is_table(&mut whole) == DType::Q8_0, !warns);
        run(["verify", at("same.gguf").to_str().unwrap()]).good();
    }
}

/// An assistant and its target as GGUFs.
#[test]
fn an_assistant_is_converted_from_a_gguf() {
    let (home, target) = source("e2b", "q8_0");
    let at = |name: &str| home.path().join(name);
    let draft = |draft: &Path, target: &Path, preset: &str, out: &Path| {
        let [draft, target, out] = [draft, target, out].map(|path| path.to_str().unwrap());
        run(["draft", "convert", draft, "--target", target, "--type", preset, "-o", out]).good();
    };
    let (assistant, folder) = (fixture("e2b-assistant"), fixture("e2b"));
    draft(&assistant, &folder, "q8_0", &at("direct.gguf"));
    draft(&assistant, &target, "bf16", &at("bf16.gguf"));
    draft(&at("bf16.gguf"), &target, "q8_0", &at("ours.gguf"));
    is_same(&at("direct.gguf"), &at("ours.gguf"));
}

/// Target, output, options; the exit code, and parts of the message.
type Refusal<'a> = (&'a Path, &'a Path, &'a [&'a str], i32, &'a [&'a str]);

#[test]
fn what_is_no_target_is_refused() {
    let (home, file) = source("31b", "bf16");
    let at = |name: &str| home.path().join(name);
    convert(&fixture("e2b"), &at("mmproj.gguf"), &["--mmproj", "bf16"]).good();
    let (assistant, target) = (fixture("e2b-assistant"), fixture("e2b"));
    let args = ["draft", "convert", assistant.to_str().unwrap(), "--target", target.to_str().unwrap()];
    run(args.iter().chain(&["--type", "bf16", "-o", at("draft.gguf").to_str().unwrap()])).good();
    let before = names(home.path());
    let cases: [Refusal<'_>; 5] = [
        (&at("mmproj.gguf"), &at("out.gguf"), &[], 3, &["mmproj", "no text model"]),
        (&at("draft.gguf"), &at("out.gguf"), &[], 3, &["draft model"]),
        (&file, &file, &["--force"], 3, &["this is a file of the source"]),
        (&file, &at("out.gguf"), &["--lora", target.to_str().unwrap()], 3, &["adapter"]),
        (&file, &at("out"), &["--recipe", "fp8"], 2, &["config.json"]),
    ];
    for (model, out, more, code, says) in cases {
        let run = extract(model, "1,5", out, more);
        let said = run.refusal(code);
        says.iter().for_each(|part| assert!(said.contains(part), "{more:?}: {said}"));
    }
    let refused = extract(&file, "0,1", &at("out.gguf"), &[]);
    assert!(refused.refusal(2).contains("no full-attention layer is left"), "{}", refused.stderr);
    let after: Vec<_> = names(home.path()).into_iter().filter(|name| name != "out").collect();
    assert_eq!(after, before);
}
