//! Programs that others wrote read what we write: parsers, auditors, servers, runtimes. Each is skipped, with a word, where it
//! is not installed (`cargo xtask oracle --clients`, and for the tools of llama.cpp `cargo xtask oracle`); CI requires them.

mod auditors;
mod hub;
pub(crate) mod images;
mod merged;
mod runtimes;
pub(crate) mod server;

use std::process::Command;

use serde_json::Value;

use crate::support;

/// After these prompts the tiny e2b, in Q4_0, never has two tokens so near each other that another rounding of activations
/// would change the text: see tests/browser.rs.
const PROMPTS: [&str; 2] = ["In 1912 the", "Natural resources:"];

/// What a program prints, which must end well.
#[track_caller]
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "{command:?}: {stdout}{stderr}");
    stdout.into_owned()
}

/// The JSON document on the last line of what it prints. Programs say other things before.
#[track_caller]
pub(crate) fn answer(command: &mut Command) -> Value {
    let stdout = output(command);
    serde_json::from_str(stdout.lines().last().unwrap_or_default())
        .unwrap_or_else(|e| panic!("{e}: {stdout}"))
}

/// What our runtime says: the document of `generate --json`.
#[track_caller]
pub(crate) fn ours(model: &std::path::Path, prompt: &str, tokens: usize) -> Value {
    let tokens = tokens.to_string();
    support::run(["generate", model.to_str().unwrap(), "-p", prompt, "-n", &tokens, "--json", "-q"])
        .good()
        .json()
}
