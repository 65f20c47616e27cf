//! `verify` of folders of safetensors: those of every scheme pass, whole, in shards, with and without a manifest; broken
//! ones are told by their cause. GGUF files have `verify.rs` and `broken.rs`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{
    self, Folder, Run, WEIGHTS, Weights, convert, fixture, metadata, names, recipe, run, shard_name,
};
use serde_json::Value;

fn text() -> String {
    support::text("eval.txt").to_str().unwrap().to_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn verify(artifact: &Path, model: &Path, more: &[&str]) -> Run {
    run([&["verify", path(artifact), "--against", path(model), "--json"], more].concat())
}

#[track_caller]
fn passes(artifact: &Path, model: &Path, more: &[&str]) -> Value {
    let report = verify(artifact, model, more).good().json();
    // plain text is not what an instruction-tuned model is for
    let above = |f: &&Value| f["severity"] != "note" && f["place"] != "protocol";
    assert_eq!(report["findings"].as_array().unwrap().iter().find(above), None);
    report
}

fn number(report: &Value, pointer: &str) -> f64 {
    report.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer}: {report:#}"))
}

#[test]
fn every_scheme_passes_and_bf16_does_not_diverge_at_all() {
    let home = tempfile::tempdir().unwrap();
    let text = text();
    let few = ["-c", "64", "--chunks", "4", "--text", &text];
    for name in ["e2b", "26b-a4b", "31b"] {
        let model = fixture(name);
        let [bf16, sfp8, fp8] = ["bf16-safetensors", "sfp8", "fp8"].map(|scheme| {
            let out = home.path().join(format!("{name}-{scheme}"));
            recipe(&model, &out, scheme, &[]).good();
            passes(&out, &model, &few)
        });
        for figure in ["/kld/mean", "/kld/max", "/delta_p/rms"] {
            assert_eq!(number(&bf16, figure), 0.0, "{name} {figure}");
        }
        assert_eq!(bf16["artifact"]["bytes"], bf16["base"]["bytes"]);
        for (coded, dtype) in [(&sfp8, "sfp8"), (&fp8, "f8_e4m3")] {
            let kld = number(coded, "/kld/mean");
            assert!(kld > 1e-5 && kld < 0.05, "{name} {dtype}: {kld}");
            assert!(number(coded, &format!("/artifact/types/{dtype}")) > 0.0);
            assert_eq!(coded["structure"]["plan"], "manifest");
            // as many as the plan has, less the scales
            assert_eq!(coded["structure"]["tensors"], bf16["structure"]["tensors"]);
            assert_eq!(coded["structure"]["hashed"], 7);
            let q = coded["tensors"]["tensors"].as_array().unwrap();
            let q: Vec<_> = q.iter().filter(|t| t["dtype"] == dtype).collect();
            let relative = |t: &&Value| t["relative"].as_f64().unwrap();
            assert!(q.iter().map(relative).all(|r| r > 0.005 && r < 0.06), "{name} {dtype}");
            // a byte a weight, and the scales
            assert!(q.iter().all(|t| t["bytes"].as_u64() > t["weights"].as_u64()));
        }
    }
}

/// In shards, the text model alone, with the table apart; by its manifest, a recipe, or how it is stored.
#[test]
fn however_it_is_dealt_and_whatever_is_known_of_it() {
    let home = tempfile::tempdir().unwrap();
    let model = fixture("e2b");
    let offload = "output.offload=[\"per-layer\"]";
    for (number, (scheme, more)) in [
        ("sfp8", vec!["--max-shard-size", "2MB"]),
        ("fp8", vec!["--text-only", "--max-shard-size", "2MB"]),
        ("bf16-safetensors", vec!["--set", offload]),
    ]
    .into_iter()
    .enumerate()
    {
        let out = home.path().join(number.to_string());
        recipe(&model, &out, scheme, &more).good();
        assert_eq!(passes(&out, &model, &[])["structure"]["plan"], "manifest");
        fs::remove_file(out.join("manifest.json")).unwrap();
        let report = passes(&out, &model, &[]);
        assert_ne!(report["structure"]["plan"], "manifest");
        if scheme == "sfp8" {
            let report = passes(&out, &model, &["--recipe", scheme]);
            assert_eq!(report["structure"]["plan"], "recipe sfp8");
        }
    }
    // the split GGUFs of issue 4's recipes
    for recipe_name in ["q4_0-offload", "browser"] {
        let out = home.path().join(recipe_name);
        recipe(&model, &out, recipe_name, &[]).good();
        let first = names(&out).into_iter().find(|name| name.ends_with(".gguf")).unwrap();
        passes(&out.join(first), &model, &[]);
        // the folder of a split is a set of one artifact
        let set = verify(&out, &model, &[]).good().json();
        assert_eq!(set["reports"].as_array().unwrap().len(), 1, "{set:#}");
    }
}

/// A folder of 31b, broken; its manifest is gone, or it would know before.
struct Broken {
    folder: Folder,
    scheme: &'static str,
}

impl Broken {
    fn new(scheme: &'static str, more: &[&str]) -> Broken {
        let folder = Folder::of("31b");
        recipe(&folder.path(), &folder.out(), scheme, more).good();
        fs::remove_file(folder.out().join("manifest.json")).unwrap();
        Broken { folder, scheme }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.out().join(name)
    }

    fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut json = support::json(&self.file(name));
        change(&mut json);
        fs::write(self.file(name), format!("{json:#}\n")).unwrap();
    }

    fn reweigh(&self, change: impl FnOnce(&mut Weights)) {
        let format = metadata(&self.folder.out());
        let mut weights = support::weights(&self.folder.out());
        change(&mut weights);
        fs::write(self.file(WEIGHTS), weights.to_bytes_with(Some(&format))).unwrap();
    }

    /// The failures, held against the recipe and, as far as it is known, by what the folder says itself.
    #[track_caller]
    fn fails(&self, says: &[&str]) {
        for more in [&["--recipe", self.scheme][..], &[]] {
            let run = verify(&self.folder.out(), &self.folder.path(), more);
            assert_eq!(run.code, Some(1), "{}{}", run.stdout, run.stderr);
            let report = run.json();
            let failures =
                report["findings"].as_array().unwrap().iter().filter(|f| f["severity"] == "failure");
            let lines: Vec<_> =
                failures.map(|f| format!("{}: {}", f["place"], f["problem"]).replace('"', "")).collect();
            for part in says {
                assert!(lines.iter().any(|line| line.contains(part)), "{part:?} is not in {lines:#?}");
            }
        }
    }

    fn refused(&self, says: &[&str]) {
        let run = verify(&self.folder.out(), &self.folder.path(), &[]);
        let message = run.refusal(3);
        says.iter().for_each(|part| assert!(message.contains(part), "{message}"));
    }
}

