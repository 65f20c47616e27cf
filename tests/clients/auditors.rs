//! Auditors of model files find nothing in a file of ours that they do not find in stock's.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use xtask::oracle::Oracle;
use xtask::oracle::clients::{AUDITORS, Installed};

use crate::support::{convert, fixture, names, run};

/// Keys that stock's files do not have, and c4nary lists with those that it does not know.
const OURS: [&str; 2] = ["split.set", "gemma-convert."];

/// What c4nary finds: rule, severity, place.
fn c4nary(auditors: &Installed, file: &Path) -> Vec<[String; 3]> {
    let mut command = auditors.python("c4nary");
    let output =
        command.args(["scan", "--json", "--deep-tokenizer", "--fail-on", "none"]).arg(file).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    let findings = report["findings"].as_array().unwrap_or_else(|| panic!("{report}"));
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    findings.iter().map(|f| ["rule_id", "severity", "location"].map(|key| text(f, key))).collect()
}

/// What aisbom says of each file of a folder: name, risk and legal risk.
fn aisbom(auditors: &Installed, folder: &Path) -> Vec<(String, String)> {
    let report = folder.join("aisbom.json");
    let mut command = auditors.python("aisbom");
    let output = command
        .arg("scan")
        .arg(folder)
        .args(["--strict", "--lint", "--output"])
        .arg(&report)
        .output()
        .unwrap();
    let text = std::fs::read(&report).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    std::fs::remove_file(&report).unwrap();
    let report: Value = serde_json::from_slice(&text).unwrap();
    let components = report["components"].as_array().unwrap_or_else(|| panic!("{report}"));
    components
        .iter()
        .map(|c| (c["name"].as_str().unwrap().to_owned(), c["description"].as_str().unwrap().to_owned()))
        .collect()
}

/// The same, made by stock: of a checkpoint, in a type, and in parts.
fn stock(oracle: &Oracle, checkpoint: &str, folder: &Path, to_type: Option<&str>) {
    std::fs::create_dir(folder).unwrap();
    let ok = |command: &mut Command| drop(super::output(command));
    let base = folder.join("model-bf16.gguf");
    let mut script = oracle.script("convert_hf_to_gguf.py");
    script.arg(fixture(checkpoint)).args(["--outtype", "bf16", "--outfile"]).arg(&base);
    if let Some(target) = checkpoint.strip_suffix("-assistant") {
        script.arg("--target-model-dir").arg(fixture(target));
    }
    ok(&mut script);
    if let Some(preset) = to_type {
        let whole = folder.join(format!("model-{preset}.gguf"));
        ok(oracle.tool("llama-quantize").arg(&base).arg(&whole).arg(preset.to_uppercase()));
        let mut split = oracle.tool("llama-gguf-split");
        ok(split.args(["--split", "--split-max-size", "1M"]).arg(&whole).arg(folder.join("part")));
    }
}

#[test]
fn auditors_find_no_more_than_in_stock_files() {
    let (Some(oracle), Some(auditors)) = (Oracle::for_tests(), AUDITORS.for_tests()) else { return };
    let home = tempfile::tempdir().unwrap();
    for name in ["e2b", "31b"] {
        let [ours, theirs] = ["ours", "stock"].map(|who| home.path().join(format!("{name}-{who}")));
        stock(&oracle, name, &theirs, Some("q4_0"));
        let recipes = ["bf16", "q4_0", "q4_0-offload"].map(|recipe| ["--recipe", recipe]).concat();
        convert(&fixture(name), &ours, &recipes).good();
        convert(&fixture(name), &ours, &["--recipe", "browser", "--split-max-size", "1MB"]).good();
        compare(&auditors, &ours, &theirs);
    }
    let [ours, theirs] = ["ours", "stock"].map(|who| home.path().join(format!("draft-{who}")));
    stock(&oracle, "e2b-assistant", &theirs, None);
    let (assistant, target) = (fixture("e2b-assistant"), fixture("e2b"));
    let paths =
        [assistant.to_str().unwrap(), "--target", target.to_str().unwrap(), "-o", ours.to_str().unwrap()];
    run([["draft", "convert"].as_slice(), &paths, &["--type", "bf16"]].concat()).good();
    compare(&auditors, &ours, &theirs);
}

fn compare(auditors: &Installed, ours: &Path, theirs: &Path) {
    let files = |folder: &Path| {
        let all = names(folder).into_iter().filter(|name| name.ends_with(".gguf"));
        all.map(|name| folder.join(name)).collect::<Vec<_>>()
    };
    let known: Vec<_> = files(theirs).iter().flat_map(|file| c4nary(auditors, file)).collect();
    assert!(known.iter().any(|[rule, ..]| rule == "MET004"), "the auditor looks at stock's files: {known:?}");
    for file in files(ours) {
        for finding in c4nary(auditors, &file) {
            let own = finding[1] == "INFO" && OURS.iter().any(|key| finding[2].starts_with(key));
            assert!(own || known.contains(&finding), "{}: {finding:?}", file.display());
        }
    }
    let known: Vec<_> = aisbom(auditors, theirs).into_iter().map(|(_, risk)| risk).collect();
    let found = aisbom(auditors, ours);
    assert_eq!(found.len(), files(ours).len());
    for (name, risk) in found {
        assert!(known.contains(&risk), "{name}: {risk}");
    }
}
