//! The command line: arguments, progress bars, tables, exit codes.
//!
//! | file | idea |
//! |---|---|
//! | `args.rs`, `args/` | arguments as typed, and the jobs that they describe |
//! | `commands/` | one file per command: run the job, show the result |
//! | `hub_models.rs` | models on the hub in place of folders |
//! | `outcome.rs` | results and errors on stdout and stderr, exit codes |
//! | `invocation.rs` | the command line and the date, for reports |
//! | `options.rs` | names of options in errors and notes of the library |
//! | `progress.rs`, `reports.rs`, `signals.rs` | progress bars; report files; Ctrl-C |
//! | `memory.rs` | the table of memory estimates |

mod args;
mod commands;
#[cfg(feature = "hub")]
mod hub_models;
mod invocation;
mod memory;
mod options;
mod outcome;
mod progress;
mod reports;
mod signals;

use std::process::ExitCode;

use clap::Parser;
use gemma_convert::Result;

use self::args::{Args, Command};

/// Runs the command of the process's arguments.
pub(crate) fn main() -> ExitCode {
    let typed = args::normalised(std::env::args_os());
    let as_json = typed.iter().any(|arg| arg == "--json");
    let mut args = match Args::try_parse_from(typed) {
        Ok(args) => args,
        Err(said) => return outcome::usage(&said, as_json),
    };
    signals::watch();
    progress::set_quiet(args.common.quiet);
    progress::set_verbose(args.common.verbose);
    let result = commands::threads(args.common.threads).and_then(|()| run(&mut args));
    outcome::report(result, args.common.json)
}

fn run(args: &mut Args) -> Result<outcome::Output> {
    #[cfg(feature = "hub")]
    let fetched = hub_models::fetch(args)?;
    match &args.command {
        Command::Inspect(inspect) => commands::inspect::run(inspect),
        Command::Plan(plan) => commands::plan::run(plan),
        #[cfg(feature = "hub")]
        Command::Convert(convert) => commands::convert::run(convert, |job| fetched.convert(job)),
        #[cfg(not(feature = "hub"))]
        Command::Convert(convert) => {
            commands::convert::run(convert, |job| job.run(&progress::Console::default()))
        }
        Command::Join(join) => commands::join::run(join),
        Command::Calibrate(calibrate) => commands::calibrate::run(calibrate),
        Command::Sensitivity(sensitivity) => commands::sensitivity::run(sensitivity),
        Command::Verify(verify) => commands::verify::run(verify),
        Command::Generate(generate) => commands::generate::run(generate, args.common.json),
        Command::Draft(draft) => commands::draft::run(draft),
        Command::Adapter(adapter) => commands::adapter::run(adapter),
        Command::Release(release) => commands::release::run(release),
        Command::Edit(edit) => commands::edit::run(edit),
        Command::Pack(pack) => commands::pack::run(pack),
        Command::Recipes(list) => commands::list::recipes(list),
        Command::Types(list) => commands::list::types(list),
        Command::Completions(completions) => commands::packaging::completions(completions),
        Command::Man => commands::packaging::man(),
    }
}
