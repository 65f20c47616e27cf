//! `join`: the outputs of a job that was done in parts; and the output of a part.

use std::fmt::Write;
use std::time::Instant;

use gemma_convert::{Join, Joined, JoinedOutputs, MadePart, Result};
use serde_json::json;

use super::convert::files;
use super::{calibrate, sensitivity};
use crate::cli::args;
use crate::cli::outcome::Output;
use crate::cli::progress::Console;

pub(crate) fn run(args: &args::Join) -> Result<Output> {
    let job =
        Join { folders: args.folders.clone(), out: args.out.clone(), force: args.force, sync: !args.no_sync };
    let start = Instant::now();
    let Joined { folder, parts, outputs } = job.run(&Console::default())?;
    let seconds = start.elapsed().as_secs_f64();
    let mut output = match &outputs {
        JoinedOutputs::Conversion { artifacts, manifest } => Output::new(
            format!("{}manifest: {}\n", files(&folder, artifacts), manifest.display()),
            json!({"artifacts": artifacts, "folder": folder, "manifest": manifest}),
        ),
        JoinedOutputs::Importance(file, made) => calibrate::output(file, made, seconds),
        JoinedOutputs::Sensitivity(file, found) => sensitivity::output(file, found, seconds),
    };
    let _ = writeln!(output.text, "{parts} parts joined");
    Ok(output)
}

/// The output of a part that makes one file with the others.
pub(super) fn part_of_file(made: &MadePart) -> Output {
    part(made, &format!("`gemma-convert join {}` makes the file", made.folder.display()))
}

/// The output of a part. `then` says what follows once all parts are there.
pub(super) fn part(made: &MadePart, then: &str) -> Output {
    let MadePart { part, folder, record } = made;
    let text = format!("part {part}: {}\nWhen all parts are there, {then}.\n", record.display());
    Output::new(text, json!({"part": part.to_string(), "folder": folder, "record": record}))
}
