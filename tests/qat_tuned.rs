//! Fine-tunes of QAT checkpoints: weights that are moved off a 4-bit grid become Q4_0 on the nearest one, also with error
//! feedback.

use std::fs;
use std::path::Path;

use crate::qat::qat;
use crate::support::{self, Folder, convert, fixture, names, run, sha256, text};
use checkpoint::{Adapter, Checkpoint};
use serde_json::Value;
use tensor::{DType, TensorSource};

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

/// The mean KL divergence of `file` from the fine-tune, and whether its verification passes.
fn verified(file: &Path, base: &Path, option: &[String; 2]) -> (f64, bool) {
    let eval = text("eval.txt");
    let [file, base, eval] = [file, base, &eval].map(|path| path.to_str().unwrap());
    let args = ["--json", "verify", file, "--against", base, "--text", eval, "-c", "128", "--chunks", "4"];
    let report = run([&args[..], &["--keep-going", &option[0], &option[1]]].concat()).json();
    (report["kld"]["mean"].as_f64().unwrap(), report["passed"].as_bool().unwrap())
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
    let ((plain, _), ..) = made("plain", &["--type", "q4_0"]);
    let ((calibrated, is_right), ..) = made("calibrated", &with_text(&calib, &CALIBRATED));
    let ((tuned, passes), of_tuned, said) = made("tuned", &with_text(&calib, &TUNED));
    let figures = format!("plain {plain:e}, calibrated {calibrated:e}, tuned {tuned:e}");
    assert!(tuned < 0.3 * plain && tuned < 0.9 * calibrated && passes, "{figures}");
    assert!(is_right, "the calibrated file is correct, however few of its rows are rounded: {figures}");

    assert!(said.contains("19 are near one, as after fine-tuning; 19 are rounded to it"), "{said}");
    // what no adapter changes is repacked, and what it changes is calibrated
    let count = |list: &Value| list.as_array().unwrap().len();
    let repacked = of_tuned["repacked"].as_array().unwrap();
    assert!(repacked.len() > 40 && repacked.iter().all(|tensor| tensor["blocks"] == tensor["exact"]));
    assert_eq!(count(&of_tuned["calibration"]["tensors"]), 19);
}

/// Nothing but the merged weights decides, so a merged folder gives the same file.
#[test]
fn a_merged_fine_tune_gives_the_same_file() {
    let folder = qat(DType::BF16, |_| true);
    let (option, calib) = (lora(), text("calib.txt"));
    let args = with_text(&calib, &TUNED);
    let outs = ["adapter", "merged"].map(|name| folder.home().join(name));
    convert(&folder.path(), &outs[0], &with_lora(&option, &args)).good();
    merge(&folder);
    convert(&folder.path(), &outs[1], &args).good();
    assert_eq!(sha256(&gguf(&outs[0])), sha256(&gguf(&outs[1])));
}

/// Writes the adapter's sums into the folder.
fn merge(folder: &Folder) {
    let adapters = [Adapter { folder: testkit::fixtures("golden/lora/plain-e2b"), scale: SCALE, tie: false }];
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
    let calib = text("calib.txt");
    for name in ["e2b", "26b-a4b"] {
        let out = tempfile::tempdir().unwrap();
        let refused = convert(&fixture(name), &out.path().join("model.gguf"), &with_text(&calib, &TUNED));
        let said = refused.refusal(2);
        assert!(
            said.contains("are not near a 4-bit quantization grid") && said.contains("0.0 % of"),
            "{said}"
        );
    }
}

/// Without error feedback the nearest values are mostly those of the base.
#[test]
fn a_fine_tune_is_not_rounded_away() {
    let out = tempfile::tempdir().unwrap();
    let near = ["--recipe", "q4_0-qat", "--set", "types.lattice=near"];
    let refused = convert(&fixture("e2b"), &out.path().join("model.gguf"), &near);
    assert!(refused.refusal(2).contains("--set calibration.method=ldlq"), "{}", refused.stderr);
}
