//! Whole files against llama.cpp's own: every preset of every tiny checkpoint has the SHA-256 of the file that
//! `convert_hf_to_gguf.py` and `llama-quantize` make. Digests only; the real tools run in `judge.rs`.

use std::collections::BTreeMap;
use std::process::Command;

/// checkpoint → preset → (bytes, sha256)
fn golden() -> BTreeMap<String, BTreeMap<String, (u64, String)>> {
    let text = std::fs::read_to_string(testkit::fixtures("golden/llama-quantize.tsv")).unwrap();
    let mut table: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    // draft models are converted in draft.rs
    let ours = |line: &&str| !line.starts_with('#') && !line.contains("-assistant\t");
    for line in text.lines().filter(ours) {
        let [checkpoint, preset, bytes, sha256] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let entry = (bytes.parse().unwrap(), sha256.to_owned());
        table.entry(checkpoint.to_owned()).or_default().insert(preset.to_owned(), entry);
    }
    table
}

/// All presets in one pass; `general.name` is the one that stock takes from its folder.
#[test]
fn every_preset_is_stocks_file() {
    let golden = golden();
    assert_eq!(golden.len(), 3);
    for (checkpoint, presets) in golden {
        assert_eq!(presets.len(), 20, "{checkpoint}");
        let out = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-convert"));
        command.args(["convert", "--json", "--set", "metadata.name=Tiny", "-o"]).arg(out.path());
        command.arg(testkit::fixtures("checkpoints").join(&checkpoint));
        presets.keys().for_each(|preset| {
            command.args(["--type", preset]);
        });
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let artifacts = json["artifacts"].as_array().unwrap();
        assert_eq!(artifacts.len(), presets.len());
        let mut wrong = Vec::new();
        for artifact in artifacts {
            let (preset, file) = (artifact["recipe"].as_str().unwrap(), &artifact["outputs"][0]);
            let (bytes, sha256) = &presets[preset];
            if file["bytes"] != *bytes || file["sha256"] != **sha256 {
                wrong.push(format!("{preset}: {bytes} bytes {sha256}, found {file}"));
            }
        }
        assert!(wrong.is_empty(), "{checkpoint}: {wrong:#?}");
    }
}
