//! Types by budget: what rounding each tensor costs is measured, types are chosen for a size or a divergence, and the file is
//! one that keeps the budget, that `verify` knows and that llama.cpp reads; it must beat Q4_0 of its size by far.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{self, convert, fixture, json, run, text};
use plan::Sensitivity;
use serde_json::Value;
use xtask::oracle::Oracle;

/// Measures, on a little of the text.
fn measure(checkpoint: &str, out: &Path) -> support::Run {
    let (model, text) = (fixture(checkpoint), text("calib.txt"));
    let args = ["sensitivity", model.to_str().unwrap(), "--text", text.to_str().unwrap(), "--chunks", "12"];
    run([args.as_slice(), &["-c", "256", "-o", out.to_str().unwrap(), "--json"]].concat())
}

/// A file for a limit; `more` are further arguments.
fn within(checkpoint: &str, costs: &Path, out: &Path, limit: [&str; 2], more: &[&str]) -> support::Run {
    let text = text("calib.txt");
    let args =
        ["--recipe", "auto", "--sensitivity", costs.to_str().unwrap(), "--text", text.to_str().unwrap()];
    let few = ["--chunks", "32", "--set", "calibration.context=256"];
    convert(&fixture(checkpoint), out, &[args.as_slice(), &limit, &few, more].concat())
}

fn plan(checkpoint: &str, args: &[&str]) -> support::Run {
    run([&["plan", fixture(checkpoint).to_str().unwrap()], args].concat())
}

/// The report of a file against its checkpoint.
fn verified(artifact: &Path, checkpoint: &str) -> Value {
    let (checkpoint, text) = (fixture(checkpoint), text("eval.txt"));
    let args = ["verify", artifact.to_str().unwrap(), "--against", checkpoint.to_str().unwrap()];
    let more = ["--text", text.to_str().unwrap(), "--context", "256", "--chunks", "24", "--json", "--quiet"];
    run([args.as_slice(), &more].concat()).good().json()
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

#[test]
fn a_file_of_the_size_of_q4_0_is_nearer_to_its_checkpoint_by_far() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| -> PathBuf { dir.path().join(name) };
    let costs = file("costs.json");
    measure("31b", &costs).good();
    convert(&fixture("31b"), &file("q4_0.gguf"), &["--type", "q4_0"]).good();
    let limit = size(&file("q4_0.gguf"));
    within("31b", &costs, &file("auto.gguf"), ["--target-size", &limit.to_string()], &[]).good();
    assert!(size(&file("auto.gguf")) <= limit);

    // the manifest has the types, so that structure and weights are held against them
    let report = verified(&file("auto.gguf"), "31b");
    let plain = verified(&file("q4_0.gguf"), "31b")["kld"]["mean"].as_f64().unwrap();
    let found = report["kld"]["mean"].as_f64().unwrap();
    assert!(found < 0.45 * plain, "{found} against {plain}");
    assert_eq!(report["allocation"]["bytes"].as_u64(), Some(size(&file("auto.gguf"))));
    // costs of single tensors add up to what all of them cost, about
    let predicted = report["allocation"]["predicted_kld"].as_f64().unwrap();
    assert!((0.5..2.0).contains(&(found / predicted)), "{found}, predicted {predicted}");
    let curve = report["allocation"]["curve"].as_array().unwrap();
    let falls = |pair: &[Value]| {
        pair[0][0].as_u64() < pair[1][0].as_u64() && pair[0][1].as_f64() > pair[1][1].as_f64()
    };
    assert!(curve.len() > 10 && curve.windows(2).all(falls));

    if let Some(oracle) = Oracle::for_tests() {
        let mut tool = oracle.runner("llama-perplexity");
        tool.args(["-c", "128", "-t", "1", "--chunks", "2", "-m"]).arg(file("auto.gguf"));
        tool.arg("-f").arg(text("eval.txt"));
        let (stdout, stderr) = support::said(&mut tool, |stdout, _| stdout.contains("[2]"));
        assert!(stdout.contains("[2]"), "{stdout}{stderr}");
    }
}

