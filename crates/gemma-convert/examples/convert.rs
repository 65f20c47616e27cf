//! Converts a checkpoint to two GGUF files in one pass: `cargo run --release --example convert -- CHECKPOINT OUT`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program prints")]

use gemma_convert::{Convert, Progress, Result, Silent, Task, Unit};

/// Prints notes; draws no bars.
struct Notes;

impl Progress for Notes {
    fn begin(&self, _: &str, _: u64, _: Unit) -> Box<dyn Task + '_> {
        Box::new(Silent)
    }

    fn note(&self, note: &str) {
        eprintln!("note: {note}");
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [checkpoint, out] = &args[..] else { panic!("usage: convert CHECKPOINT OUT") };
    let made = Convert::new(checkpoint, out).recipe("q4_0").recipe("q8_0").run(&Notes)?;
    for file in made.artifacts.iter().flat_map(|artifact| &artifact.outputs) {
        println!("{} {} {}", file.sha256, file.bytes, file.name);
    }
    Ok(())
}
