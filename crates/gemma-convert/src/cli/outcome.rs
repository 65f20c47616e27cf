//! The end of a command: result on stdout, error on stderr, exit code.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use clap::error::ContextKind;
use gemma_convert::{Error, Fault};
use serde_json::json;

use super::options::with_options;

/// The output of a command.
pub(crate) struct Output {
    /// The text for people.
    pub(crate) text: String,
    /// The document of `--json`.
    pub(crate) json: serde_json::Value,
    /// False if a check failed: exit code 1.
    pub(crate) passed: bool,
    /// Errors of reports that could not be written. The result is shown nevertheless.
    pub(crate) unwritten: Vec<Error>,
}

impl Output {
    pub(crate) fn new(text: String, json: serde_json::Value) -> Output {
        Output { text, json, passed: true, unwritten: Vec::new() }
    }
}

/// The exit code of a fault: 2 for usage and recipes; 3 for input that is not usable, and for a destination that cannot
/// take the output; 4 for the operating system. Failed checks have 1.
fn exit_code(fault: Fault) -> u8 {
    match fault {
        Fault::Recipe => 2,
        Fault::Malformed | Fault::Unsupported | Fault::Limit | Fault::Target => 3,
        Fault::Io => 4,
    }
}

/// Prints the outcome and returns the exit code.
pub(crate) fn report(result: Result<Output, Error>, as_json: bool) -> ExitCode {
    match result {
        Ok(output) => {
            let text =
                if as_json { json_text(output.json) } else { base::visible(&output.text).into_owned() };
            let printed = print(&text).map_err(|e| Error::new(Fault::Io, "stdout", e));
            let failures = output.unwritten.into_iter().chain(printed.err());
            let code = failures.map(|error| {
                tell(&format!("{} {}\n", error_word(), shown(&error)));
                exit_code(error.fault())
            });
            // a failed check takes precedence
            let code = code.fold(0, |first, next| if first == 0 { next } else { first });
            ExitCode::from(if output.passed { code } else { 1 })
        }
        Err(error) => {
            tell(&format!("{} {}\n", error_word(), shown(&error)));
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
                // the error is already on stderr, so a failure of stdout is ignored
                let _ = print(&json_text(json!({ "error": error })));
            }
            ExitCode::from(exit_code(error.fault()))
        }
    }
}

/// The schema number of JSON documents; those of `verify` and `draft measure` have their own.
const SCHEMA: u32 = 1;

fn json_text(mut json: serde_json::Value) -> String {
    if let Some(fields) = json.as_object_mut() {
        fields.entry("schema").or_insert(SCHEMA.into());
    }
    format!("{}\n", base::visible_json(&format!("{json:#}")))
}

/// `error:` in clap's style, coloured on a terminal.
fn error_word() -> &'static str {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if !plain && io::stderr().is_terminal() { "\x1b[1m\x1b[31merror:\x1b[0m" } else { "error:" }
}

/// The most characters shown of each part of an error, which may quote a file without line ends.
const MOST: usize = 4_000;

/// The error as text. Place, expected and found are one line each, so that none of them can look like another error.
fn shown(error: &Error) -> String {
    let clip = |text: &str| match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_owned(),
    };
    let line = |text: &str| clip(&base::visible_line(&with_options(text)));
    let mut text =
        format!("{}: {}", line(error.place()), clip(&base::visible(&with_options(error.problem()))));
    if let Some((expected, found)) = error.expected_found() {
        text.push_str(&format!(" (expected {}, found {})", line(expected), line(found)));
    }
    if let Some(help) = error.help_text() {
        text.push('\n');
        text.push_str(&clip(&base::visible(&with_options(help))));
    }
    text
}

/// Writes to stderr, and ignores failures.
pub(crate) fn tell(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Writes to stdout. A closed pipe (`| head`) is not an error.
fn print(text: &str) -> io::Result<()> {
    match stream(text) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Writes to stdout and flushes. A closed pipe is an error.
pub(crate) fn stream(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// An error of usage, with the fields of other errors.
fn usage_error(said: &clap::Error) -> serde_json::Value {
    let text = said.to_string();
    let lines = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim);
    let problem = lines.collect::<Vec<_>>().join(" ");
    let of = |kind| said.get(kind).map(|value| value.to_string());
    let tips = text.lines().filter_map(|line| line.trim().strip_prefix("tip: "));
    json!({
        "fault": "usage",
        "place": of(ContextKind::InvalidArg).unwrap_or_else(|| "arguments".to_owned()),
        "problem": problem.trim_start_matches("error: "),
        "expected": of(ContextKind::ValidValue),
        "found": of(ContextKind::InvalidValue),
        "help": tips.map(str::to_owned).next().or_else(|| of(ContextKind::Usage)),
        "exit_code": 2,
    })
}

/// Shows clap's output instead of running a command: help, version, or an error of the arguments.
pub(crate) fn usage(said: &clap::Error, as_json: bool) -> ExitCode {
    if as_json && said.use_stderr() {
        // the error is on stderr too
        let _ = print(&json_text(json!({ "error": usage_error(said) })));
    }
    let shown = said.print().and_then(|()| io::stdout().flush());
    match shown {
        Err(error) if !said.use_stderr() && error.kind() != ErrorKind::BrokenPipe => {
            tell(&format!("{} stdout: {error}\n", error_word()));
            ExitCode::from(4)
        }
        _ => ExitCode::from(said.exit_code().try_into().unwrap_or(2)),
    }
}
