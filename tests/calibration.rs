//! Calibration: importance held against llama-imatrix's, and rounding for a text, which must beat rounding by importance at
//! the same types, survive being killed and say what is wrong with a text. Skipped where llama.cpp is not built: what needs it.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::support::held::{go_on, held};
use crate::support::{self, Folder, command, convert, convert_args, fixture, names, run, sha256, text};
use imatrix::{Entry, Importance};
use serde_json::Value;
use tempfile::TempDir;
use xtask::oracle::Oracle;

/// Importance of some chunks of the calibration text.
fn calibrate(checkpoint: &str, chunks: &str, out: &Path) {
    let (model, text) = (fixture(checkpoint), text("calib.txt"));
    let args =
        ["calibrate", model.to_str().unwrap(), "--text", text.to_str().unwrap(), "-c", "256", "--chunks"];
    run([args.as_slice(), &[chunks, "-o", out.to_str().unwrap()]].concat()).good();
}

/// Every sum of llama-imatrix is ours within 1 %, of as many tokens; llama-quantize makes of our file what we do.
fn compare(checkpoint: &str) {
    let Some(oracle) = Oracle::for_tests() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    // in f32, or llama-imatrix would see inputs rounded to BF16
    convert(&fixture(checkpoint), &file("f32.gguf"), &["--type", "f32"]).good();
    convert(&fixture(checkpoint), &file("bf16.gguf"), &["--type", "bf16"]).good();
    let mut tool = oracle.runner("llama-imatrix");
    tool.args(["-c", "256", "-t", "1", "--no-ppl", "--chunks", "4", "-m"]).arg(file("f32.gguf"));
    let output = tool.arg("-f").arg(text("calib.txt")).arg("-o").arg(file("stock.gguf")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    calibrate(checkpoint, "4", &file("ours.gguf"));
    let (stock, ours) =
        (Importance::read(file("stock.gguf")).unwrap(), Importance::read(file("ours.gguf")).unwrap());
    assert_eq!((ours.chunks, ours.chunk_size), (stock.chunks, stock.chunk_size));
    for (name, entry) in stock.iter() {
        let found = ours.get(name).unwrap_or_else(|| panic!("{checkpoint}: no entry {name}"));
        if entry.counts().len() > 1 {
            // keys and values in f16 make llama-imatrix send a few tokens to other experts: held against it is what all see
            let all = |entry: &Entry| entry.sums().iter().map(|&sum| f64::from(sum)).sum::<f64>();
            // what an expert without tokens is given counts for one
            let seen = found.counts().iter().sum::<u64>() - found.filled().count() as u64;
            assert_eq!(entry.counts().iter().sum::<u64>(), seen, "{name}");
            let ratio = all(found) / all(entry);
            assert!((ratio - 1.0).abs() <= 0.01, "{checkpoint}: {name}: {ratio} of all sums");
            continue;
        }
        assert_eq!(entry.counts(), found.counts(), "{checkpoint}: {name}");
        // columns that nearly nothing goes through are all rounding
        let least = 1e-6 * entry.sums().iter().fold(0f32, |most, sum| most.max(*sum));
        for (expected, sum) in entry.sums().iter().zip(found.sums()) {
            let far = (expected - sum).abs() > 0.01 * expected.max(least);
            assert!(!far, "{checkpoint}: {name}: {sum}, not {expected}");
        }
    }
    assert!(ours.get("token_embd.weight").is_some(), "the head, which llama-imatrix leaves out");

    convert(
        &fixture(checkpoint),
        &file("ours-q4_0.gguf"),
        &["--type", "q4_0", "--importance", file("ours.gguf").to_str().unwrap()],
    )
    .good();
    let mut tool = oracle.tool("llama-quantize");
    tool.arg("--imatrix")
        .arg(file("ours.gguf"))
        .arg(file("bf16.gguf"))
        .arg(file("stock-q4_0.gguf"))
        .arg("Q4_0");
    let output = tool.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(sha256(&file("ours-q4_0.gguf")), sha256(&file("stock-q4_0.gguf")), "{checkpoint}");
}

#[test]
fn importance_of_e2b_is_that_of_llama_imatrix() {
    compare("e2b");
}

#[test]
fn importance_of_26b_a4b_is_that_of_llama_imatrix() {
    compare("26b-a4b");
}

#[test]
fn pieces_of_a_text_add_up() {
    pieces_add_up("e2b");
    pieces_add_up("26b-a4b");
}

fn pieces_add_up(checkpoint: &str) {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    for (chunks, name) in [("0..3", "a"), ("3..5", "b"), ("5", "all")] {
        calibrate(checkpoint, chunks, &file(name));
    }
    let [a, b, merged] = ["a", "b", "merged"].map(|name| file(name).to_str().unwrap().to_owned());
    run(["calibrate", "--merge", &a, &b, "-o", &merged]).good();
    let (all, merged) = (Importance::read(file("all")).unwrap(), Importance::read(&merged).unwrap());
    assert_eq!((all.chunks, all.len()), (merged.chunks, merged.len()));
    for (name, entry) in all.iter() {
        let found = merged.get(name).unwrap();
        assert_eq!(entry.counts(), found.counts(), "{name}");
        for (x, y) in entry.sums().iter().zip(found.sums()) {
            assert!((x - y).abs() <= 1e-5 * x, "{name}: {x} and {y}");
        }
    }
}

const CONTEXT: [&str; 2] = ["--set", "calibration.context=256"];

fn calibrated(checkpoint: &Path, out: &Path, chunks: &str) -> support::Run {
    let text = text("calib.txt");
    let args = ["--recipe", "q4_0-calibrated", "--text", text.to_str().unwrap(), "--chunks", chunks];
    convert(checkpoint, out, &[args.as_slice(), &CONTEXT].concat())
}

/// Mean KL divergence on text that was not calibrated on.
fn divergence(artifact: &Path, checkpoint: &str) -> f64 {
    let (checkpoint, text) = (fixture(checkpoint), text("eval.txt"));
    let args = ["verify", artifact.to_str().unwrap(), "--against", checkpoint.to_str().unwrap()];
    let more = ["--text", text.to_str().unwrap(), "--context", "256", "--chunks", "24", "--json", "--quiet"];
    let report: Value = run([args.as_slice(), &more].concat()).good().json();
    report["kld"]["mean"].as_f64().unwrap()
}

/// Rounding for a text against llama-quantize's with importance of the same text: as large, of the same types, and so much
/// nearer to the checkpoint.
fn beats(checkpoint: &str, ratio: f64) {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    calibrate(checkpoint, "48", &file("importance.gguf"));
    let importance = file("importance.gguf");
    convert(
        &fixture(checkpoint),
        &file("importance/model.gguf"),
        &["--type", "q4_0", "--importance", importance.to_str().unwrap()],
    )
    .good();
    calibrated(&fixture(checkpoint), &file("calibrated/model.gguf"), "48").good();
    let tensors = |name: &str| -> Vec<Value> {
        let model = file(name);
        let json: Value = run(["inspect", model.to_str().unwrap(), "--tensors", "--json"]).good().json();
        json["tensors"].as_array().unwrap().clone()
    };
    assert_eq!(
        tensors("importance/model.gguf").iter().map(|t| (&t["name"], &t["type"])).collect::<Vec<_>>(),
        tensors("calibrated/model.gguf").iter().map(|t| (&t["name"], &t["type"])).collect::<Vec<_>>()
    );
    let manifest: Value =
        serde_json::from_slice(&fs::read(file("calibrated/model.gguf.manifest.json")).unwrap()).unwrap();
    let rounded = manifest["artifacts"][0]["calibration"]["tensors"].as_array().unwrap();
    let head = rounded.iter().find(|t| t["tensor"] == "token_embd.weight").unwrap();
    assert_eq!(head["method"], "feedback");
    assert!(head["error_ratio"].as_f64().unwrap() <= 0.60, "{head}");
    let [plain, fed] =
        ["importance", "calibrated"].map(|name| divergence(&file(name).join("model.gguf"), checkpoint));
    assert!(fed <= ratio * plain, "{checkpoint}: {fed} against {plain}, {:.3} of it", fed / plain);
}

#[test]
fn e2b_is_nearer_to_its_checkpoint() {
    beats("e2b", 0.60);
}

#[test]
fn a_mixture_of_experts_is_nearer_to_its_checkpoint() {
    beats("26b-a4b", 0.70);
}

/// A folder of the same files, their times included.
pub(crate) fn link_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in names(from) {
        fs::hard_link(from.join(&name), to.join(&name)).unwrap();
    }
}

