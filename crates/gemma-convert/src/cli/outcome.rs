//! How a command ends: its result on stdout, its error on stderr, its exit code.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use serde_json::json;
use gemma_convert::{Error, Fault};

use super::options::with_options;

/// What a command has to say.
pub(crate) struct Output {
    /// For people.
    pub(crate) text: String,
    /// For machines.
    pub(crate) json: serde_json::Value,
    /// False when what was verified is not good: exit code 1.
    pub(crate) passed: bool,
    /// Reports that could not be written. The result is shown nevertheless.
    pub(crate) unwritten: Vec<Error>,
}

impl Output {
    pub(crate) fn new(text: String, json: serde_json::Value) -> Output {
        Output { text, json, passed: true, unwritten: Vec::new() }
    }
}

/// 1 is for what was verified and is not good. 2 for usage and recipes, 3 for what was given to the run: the checkpoint, or a target that cannot take the output;
/// 4 for the operating system.
fn exit_code(fault: Fault) -> u8 {
    match fault {
        Fault::Recipe => 2,
        Fault::Malformed | Fault::Unsupported | Fault::Limit | Fault::Target => 3,
        Fault::Io => 4,
    }
}

/// Prints the outcome and says how to exit.
pub(crate) fn report(result: Result<Output, Error>, as_json: bool) -> ExitCode {
    match result {
        Ok(output) => {
            let text =
                if as_json { json_text(output.json) } else { base::visible(&output.text).into_owned() };
            let printed = print(&text).map_err(|e| Error::new(Fault::Io, "stdout", e));
            let failures = output.unwritten.into_iter().chain(printed.err());
            let code = failures.map(|error| {
                tell(&format!("error: {}\n", shown(&error)));
                exit_code(error.fault())
            });
            // the verdict comes first, if it is bad
            let code = code.fold(0, |first, next| if first == 0 { next } else { first });
            ExitCode::from(if output.passed { code } else { 1 })
        }
        Err(error) => {
            tell(&format!("error: {}\n", shown(&error)));
            if as_json {
                let (expected, found) = error.expected_found().unzip();
                let error = json!({
                    "fault": error.fault().name(),
                    "place": with_options(error.place()),
                    "problem": with_options(error.problem()),
                    "expected": expected.map(with_options),
                    "found": found,
                    "help": error.help_text().map(with_options),
                    "exit_code": exit_code(error.fault()),
                });
                // it has been told; there is nothing to add where stdout cannot take it
                let _ = print(&json_text(json!({ "error": error })));
            }
            ExitCode::from(exit_code(error.fault()))
        }
    }
}

/// The version of the documents that commands print; those of `verify` and `draft measure` have one of their own.
const SCHEMA: u32 = 1;

fn json_text(mut json: serde_json::Value) -> String {
    if let Some(fields) = json.as_object_mut() {
        fields.entry("schema").or_insert(SCHEMA.into());
    }
    format!("{}\n", base::visible_json(&format!("{json:#}")))
}

/// The most letters of each part of an error: it may quote a line of a file that has no other.
const MOST: usize = 4_000;

/// The error for people. Names and what was found are one line each, so that none of them can look like another error.
fn shown(error: &Error) -> String {
    let clip = |text: &str| match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_owned(),
    };
    let line = |text: &str| clip(&base::visible_line(&with_options(text)));
    let mut text = format!("{}: {}", line(error.place()), clip(&base::visible(&with_options(error.problem()))));
    if let Some((expected, found)) = error.expected_found() {
        text.push_str(&format!(" (expected {}, found {})", line(expected), line(found)));
    }
    if let Some(help) = error.help_text() {
        text.push('\n');
        text.push_str(&clip(&base::visible(&with_options(help))));
    }
    text
}

/// Says something on stderr. Nothing depends on it: where stderr cannot take it, nobody is told.
pub(crate) fn tell(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Writes to stdout. A reader that has had enough (`| head`) is no error.
fn print(text: &str) -> io::Result<()> {
    match stream(text) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Writes to stdout at once, and says too when its reader has gone.
pub(crate) fn stream(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Shows what clap has to say instead of running a command: help, version, or what is wrong with the arguments.
pub(crate) fn usage(said: &clap::Error, as_json: bool) -> ExitCode {
    if as_json && said.use_stderr() {
        let text = said.to_string();
        let problem = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let error = json!({ "fault": "usage", "place": "arguments", "problem": problem, "exit_code": 2 });
        // it is told on stderr too
        let _ = print(&json_text(json!({ "error": error })));
    }
    let shown = said.print().and_then(|()| io::stdout().flush());
    match shown {
        Err(error) if !said.use_stderr() && error.kind() != ErrorKind::BrokenPipe => {
            tell(&format!("error: stdout: {error}\n"));
            ExitCode::from(4)
        }
        _ => ExitCode::from(said.exit_code().try_into().unwrap_or(2)),
    }
}
