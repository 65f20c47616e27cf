//! `calibrate`: what a text says about the columns of the weights.

use std::fmt::Write as _;
use std::io::Write;
use std::time::Instant;

use ::calibrate::CalibrationTokens;
use ::imatrix::Importance;
use ::plan::byte_size;
use base::OutputFile;
use serde_json::json;
use tensor::{Error, Result};

use crate::args;
use crate::calibration::{names, sequences};
use crate::commands::opened::Opened;
use crate::outcome::Output;
use crate::progress::Bar;
use report::grouped;

pub(crate) fn run(args: &args::Calibrate) -> Result<Output> {
    if args.out.exists() && !args.force {
        return Err(
            Error::target(args.out.display(), "the output exists already").help("Use --force to replace it.")
        );
    }
    // before hours of work, and not only after them
    let mut output = OutputFile::sequential(&args.out)?;
    let start = Instant::now();
    let mut found = match (&args.model, args.text.text.is_empty()) {
        (Some(model), false) => Some(collect(args, model)?),
        (Some(_), true) => {
            return Err(Error::recipe("calibrate", "no text to calibrate on").help("Give one with --text."));
        }
        (None, false) => {
            return Err(Error::recipe("calibrate", "no model that reads the text").help("Give a checkpoint."));
        }
        (None, true) => None,
    };
    for path in &args.merge {
        let other = Importance::read(path)?;
        match &mut found {
            Some(found) => found.merge(other).map_err(|e| e.within(path.display()))?,
            None => found = Some(other),
        }
    }
    let found = found.ok_or_else(|| Error::recipe("calibrate", "nothing to write"))?;
    let bytes = found.to_bytes().map_err(|e| e.within(args.out.display()))?;
    output.write_all(&bytes).map_err(|e| output.fail(&e))?;
    output.publish()?;
    let seconds = start.elapsed().as_secs_f64();

    let unseen: usize = found.iter().map(|(_, entry)| entry.unseen().count()).sum();
    let mut text = format!(
        "{}: {} tensors, {} pieces of text ({seconds:.1} s)\n",
        args.out.display(),
        found.len(),
        grouped(found.chunks.into())
    );
    if unseen > 0 {
        let _ = writeln!(
            text,
            "{unseen} matrices of experts saw no token and have the mean of the others; `inspect` lists them"
        );
    }
    let json = json!({
        "file": args.out,
        "tensors": found.len(),
        "chunks": found.chunks,
        "chunk_size": found.chunk_size,
        "unseen_matrices": unseen,
        "seconds": seconds,
    });
    Ok(Output::new(text, json))
}

fn collect(args: &args::Calibrate, path: &std::path::Path) -> Result<Importance> {
    let opened = Opened::new(path)?;
    crate::progress::notes(opened.notes());
    let sequences = sequences(&args.text, args.context, &opened.reader())?;
    let tokens: u64 = sequences.iter().map(|sequence| sequence.len() as u64).sum();
    let bar = Bar::steps("calibrating", tokens * opened.config().layers() as u64);
    let text = CalibrationTokens {
        sequences: &sequences,
        names: names(&args.text.text),
        memory: byte_size("--text-memory", &args.text.text_memory)?,
        progress: &|tokens| bar.advance(tokens),
    };
    let found = ::calibrate::importance(&opened.runtime(path)?, opened.inventory(), &text);
    bar.finish();
    found.map_err(|e| e.within(path.display()))
}