#[test]
fn a_divergence_is_reached_with_fewer_bytes_the_larger_it_may_be() {
    let dir = tempfile::tempdir().unwrap();
    let costs = dir.path().join("costs.json");
    measure("e2b", &costs).good();
    let plan = |args: &[&str]| {
        let costs = ["--recipe", "auto", "--sensitivity", costs.to_str().unwrap(), "--json"];
        plan("e2b", &[&costs, args].concat())
    };
    let allocation =
        |kld: &str| plan(&["--target-kld", kld]).good().json()["artifacts"][0]["allocation"].take();
    let mut before = u64::MAX;
    for kld in ["0.0005", "0.001", "0.003"] {
        let found = allocation(kld);
        assert!(found["predicted_kld"].as_f64().unwrap() <= kld.parse().unwrap(), "{found}");
        let bytes = found["bytes"].as_u64().unwrap();
        assert!(bytes < before, "{bytes} bytes for {kld}");
        before = bytes;
    }
    // bits of all tensors, and what a user has named is not the budget's
    let json: Value = plan(&["--target-bpw", "6", "--token-embd-type", "q8_0"]).good().json();
    let tensors = json["artifacts"][0]["files"][0]["tensors"].as_array().unwrap();
    let weights =
        |t: &Value| t["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).product::<u64>();
    let bytes: u64 = tensors.iter().map(|t| t["bytes"].as_u64().unwrap()).sum();
    let bits = 8.0 * bytes as f64 / tensors.iter().map(weights).sum::<u64>() as f64;
    assert!((5.9..=6.0).contains(&bits), "{bits}");
    let of = |name: &str| tensors.iter().find(|t| t["tensor"] == name).unwrap();
    assert_eq!(of("token_embd.weight")["type"], "q8_0");
    let why = of("blk.0.ffn_down.weight")["why"].as_str().unwrap();
    assert!(why.starts_with("budget: "), "{why}");
}

/// Measured on the way, and rounded plainly: the text is of use all the same.
#[test]
fn a_preset_takes_a_budget_and_a_text_without_rounding_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (out, text) = (dir.path().join("out"), text("calib.txt"));
    let args = ["--type", "q4_0", "--target-bpw", "6", "--text", text.to_str().unwrap(), "--chunks", "12"];
    convert(&fixture("26b-a4b"), &out, &args).good();
    let report = verified(&out.join("model-q4_0.gguf"), "26b-a4b");
    let bits =
        8.0 * report["artifact"]["bytes"].as_f64().unwrap() / report["artifact"]["weights"].as_f64().unwrap();
    assert!((5.9..=6.0).contains(&bits), "{bits}");
    // of the size of a rounding to five bits and a half, which is 0.0025 away
    assert!(report["kld"]["mean"].as_f64().unwrap() < 0.003, "{}", report["kld"]);
    assert!(out.join("model-q4_0.sensitivity.json").exists(), "for other sizes");
    let manifest = json(&out.join("manifest.json"));
    assert!(manifest["artifacts"][0]["calibration"].is_null());
    // what is known is not measured again
    let again = [
        "--type",
        "q4_0",
        "--target-bpw",
        "7",
        "--text",
        text.to_str().unwrap(),
        "--chunks",
        "12",
        "--force",
    ];
    convert(&fixture("26b-a4b"), &out, &again).good();
}

/// What some tensors cost is taken out of a file, as if a run had been killed: it is measured, and everything is the same.
#[test]
fn measuring_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, part) = (dir.path().join("whole.json"), dir.path().join("part.json"));
    measure("e2b", &whole).good();
    let mut half: Sensitivity = serde_json::from_slice(&fs::read(&whole).unwrap()).unwrap();
    let measured = half.tensors.values().filter(|cost| cost.kld.is_some()).count();
    assert!(measured > 40, "{measured}");
    half.tensors.values_mut().skip(measured / 2).for_each(|cost| cost.kld = None);
    fs::write(&part, serde_json::to_vec(&half).unwrap()).unwrap();
    let made = measure("e2b", &part).good().json();
    assert_eq!(made["tokens"], half.tokens);
    let [whole, part] = [&whole, &part].map(|path| json(path));
    assert_eq!(whole, part);
}

