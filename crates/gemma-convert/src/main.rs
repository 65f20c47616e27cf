//! `gemma-convert`: turns Gemma 4 checkpoints into GGUF files, and runs them.
//!
//! Only the command line lives here: arguments, progress, tables, exit codes. Results go to stdout, everything
//! else to stderr; with `--json` stdout is one document.

mod args;
mod budget;
mod calibration;
mod commands;
mod memory;
mod outcome;
mod progress;
mod reports;
mod signals;

use clap::Parser;

use crate::args::{Args, Command};

fn main() -> std::process::ExitCode {
    let typed = args::normalised(std::env::args_os());
    let as_json = typed.iter().any(|arg| arg == "--json");
    let args = match Args::try_parse_from(typed) {
        Ok(args) => args,
        Err(said) => return outcome::usage(&said, as_json),
    };
    signals::watch();
    let json = args.common.json;
    crate::progress::set_quiet(args.common.quiet);
    let result = commands::threads(args.common.threads).and_then(|()| run(&args));
    outcome::report(result, json)
}

fn run(args: &Args) -> tensor::Result<outcome::Output> {
    match &args.command {
        Command::Inspect(inspect) => commands::inspect::run(inspect),
        Command::Plan(plan) => commands::plan::run(plan),
        Command::Convert(convert) => commands::convert::run(convert),
        Command::Calibrate(calibrate) => commands::calibrate::run(calibrate),
        Command::Sensitivity(sensitivity) => commands::sensitivity::run(sensitivity),
        Command::Verify(verify) => commands::verify::run(verify),
        Command::Generate(generate) => commands::generate::run(generate, args.common.json),
        Command::Draft(draft) => commands::draft::run(draft),
        Command::Recipes(list) => commands::list::recipes(list),
        Command::Types(list) => commands::list::types(list),
        Command::Completions(completions) => commands::packaging::completions(completions),
        Command::Man => commands::packaging::man(),
    }
}
