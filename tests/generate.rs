//! `generate`: the same text from a checkpoint and from the file made of it, and the text that llama.cpp generates.
//! The forward pass itself is held against transformers in the crate `runtime`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use xtask::oracle::Oracle;

const PROMPT: &str = "The capital of the country is";

fn checkpoint(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/checkpoints").join(name)
}

fn tool(arguments: &[&str], model: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-convert"));
    command.arg(arguments[0]).arg(model).args(&arguments[1..]).output().unwrap()
}

fn generate(model: &Path, more: &[&str]) -> serde_json::Value {
    let output = tool(&[&["generate", "--json", "-q", "-n", "40", "-p", PROMPT], more].concat(), model);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn convert(name: &str, preset: &str, out: &Path) {
    let output = tool(&["convert", "--type", preset, "-o", out.to_str().unwrap()], &checkpoint(name));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn checkpoint_and_file_say_the_same() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["e2b", "26b-a4b", "31b"] {
        let [bf16, q8_0] = ["bf16", "q8_0"].map(|preset| dir.path().join(format!("{name}-{preset}.gguf")));
        convert(name, "bf16", &bf16);
        convert(name, "q8_0", &q8_0);
        let from_checkpoint = generate(&checkpoint(name), &[]);
        let from_file = generate(&bf16, &[]);
        assert_eq!(from_checkpoint["tokens"], from_file["tokens"], "{name}");
        assert_eq!(from_checkpoint["text"], from_file["text"], "{name}");
        assert_eq!(from_file["tokens"].as_array().unwrap().len(), 40, "{name}");
        // 8 bits rarely change what is likeliest: the beginning is the same
        let tokens = |json: &serde_json::Value| json["tokens"].as_array().unwrap()[..4].to_vec();
        assert_eq!(tokens(&generate(&q8_0, &[])), tokens(&from_file), "{name}");
        // the template puts more around the prompt, from either source
        let [a, b] = [checkpoint(name), bf16].map(|model| generate(&model, &["--chat"]));
        assert_eq!(a["prompt_tokens"], b["prompt_tokens"], "{name}");
        assert!(
            a["prompt_tokens"].as_array().unwrap().len()
                > from_file["prompt_tokens"].as_array().unwrap().len()
        );
    }
}

#[test]
fn llama_cpp_says_the_same() {
    let Some(oracle) = Oracle::for_tests() else { return };
    let dir = tempfile::tempdir().unwrap();
    for name in ["e2b", "26b-a4b", "31b"] {
        let model = dir.path().join(format!("{name}.gguf"));
        convert(name, "bf16", &model);
        let mut command = oracle.runner("llama-completion");
        command.args(["-no-cnv", "--temp", "0", "-n", "40", "-t", "2", "-p", PROMPT, "-m"]).arg(&model);
        let output = command.output().unwrap();
        assert!(output.status.success());
        let theirs = String::from_utf8(output.stdout).unwrap();
        let ours = format!("{PROMPT}{}", generate(&model, &[])["text"].as_str().unwrap());
        assert_eq!(theirs.trim(), ours.trim(), "{name}");
    }
}

#[test]
fn what_cannot_be_run_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |model: &Path, more: &[&str], code: i32, says: &str| {
        let output = tool(&[&["generate", "-p", PROMPT], more].concat(), model);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{message}");
        assert!(message.contains(says) && !message.contains("panicked"), "{message}");
        assert!(output.stdout.is_empty());
    };
    let file = dir.path().join("model.gguf");
    convert("31b", "q4_0", &file);
    let tools = dir.path().join("tools.json");
    std::fs::write(&tools, "{").unwrap();
    refused(&checkpoint("31b"), &["--chat", "--tools", tools.to_str().unwrap()], 2, "tools.json");
    refused(&checkpoint("31b"), &["--tools", tools.to_str().unwrap()], 2, "--chat");
    refused(&dir.path().join("absent.gguf"), &[], 3, "absent.gguf");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    refused(&file, &[], 3, "model.gguf");
}
