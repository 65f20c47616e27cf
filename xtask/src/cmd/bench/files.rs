//! What is measured, and on what: our binary, the synthetic model, files in the page cache.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::cmd::synth;

/// Builds our binary as a user would and says where it is.
pub(super) fn build() -> Result<PathBuf> {
    built("gemma-convert", &[])
}

/// Builds an example of the crate `gemma-convert` in the same way.
pub(super) fn build_example(name: &str) -> Result<PathBuf> {
    built(name, &["--example", name])
}

fn built(name: &str, more: &[&str]) -> Result<PathBuf> {
    let output = crate::cargo()
        .args(["build", "--release", "--package", "gemma-convert", "--message-format=json"])
        .args(more)
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "cargo build failed");
    let messages = String::from_utf8(output.stdout)?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut binaries = messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    binaries.find(|path| path.ends_with(name)).with_context(|| format!("cargo built no {name}"))
}

/// The checkpoint in the cache folder, made if it is not there whole.
pub(super) fn synthetic(folder: &Path) -> Result<PathBuf> {
    let model = folder.join("gemma-4-E2B-it");
    if !model.join("config.json").exists() {
        eprintln!("writing {} (10.2 GB, once)", model.display());
        synth::checkpoint("gemma-4-E2B-it", &model, u64::MAX, true, synth::Fill::Noise)?;
    }
    Ok(model)
}

/// Removes a folder, if it is there.
pub(super) fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Reads the files once, so that they are in the page cache (as far as it is large enough).
pub(super) fn warm(path: &Path) -> Result<()> {
    let files = if path.is_dir() {
        fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?
    } else {
        vec![path.to_owned()]
    };
    for file in files.iter().filter(|file| file.is_file()) {
        each_block(file, |_| {})?;
    }
    Ok(())
}

/// Reads a file from front to back.
pub(super) fn each_block(path: &Path, mut act: impl FnMut(&[u8])) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut block = vec![0; 4 << 20];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(()),
            count => act(&block[..count]),
        }
    }
}