#[test]
fn weights_that_are_wrong_are_told_by_their_cause() {
    let up = "layers.1.mlp.up_proj.weight";
    for scheme in ["sfp8", "fp8", "bf16-safetensors"] {
        let missing = Broken::new(scheme, &[]);
        missing.reweigh(|weights| {
            weights.drop(up);
            weights.tensors.retain(|t| !t.name.contains(up));
        });
        missing.fails(&["layers.1.mlp.up_proj.weight: missing"]);

        let zero = Broken::new(scheme, &[]);
        zero.reweigh(|weights| weights.get(up).data.fill(0));
        zero.fails(&["layers.1.mlp.up_proj.weight: all values are 0"]);

        let swapped = Broken::new(scheme, &[]);
        swapped.reweigh(|weights| {
            for suffix in ["", "_scale"] {
                let [a, b] = [0, 2].map(|n| format!("layers.{n}.mlp.up_proj.weight{suffix}"));
                if weights.tensors.iter().any(|t| t.name.ends_with(&a)) {
                    let data = std::mem::take(&mut weights.get(&a).data);
                    let other = std::mem::replace(&mut weights.get(&b).data, data);
                    weights.get(&a).data = other;
                }
            }
        });
        swapped.fails(&[
            "layers.0.mlp.up_proj.weight: it is exchanged with",
            "layers.2.mlp.up_proj.weight: it is exchanged with",
        ]);
    }
    let sfp8 = Broken::new("sfp8", &[]);
    sfp8.reweigh(|weights| weights.get("layers.1.mlp.up_proj.weight.sfp_scale").poke(0, 2.0));
    sfp8.fails(&["layers.1.mlp.up_proj.weight: its values are those of the base times 1.99"]);
    let fp8 = Broken::new("fp8", &[]);
    // the exponent of one row's scale
    fp8.reweigh(|weights| {
        let scale = &mut weights.get("layers.1.mlp.up_proj.weight_scale").data[2 * 7..2 * 8];
        let bits = u16::from_le_bytes([scale[0], scale[1]]) + 0x80;
        scale.copy_from_slice(&bits.to_le_bytes());
    });
    fp8.fails(&["layers.1.mlp.up_proj.weight: its values are those of the base times"]);
}

