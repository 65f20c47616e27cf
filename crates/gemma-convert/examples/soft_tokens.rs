//! The time that an mmproj file takes for the soft tokens of an image or a sound:
//! `cargo run --release --example soft_tokens -- MMPROJ image|sound FILE`.
//!
//! It includes reading the files and preparing the input. Threads are rayon's: set `RAYON_NUM_THREADS`. `cargo xtask
//! bench towers` runs it.

#![allow(clippy::print_stdout, reason = "a program prints")]

use std::path::Path;
use std::time::Instant;

use gemma_convert::{MediaFile, Result, soft_tokens};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [mmproj, kind, file] = &args[..] else { panic!("usage: soft_tokens MMPROJ image|sound FILE") };
    let file = match kind.as_str() {
        "image" => MediaFile::Image(file.into()),
        _ => MediaFile::Sound(file.into()),
    };
    let start = Instant::now();
    let (count, width) = soft_tokens(Path::new(mmproj), &file)?.dim();
    println!("{count} soft tokens of {width} values encoded in {} ms", start.elapsed().as_millis());
    Ok(())
}
