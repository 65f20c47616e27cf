//! `verify A-mmproj.gguf --against B-mmproj.gguf`: the report is that of the comparison with the checkpoint.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::faults::edit::Gguf;
use crate::mmproj::{converted, with_overlay};
use crate::support::{Folder, Run, run};

fn verify(file: &Path, base: &Path, more: &[&str]) -> Run {
    let args = ["verify", file.to_str().unwrap(), "--against", base.to_str().unwrap(), "--json"];
    run([&args[..], more].concat())
}

/// Both kinds of towers. An F32 file has the values of the checkpoint; a BF16 file has those of the matrices.
#[test]
fn the_figures_are_those_of_the_checkpoint() {
    let media = |name: &str| testkit::fixtures("golden/multimodal").join(name).to_str().unwrap().to_owned();
    let (image, sound) = (media("wide.png"), media("chirp-1.37s.wav"));
    for (folder, given) in [
        (with_overlay("e2b"), &["--image", &image, "--audio", &sound][..]),
        (Folder::of("26b-a4b"), &["--image", &image]),
    ] {
        converted(&folder.path(), &folder.out(), &["--mmproj", "bf16,f16,f32,q8_0,q4_0"]);
        let file = |name: &str| folder.out().join(format!("mmproj-{name}.gguf"));
        for name in ["f32", "f16", "bf16", "q8_0", "q4_0"] {
            let direct = verify(&file(name), &folder.path(), given).json();
            for base in ["f32", "bf16"] {
                let report = verify(&file(name), &file(base), given).good().json();
                assert_eq!(report["outcome"], "passed", "{name} {base}: {report:#}");
                assert_eq!(report["structure"]["tensors"], direct["structure"]["tensors"]);
                assert!(report["base"]["path"].as_str().unwrap().ends_with(&format!("mmproj-{base}.gguf")));
                let figures = |report: &Value| {
                    let tensors = report["tensors"]["tensors"].as_array().unwrap().iter();
                    tensors.map(|t| (t["name"].clone(), t["rmse"].clone())).collect::<Vec<_>>()
                };
                assert_eq!(figures(&report), figures(&direct), "{name} {base}");
                let features = |report: &Value| report["features"].as_array().unwrap().clone();
                let (ours, theirs) = (features(&report), features(&direct));
                assert_eq!((ours.len(), theirs.len()), (given.len() / 2, given.len() / 2));
                for (ours, theirs) in ours.iter().zip(&theirs) {
                    assert_eq!(ours["soft_tokens"], theirs["soft_tokens"]);
                    for key in ["relative_rms", "cosine", "reader_rms"] {
                        let (a, b) = (ours[key].as_f64().unwrap(), theirs[key].as_f64().unwrap());
                        assert!((a - b).abs() < 1e-5, "{name} {base} {key}: {a}, {b}");
                    }
                }
            }
        }
        // both are rounded
        verify(&file("q4_0"), &file("q8_0"), &[]).good();
    }
}

#[test]
fn a_wrong_tensor_is_named() {
    let folder = with_overlay("e2b");
    converted(&folder.path(), &folder.out(), &["--mmproj", "bf16,q8_0"]);
    let base = folder.out().join("mmproj-bf16.gguf");
    let fault = |file: &str, name: &str, change: &dyn Fn(&mut [u8])| {
        let mut gguf = Gguf::read(&folder.out().join(file));
        change(&mut gguf.tensor(name).1);
        let path = folder.home().join("fault.gguf");
        gguf.write(&path);
        let run = verify(&path, &base, &[]);
        assert_eq!(run.code, Some(1), "{name}: {}", run.stderr);
        let findings = run.json()["findings"].as_array().unwrap().clone();
        let named = |finding: &Value| {
            finding["severity"] == "failure" && finding["place"].as_str().unwrap().contains(name)
        };
        assert!(findings.iter().any(named), "{name}: {findings:#?}");
    };
    for file in ["mmproj-bf16.gguf", "mmproj-q8_0.gguf"] {
        // the tables of x and of y, exchanged
        fault(file, "v.position_embd.weight", &|table| {
            let (x, y) = table.split_at_mut(table.len() / 2);
            x.swap_with_slice(y);
        });
        fault(file, "v.blk.0.ffn_down.input_max", &|bound| bound.copy_from_slice(&f32::MAX.to_le_bytes()));
        // two rows of a matrix, exchanged
        fault(file, "mm.input_projection.weight", &|matrix| {
            let row = matrix.len() / 256;
            let (first, second) = matrix.split_at_mut(row);
            first.swap_with_slice(&mut second[..row]);
        });
    }
    let mut gguf = Gguf::read(&folder.out().join("mmproj-q8_0.gguf"));
    gguf.set("clip.vision.patch_size", 14u32);
    gguf.drop("v.blk.1.attn_q.weight");
    let path = folder.home().join("fault.gguf");
    gguf.write(&path);
    let said = verify(&path, &base, &[]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    for place in ["key clip.vision.patch_size", "tensor v.blk.1.attn_q.weight"] {
        assert!(said.stdout.contains(place), "{place}: {}", said.stdout);
    }
}

#[test]
fn what_is_no_pair_is_refused() {
    let (folder, other) = (Folder::of("e2b"), Folder::of("31b"));
    converted(&folder.path(), &folder.out(), &["--mmproj", "bf16,q8_0", "--type", "q8_0"]);
    converted(&other.path(), &other.out(), &["--mmproj", "bf16"]);
    let at = |name: &str| folder.out().join(name);
    let (mmproj, text) = (at("mmproj-bf16.gguf"), at("model-q8_0.gguf"));
    let another = verify(&other.out().join("mmproj-bf16.gguf"), &mmproj, &[]);
    assert!(matches!(another.code, Some(1 | 3)), "{}{}", another.stdout, another.stderr);
    let swapped = verify(&text, &mmproj, &[]);
    assert!(swapped.refusal(2).contains("the base of mmproj files only"), "{}", swapped.stderr);
    let adapter = folder.path();
    let adapted = verify(&mmproj, &mmproj, &["--lora", adapter.to_str().unwrap()]);
    assert!(adapted.refusal(3).contains("not into a GGUF"), "{}", adapted.stderr);
    let predicting = text.with_file_name("eval.txt");
    fs::write(&predicting, "The island").unwrap();
    let predicting = verify(&mmproj, &mmproj, &["--text", predicting.to_str().unwrap()]);
    assert!(predicting.refusal(2).contains("no predictions"), "{}", predicting.stderr);
    // a text model has no towers to compare with
    assert!(verify(&mmproj, &text, &[]).code != Some(0));
}

/// In a set, mmproj files are compared, and the text model is checked alone.
#[test]
fn a_set_is_compared_with_an_mmproj_file() {
    let folder = Folder::of("31b");
    converted(&folder.path(), &folder.out(), &["--mmproj", "f32,q8_0", "--type", "q8_0"]);
    let base = folder.out().join("mmproj-f32.gguf");
    let report = verify(&folder.out(), &base, &[]).json();
    let reports = report["reports"].as_array().unwrap();
    assert_eq!(reports.len(), 3);
    for report in reports {
        let is_mmproj = report["artifact"]["path"].as_str().unwrap().contains("mmproj");
        let outcome = if is_mmproj { "passed" } else { "checked_alone" };
        assert_eq!(report["outcome"], outcome, "{report:#}");
        assert_eq!(report["findings"].to_string().contains("the base of mmproj files only"), !is_mmproj);
    }
}
