//! `cargo xtask synth`: a checkpoint of full size at the real names and shapes, filled with noise.
//!
//! Good for speed, memory and sizes, never for quality. The same bytes on every machine and in every run.

mod inventory;
mod noise;
mod tokenizer;
mod weights;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

pub(super) use weights::Fill;

/// Write a full-size synthetic checkpoint: real names, shapes and config, noise as weights.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which model: a name in fixtures/inventories, such as gemma-4-E2B-it
    name: String,
    /// The folder to make
    out: PathBuf,
    /// Start a new file after this many gigabytes (10^9 bytes); 0 writes one file
    #[arg(long, default_value_t = 0.0)]
    shard_gb: f64,
    /// Also write a tokenizer of real size, tokenizer_config.json and generation_config.json
    #[arg(long)]
    tokenizer: bool,
    /// Write zeros that take no room on the disk instead of noise: good for memory and sizes only
    #[arg(long)]
    sparse: bool,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let start = Instant::now();
        let limit = if self.shard_gb > 0.0 { (self.shard_gb * 1e9) as u64 } else { u64::MAX };
        let fill = if self.sparse { Fill::Holes } else { Fill::Noise };
        let summary = checkpoint(&self.name, &self.out, limit, self.tokenizer, fill)?;
        println!("{}: {summary}, {:.1} s", self.out.display(), start.elapsed().as_secs_f64());
        Ok(())
    }
}

/// Writes the folder and says what is in it. config.json comes last, so its presence means that the rest is there.
pub(super) fn checkpoint(
    name: &str,
    out: &Path,
    shard_limit: u64,
    with_tokenizer: bool,
    fill: Fill,
) -> Result<String> {
    let fixtures = crate::root().join("fixtures");
    let tensors = inventory::read(&fixtures.join("inventories"), name)?;
    let configs = fixtures.join("configs");
    ensure!(!out.join("config.json").exists(), "{} holds a checkpoint already", out.display());
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;

    let bytes = tensors.iter().map(|tensor| tensor.byte_len()).sum::<u64>();
    let count = tensors.len();
    let files = weights::write(out, tensors, shard_limit, fill)?;
    if with_tokenizer {
        fs::write(out.join("tokenizer.json"), serde_json::to_vec(&tokenizer::document())?)?;
        copy(&configs.join("tokenizer_config.it.json"), &out.join("tokenizer_config.json"))?;
        let short = name.trim_start_matches("gemma-4-");
        let own = configs.join(format!("generation_config.{short}.json"));
        let shared = configs.join("generation_config.it.json");
        copy(if own.exists() { &own } else { &shared }, &out.join("generation_config.json"))?;
    }
    let processor =
        serde_json::json!({"image_processor": {"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]}});
    fs::write(out.join("processor_config.json"), serde_json::to_vec(&processor)?)?;
    copy(&configs.join(format!("{name}.json")), &out.join("config.json"))?;
    Ok(format!("{count} tensors, {bytes} bytes, {files} file(s)"))
}

/// As `fs::copy`, but with the permissions of a new file.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))
}