#[test]
fn what_cannot_be_chosen_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (costs, damaged) = (dir.path().join("costs.json"), dir.path().join("damaged.json"));
    measure("31b", &costs).good();
    fs::write(&damaged, "{}").unwrap();
    let (costs, damaged) = (costs.to_str().unwrap(), damaged.to_str().unwrap());
    let auto = ["--recipe", "auto", "--sensitivity"];
    let cases: [(&str, Vec<&str>, i32, &str); 10] = [
        ("31b", [&auto[..], &[costs, "--target-size", "1MB"]].concat(), 2, "types, found 1MB"),
        (
            "31b",
            [&auto[..], &[costs, "--target-bpw", "2"]].concat(),
            2,
            "bits a weight for this model and these types, found 2",
        ),
        (
            "31b",
            [&auto[..], &[costs, "--set", "budget.types=['sfp8']", "--target-bpw", "2"]].concat(),
            2,
            "not a type whose cost",
        ),
        (
            "31b",
            [&auto[..], &[costs, "--target-size", "1MB", "--tensor-type", ".*weight=q8_0"]].concat(),
            2,
            "found 1MB",
        ),
        ("31b", [&auto[..], &[costs, "--target-kld", "1e-9"]].concat(), 2, "a KL divergence of at least"),
        ("31b", [&auto[..], &[costs]].concat(), 2, "no limit is given"),
        ("e2b", [&auto[..], &[costs, "--target-bpw", "6"]].concat(), 3, "another model"),
        ("31b", [&auto[..], &[damaged, "--target-bpw", "6"]].concat(), 3, "damaged.json"),
        ("31b", vec!["--recipe", "auto", "--target-bpw", "6"], 2, "--sensitivity"),
        ("31b", vec!["--type", "q4_0", "--sensitivity", costs], 2, "no recipe has a budget"),
    ];
    for (checkpoint, args, code, words) in cases {
        let result = plan(checkpoint, &args);
        let said = result.refusal(code);
        assert!(said.contains(words), "{args:?}: {said}");
    }
    let set = ["--recipe", "auto", "--sensitivity", costs, "--target-bpw", "6", "--set", "budget.kld=0.1"];
    assert!(plan("31b", &set).refusal(2).contains("more than one limit"));
    // before anything is measured
    let (out, text) = (dir.path().join("out"), text("calib.txt"));
    let text = ["--recipe", "auto", "--text", text.to_str().unwrap()];
    assert!(convert(&fixture("31b"), &out, &text).refusal(2).contains("no limit is given"));
    let small = [&text[..], &["--target-size", "1MB"]].concat();
    assert!(convert(&fixture("31b"), &out, &small).refusal(2).contains("found 1MB"));
    fs::create_dir(&out).unwrap();
    fs::write(out.join("model-auto-q4_0.gguf"), "something else").unwrap();
    let taken = [&text[..], &["--target-bpw", "6"]].concat();
    assert!(convert(&fixture("31b"), &out, &taken).refusal(3).contains("exists already"));
    assert!(!out.join("model-auto-q4_0.sensitivity.json").exists());
    // a file of something else is not lost, be it of another text
    let taken = dir.path().join("taken.json");
    fs::write(&taken, "{}").unwrap();
    assert!(measure("31b", &taken).refusal(3).contains("exists already"));
    assert_eq!(fs::read(&taken).unwrap(), b"{}");
    let before = fs::read(costs).unwrap();
    let (model, other) = (fixture("31b"), support::text("eval.txt"));
    let args = ["sensitivity", model.to_str().unwrap(), "--text", other.to_str().unwrap(), "-o", costs];
    assert!(run(args).refusal(3).contains("exists already"));
    assert_eq!(fs::read(costs).unwrap(), before);
}
