//! `calibrate`: collection of an importance matrix.

use std::fmt::Write;
use std::time::Instant;

use gemma_convert::{Calibrated, Result};
use report::grouped;
use serde_json::json;

use crate::cli::args;
use crate::cli::outcome::Output;
use crate::cli::progress::Console;

pub(crate) fn run(args: &args::Calibrate) -> Result<Output> {
    let start = Instant::now();
    let Calibrated { importance, unseen_matrices } = args.job()?.run(&Console::default())?;
    let seconds = start.elapsed().as_secs_f64();
    let mut text = format!(
        "{}: {} tensors, {} chunks of text ({seconds:.1} s)\n",
        args.out.display(),
        importance.len(),
        grouped(importance.chunks.into())
    );
    if unseen_matrices > 0 {
        let _ = writeln!(
            text,
            "{unseen_matrices} expert matrices got no token and have the mean of the others; `inspect` lists them"
        );
    }
    let json = json!({
        "file": args.out,
        "tensors": importance.len(),
        "chunks": importance.chunks,
        "chunk_size": importance.chunk_size,
        "unseen_matrices": unseen_matrices,
        "seconds": seconds,
    });
    Ok(Output::new(text, json))
}
