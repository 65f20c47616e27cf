//! `calibrate`: collection of an importance matrix.

use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

use gemma_convert::{Calibrated, Result};
use report::grouped;
use serde_json::json;

use super::join;
use crate::cli::args;
use crate::cli::outcome::Output;
use crate::cli::progress::Console;

pub(crate) fn run(args: &args::Calibrate) -> Result<Output> {
    let (job, console) = (args.job()?, Console::default());
    if let Some(part) = args.part.part()? {
        return job.run_part(part, &console).map(|made| join::part_of_file(&made));
    }
    let start = Instant::now();
    let made = job.run(&console)?;
    Ok(output(&args.out, &made, start.elapsed().as_secs_f64()))
}

/// The output for a finished file.
pub(super) fn output(out: &Path, made: &Calibrated, seconds: f64) -> Output {
    let Calibrated { importance, unseen_matrices } = made;
    let mut text = format!(
        "{}: {} tensors, {} chunks of text ({seconds:.1} s)\n",
        out.display(),
        importance.len(),
        grouped(importance.chunks.into())
    );
    if *unseen_matrices > 0 {
        let _ = writeln!(
            text,
            "{unseen_matrices} expert matrices got no token and have the mean of the others; `inspect` lists them"
        );
    }
    let json = json!({
        "file": out,
        "tensors": importance.len(),
        "chunks": importance.chunks,
        "chunk_size": importance.chunk_size,
        "unseen_matrices": unseen_matrices,
        "seconds": seconds,
    });
    Output::new(text, json)
}