/// Shards of the same names and sizes, made of other weights.
#[test]
fn a_shard_of_another_model_is_found() {
    let shards = ["--max-shard-size", "2MB"];
    let ours = Broken::new("fp8", &shards);
    let other = Folder::of("31b");
    other.reweigh(|weights| {
        let matrices = weights.tensors.iter_mut().filter(|t| t.shape.len() == 2);
        matrices.for_each(|t| t.data.rotate_left(2 * 33));
    });
    recipe(&other.path(), &other.out(), "fp8", &shards).good();
    let count = names(&other.out()).iter().filter(|name| name.ends_with(".safetensors")).count();
    let name = shard_name(2, count);
    // one that says it is of the same conversion; else the folder would not open
    let set = support::metadata_of(&ours.file(&name));
    let shard = Weights::parse(&fs::read(other.out().join(&name)).unwrap()).to_bytes_with(Some(&set));
    fs::copy(other.out().join(&name), ours.file(&name)).unwrap();
    ours.refused(&[&name, "another conversion"]);
    fs::write(ours.file(&name), shard).unwrap();
    ours.fails(&["hold other values than the base"]);

    // a manifest knows before
    recipe(&ours.folder.path(), &ours.folder.home().join("again"), "fp8", &shards).good();
    let again = ours.folder.home().join("again");
    fs::copy(ours.file(&name), again.join(&name)).unwrap();
    let run = verify(&again, &ours.folder.path(), &[]);
    let report = run.json();
    assert_eq!((run.code, report["findings"][0]["place"].as_str()), (Some(1), Some(name.as_str())));
    assert!(report["findings"][0]["problem"].as_str().unwrap().contains("changed after it was written"));
    assert_eq!(report["skipped"][0]["step"], "tensors");

    // cut short
    let bytes = fs::read(ours.file(&name)).unwrap();
    fs::write(ours.file(&name), &bytes[..bytes.len() - 1000]).unwrap();
    ours.refused(&[&name, "bytes"]);
    fs::remove_file(ours.file(&name)).unwrap();
    ours.refused(&[&name, "missing"]);
    // of another variant altogether
    let run = verify(&other.out(), &fixture("e2b"), &[]);
    assert!(run.refusal(3).contains("another variant"), "{}", run.stderr);
}

#[test]
fn what_lies_beside_the_weights_is_looked_at() {
    let config = Broken::new("fp8", &[]);
    config.edit("config.json", |c| c["text_config"]["sliding_window"] = 32.into());
    config.fails(&["key gemma4.attention.sliding_window: it has another value"]);

    let lost = Broken::new("fp8", &[]);
    lost.edit("config.json", |c| drop(c.as_object_mut().unwrap().remove("quantization_config")));
    let run = verify(&lost.folder.out(), &lost.folder.path(), &["--recipe", "fp8"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stdout.contains("config.json: quantization_config"), "{}", run.stdout);
    assert!(run.stdout.contains("it does not say how the weights are stored"));

    let merges = Broken::new("bf16-safetensors", &[]);
    merges.edit("tokenizer.json", |t| t["model"]["merges"].as_array_mut().unwrap().swap(100, 200));
    merges.fails(&["key tokenizer.ggml.merges: entries 100 and 200 are exchanged"]);

    let gone = Broken::new("sfp8", &[]);
    fs::remove_file(gone.file("tokenizer.json")).unwrap();
    gone.fails(&["tokenizer.json"]);

    // without it transformers cannot prepare an image
    let processor = Broken::new("sfp8", &[]);
    fs::remove_file(processor.file("processor_config.json")).unwrap();
    processor.fails(&["processor_config.json: missing: it belongs to the model"]);

    // a tower's weight
    let tower = Broken::new("bf16-safetensors", &[]);
    tower.reweigh(|weights| {
        let mut tensors = weights.tensors.iter_mut();
        let tower = tensors.find(|t| t.name.contains("vision") && t.shape.len() == 2).unwrap();
        tower.poke(5, 100.0);
    });
    tower.fails(&["vision"]);
}

#[test]
fn a_recipe_of_the_other_container_is_refused() {
    let folder = Folder::of("31b");
    recipe(&folder.path(), &folder.out(), "sfp8", &[]).good();
    let run = verify(&folder.out(), &folder.path(), &["--recipe", "q4_0"]);
    assert!(run.refusal(2).contains("a recipe for safetensors"), "{}", run.stderr);
    // a GGUF has no plan for a folder; predictions can be compared all the same
    let gguf = folder.home().join("model.gguf");
    convert(&folder.path(), &gguf, &["--type", "bf16"]).good();
    let text = text();
    let report = passes(&folder.out(), &gguf, &["-c", "64", "--chunks", "2", "--text", &text]);
    assert_eq!(report["skipped"].as_array().unwrap().len(), 2);
    assert!(number(&report, "/kld/mean") > 1e-5);
}
