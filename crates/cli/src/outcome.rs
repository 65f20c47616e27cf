//! How a command ends: its result on stdout, its error on stderr, its exit code.

use std::process::ExitCode;

use serde_json::json;
use tensor::{Error, Fault};

/// What a command has to say.
pub(crate) struct Output {
    /// For people.
    pub(crate) text: String,
    /// For machines.
    pub(crate) json: serde_json::Value,
    /// False when what was verified is not good: exit code 1.
    pub(crate) passed: bool,
}

impl Output {
    pub(crate) fn new(text: String, json: serde_json::Value) -> Output {
        Output { text, json, passed: true }
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
            let text = if as_json { format!("{:#}\n", output.json) } else { output.text };
            let printed = print(&text);
            if output.passed || printed != ExitCode::SUCCESS { printed } else { ExitCode::from(1) }
        }
        Err(error) => {
            eprintln!("error: {error}");
            if as_json {
                let (expected, found) = error.expected_found().unzip();
                let error = json!({
                    "fault": error.fault().name(),
                    "place": error.place(),
                    "problem": error.problem(),
                    "expected": expected,
                    "found": found,
                    "help": error.help_text(),
                    "exit_code": exit_code(error.fault()),
                });
                print(&format!("{:#}\n", json!({ "error": error })));
            }
            ExitCode::from(exit_code(error.fault()))
        }
    }
}

/// Writes to stdout; a reader that has had enough (`| head`) is no error.
fn print(text: &str) -> ExitCode {
    use std::io::Write;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("error: stdout: {error}");
            ExitCode::from(4)
        }
        _ => ExitCode::SUCCESS,
    }
}
