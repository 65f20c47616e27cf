//! The keys of a file against llama.cpp's own, for changes in the files beside the weights: model card, tokenizer, chat
//! template, generation and model config (`fixtures/golden/keys`).

use std::collections::BTreeMap;
use std::process::Command;

use xtask::keys::{Case, of_file};

#[test]
fn keys_are_stocks() {
    let fixtures = testkit::fixtures("");
    let read = |name: &str| std::fs::read(fixtures.join("golden/keys").join(name)).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&read("cases.json")).unwrap();
    let mut expected: BTreeMap<String, Vec<[String; 3]>> =
        serde_json::from_slice(&read("expected.json")).unwrap();
    for case in cases {
        let dir = tempfile::tempdir().unwrap();
        let [checkpoint, out] = ["checkpoint", "out.gguf"].map(|name| dir.path().join(name));
        case.make(&fixtures.join("checkpoints/31b"), &checkpoint).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-convert"));
        command.arg("convert").arg(&checkpoint).args(["--type", "bf16", "-o"]).arg(&out);
        if !case.named {
            command.args(["--set", "metadata.name=Tiny"]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}: {}", case.name, String::from_utf8_lossy(&output.stderr));
        let (mut ours, theirs) = (of_file(&out).unwrap(), expected.remove(&case.name).unwrap());
        // stock leaves the key out where a config has no soft cap, and llama.cpp then caps at 30
        let no_cap = ["gemma4.final_logit_softcapping", "f32", "F32(0.0)"].map(str::to_owned);
        ours.retain(|key| *key != no_cap || theirs.iter().any(|theirs| theirs[0] == key[0]));
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs, "{}", case.name);
        }
        assert_eq!(ours.len(), theirs.len(), "{}", case.name);
    }
    assert!(expected.is_empty(), "{:?} have no case: run cargo xtask fixtures", expected.keys());
}