#[test]
fn a_killed_run_goes_on_where_it_was_and_gives_the_same_bytes() {
    let folder = Folder::of("e2b");
    let whole = folder.home().join("whole");
    calibrated(&folder.path(), &whole, "16").good();
    let name = "model-calibrated-q4_0.gguf";
    let text = text("calib.txt");
    let args = ["--recipe", "q4_0-calibrated", "--text", text.to_str().unwrap(), "--chunks", "16"];
    let args = [args.as_slice(), &CONTEXT].concat();
    let start = || {
        let mut command = command(convert_args(&folder.path(), &folder.out(), &args));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let kept = folder.out().join("model-calibrated-q4_0.calibration");
    let layer = kept.join("blk.1.gguf");
    let afresh = || {
        let _ = fs::remove_dir_all(folder.out());
        start()
    };
    let mut child = held(afresh, || layer.exists() && !folder.out().join(name).exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let made = fs::metadata(&layer).unwrap().modified().unwrap();
    // what is there is used: a layer that is made again would be newer
    let saved = folder.home().join("saved");
    link_all(&kept, &saved);
    let go_on_from_it = || {
        let _ = fs::remove_dir_all(folder.out());
        link_all(&saved, &kept);
        start()
    };
    let mut again = held(go_on_from_it, || kept.join("blk.3.gguf").exists());
    assert_eq!(fs::metadata(&layer).unwrap().modified().unwrap(), made);
    go_on(&again);
    assert!(again.wait().unwrap().success());
    assert_eq!(sha256(&folder.out().join(name)), sha256(&whole.join(name)));
    assert!(!layer.exists(), "what was kept for later is of no use any more");
}

/// What is said about a text or a recipe that will not do; nothing is written.
#[test]
fn what_cannot_be_calibrated_is_refused() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out");
    let short = dir.path().join("short.txt");
    fs::write(&short, "a little text. ".repeat(60)).unwrap();
    let (calib, e2b) = (text("calib.txt"), fixture("e2b"));
    let cases: [(&[&str], i32, &str); 5] = [
        (&["--recipe", "q4_0-calibrated"], 2, "there is none"),
        (&["--type", "q4_0", "--text", calib.to_str().unwrap()], 2, "no recipe needs a calibration text"),
        (
            &[
                "--recipe",
                "q4_0-calibrated",
                "--text",
                short.to_str().unwrap(),
                "--set",
                "calibration.context=64",
            ],
            2,
            "too little",
        ),
        (
            &["--recipe", "q4_0-calibrated", "--text", calib.to_str().unwrap(), "--text-memory", "1MB"],
            3,
            "do not fit",
        ),
        (
            &["--recipe", "sfp8", "--set", "calibration.method=ldlq", "--text", calib.to_str().unwrap()],
            2,
            "no effect on safetensors",
        ),
    ];
    for (args, code, words) in cases {
        let result = convert(&e2b, &out, args);
        let said = result.refusal(code);
        assert!(said.contains(words), "{args:?}: {said}");
        assert!(!out.join("manifest.json").exists());
    }
    let (model, text) = (e2b.to_str().unwrap(), calib.to_str().unwrap());
    // before the text is read at all
    let taken = dir.path().join("taken.gguf");
    fs::write(&taken, "something else").unwrap();
    let refused = calibrated(&e2b, &taken, "9000..9001");
    assert!(refused.refusal(3).contains("exists already"));
    let out = dir.path().join("importance.gguf");
    let args = ["calibrate", model, "--text", text, "--chunks", "9000..9001", "-o", out.to_str().unwrap()];
    let beyond = run(args);
    assert!(beyond.refusal(2).contains("beyond the text"));
}
