//! Fine-tunes of QAT checkpoints: weights that are moved off a 4-bit grid become Q4_0 on the nearest one, also with error
//! feedback.

use std::fs;
use std::path::Path;

use crate::qat::qat;
use crate::support::{self, Folder, convert, fixture, names, run, sha256, text};
use checkpoint::{Adapter, Checkpoint};
use serde_json::Value;
use tensor::{DType, TensorSource};

const NEAR: [&str; 4] = ["--recipe", "q4_0-qat", "--set", "types.lattice=near"];
const TUNED: [&str; 2] = ["--recipe", "q4_0-qat-tuned"];
const CALIBRATED: [&str; 2] = ["--recipe", "q4_0-calibrated"];
/// With this scale the adapter changes weights by a twelfth of a step of their grid, RMS.
const SCALE: f64 = 0.05;

fn lora() -> [String; 2] {
    let folder = testkit::fixtures("golden/lora/plain-e2b");
    ["--lora".to_owned(), format!("{}:{SCALE}", folder.display())]
}

fn with_lora<'a>(option: &'a [String; 2], more: &[&'a str]) -> Vec<&'a str> {
    [&[option[0].as_str(), &option[1]], more].concat()
}

/// The calibration text, enough of it for some seconds.
fn with_text<'a>(text: &'a Path, recipe: &[&'a str]) -> Vec<&'a str> {
    [recipe, &["--text", text.to_str().unwrap(), "--chunks", "12"]].concat()
}

/// A verification of `file` against the fine-tune: every byte as expected, and the mean KL divergence.
fn verified(file: &Path, base: &Path, option: &[String; 2]) -> f64 {
    let eval = text("eval.txt");
    let paths = [file, base, &eval].map(|path| path.to_str().unwrap());
    let args = [
        "--json",
        "verify",
        paths[0],
        "--against",
        paths[1],
        "--text",
        paths[2],
        "-c",
        "128",
        "--chunks",
        "4",
    ];
    let verified = run([args.as_slice(), &[&option[0], &option[1]]].concat()).good();
    verified.json()["kld"]["mean"].as_f64().unwrap()
}

fn manifest(out: &Path) -> Value {
    support::json(&out.join("manifest.json"))["artifacts"][0].clone()
}

/// The only GGUF in a folder.
fn gguf(out: &Path) -> std::path::PathBuf {
    let name = names(out).into_iter().find(|name| name.ends_with(".gguf")).unwrap();
    out.join(name)
}

#[test]
fn a_fine_tune_keeps_the_grid_of_its_base() {
    let folder = qat(DType::BF16, |_| true);
    let (option, calib) = (lora(), text("calib.txt"));
    let made = |name: &str, args: &[&str]| {
        let out = folder.home().join(name);
        let run = convert(&folder.path(), &out, &with_lora(&option, args)).good();
        (verified(&gguf(&out), &folder.path(), &option), manifest(&out), run.stderr)
    };
    let (plain, ..) = made("plain", &["--type", "q4_0"]);
    let (near, of_near, said) = made("near", &NEAR);
    let (calibrated, ..) = made("calibrated", &with_text(&calib, &CALIBRATED));
    let (tuned, of_tuned, _) = made("tuned", &with_text(&calib, &TUNED));
    let figures = format!("plain {plain:e}, near {near:e}, calibrated {calibrated:e}, tuned {tuned:e}");
    assert!(near < 0.5 * plain && tuned < 0.5 * calibrated && tuned < 0.8 * near, "{figures}");

    assert!(said.contains("19 are near one, as after fine-tuning; 19 are rounded to it"), "{said}");
    // what no adapter changes is repacked, and what it changes is calibrated
    let count = |list: &Value| list.as_array().unwrap().len();
    let repacked = &of_near["repacked"];
    assert!(repacked.as_array().unwrap().iter().all(|tensor| tensor["blocks"] == tensor["exact"]));
    assert_eq!(repacked, &of_tuned["repacked"]);
    assert_eq!(count(&of_tuned["calibration"]["tensors"]), 19);
}

/// Nothing but the merged weights decides, so a merged folder gives the same files.
#[test]
fn a_merged_fine_tune_gives_the_same_file() {
    let folder = qat(DType::BF16, |_| true);
    let (option, calib) = (lora(), text("calib.txt"));
    let args = [NEAR.to_vec(), with_text(&calib, &TUNED)];
    let with_adapter: Vec<String> = args
        .iter()
        .enumerate()
        .map(|(n, args)| {
            let out = folder.home().join(format!("adapter-{n}"));
            convert(&folder.path(), &out, &with_lora(&option, args)).good();
            sha256(&gguf(&out))
        })
        .collect();
    merge(&folder);
    for (n, args) in args.iter().enumerate() {
        let out = folder.home().join(format!("merged-{n}"));
        convert(&folder.path(), &out, args).good();
        assert_eq!(sha256(&gguf(&out)), with_adapter[n], "{args:?}");
    }
}

/// Writes the adapter's sums into the folder.
fn merge(folder: &Folder) {
    let adapters = [Adapter { folder: testkit::fixtures("golden/lora/plain-e2b"), scale: SCALE }];
    let merged = Checkpoint::open(folder.path()).unwrap().with_adapters(&adapters).unwrap();
    folder.reweigh(|weights| {
        for (index, desc) in
            merged.tensors().iter().enumerate().filter(|(index, _)| merged.is_adapted(*index))
        {
            let mut data = vec![0; desc.byte_len() as usize];
            merged.read_rows(index, 0, &mut data).unwrap();
            weights.get(&desc.name).data = data;
        }
    });
}

#[test]
fn fine_tunes_of_qat_are_told_what_keeps_their_grid() {
    let folder = qat(DType::BF16, |_| true);
    let (option, out) = (lora(), folder.home().join("model.gguf"));
    let plain = convert(&folder.path(), &out, &with_lora(&option, &["--type", "q4_0"])).good();
    assert!(
        plain.stderr.contains("19 are near one") && plain.stderr.contains("--set types.lattice=near"),
        "{}",
        plain.stderr
    );
    fs::remove_file(&out).unwrap();
    let exact = convert(&folder.path(), &out, &with_lora(&option, &["--recipe", "q4_0-qat"]));
    assert!(
        exact.refusal(2).contains("an adapter changes 19")
            && exact.stderr.contains("--set types.lattice=near")
    );
}

#[test]
fn weights_that_are_near_no_grid_are_refused() {
    for name in ["e2b", "26b-a4b"] {
        let out = tempfile::tempdir().unwrap();
        let refused = convert(&fixture(name), &out.path().join("model.gguf"), &NEAR);
        let said = refused.refusal(2);
        assert!(
            said.contains("are not near a 4-bit quantization grid") && said.contains("0.0 % of"),
            "{said}"
        );
    }
}
