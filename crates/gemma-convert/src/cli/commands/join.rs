//! `join`: the outputs of a conversion that was done in parts.

use std::fmt::Write;

use gemma_convert::{Join, Joined, Result};
use serde_json::json;

use super::convert::files;
use crate::cli::args;
use crate::cli::outcome::Output;
use crate::cli::progress::Console;

pub(crate) fn run(args: &args::Join) -> Result<Output> {
    let job =
        Join { folders: args.folders.clone(), out: args.out.clone(), force: args.force, sync: !args.no_sync };
    let Joined { folder, artifacts, manifest } = job.run(&Console::default())?;
    let mut text = files(&folder, &artifacts);
    let parts = artifacts.first().map_or(0, |artifact| artifact.parts.len());
    let _ = writeln!(text, "{parts} parts joined; manifest: {}", manifest.display());
    Ok(Output::new(text, json!({"artifacts": artifacts, "folder": folder, "manifest": manifest})))
}
