//! `cargo xtask fuzz`: runs the fuzz targets of `tests/fuzz` one after the other.
//!
//! They need a nightly toolchain and cargo-fuzz, which is installed into the cache folder if it is nowhere. What a
//! target finds stays in the cache folder for the next run; what makes it fail is kept in `tests/fuzz/artifacts`. Mended,
//! it belongs into `tests/fuzz/crashes`, where the test `untrusted` runs it for ever.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::tools;

const TARGETS: [&str; 13] = [
    "gguf",
    "safetensors",
    "index",
    "config",
    "tokenizer",
    "importance",
    "recipe",
    "manifest",
    "template",
    "card",
    "logits",
    "image",
    "sound",
];

/// Fuzz the readers of files.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The targets; all, if left out
    targets: Vec<String>,
    /// Minutes of each target; 0 only builds them
    #[arg(long, default_value_t = 1)]
    minutes: u64,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let all = || TARGETS.map(str::to_owned).to_vec();
        let targets = if self.targets.is_empty() { all() } else { self.targets };
        let cache = xtask::cache_dir()?;
        let folder_of_tools = install(&cache)?;
        let folder = crate::root().join("tests/fuzz");
        let cargo_fuzz = |what: &str| -> Result<Command> {
            let mut command = Command::new("cargo");
            tools::find_in(&mut command, &folder_of_tools)?;
            // `cargo run` tells its own toolchain and target folder to what it runs.
            command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").current_dir(&folder);
            command.env("CARGO_TARGET_DIR", cache.join("target-fuzz"));
            // Everything here is safe Rust but for vector instructions: without a sanitizer more is tried in the same time.
            command.args(["+nightly", "fuzz", what, "--fuzz-dir", ".", "--sanitizer", "none"]);
            Ok(command)
        };
        tools::run(&mut cargo_fuzz("build")?)?;
        if self.minutes == 0 {
            return Ok(());
        }
        for target in &targets {
            ensure!(
                TARGETS.contains(&target.as_str()),
                "no target {target}: there are {}",
                TARGETS.join(", ")
            );
            let corpus = cache.join("fuzz").join(target);
            let seeds = corpus.join("seeds");
            let found = corpus.join("found");
            std::fs::create_dir_all(&seeds)?;
            std::fs::create_dir_all(&found)?;
            let mut command = cargo_fuzz("run")?;
            command.env("FUZZ_SEEDS", &seeds).arg(target).args([&found, &seeds]).arg("--");
            command.args(["-rss_limit_mb=1024", "-timeout=10", "-max_len=200000", "-print_final_stats=1"]);
            command.arg(format!("-max_total_time={}", 60 * self.minutes));
            tools::run(&mut command).with_context(|| format!("target {target}"))?;
        }
        Ok(())
    }
}

/// The folder of tools, with cargo-fuzz. A nightly toolchain is there afterwards.
fn install(cache: &Path) -> Result<PathBuf> {
    let mut nightly = Command::new("cargo");
    nightly.args(["+nightly", "--version"]).env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    if !nightly.output().is_ok_and(|output| output.status.success()) {
        tools::run(Command::new("rustup").args(["toolchain", "install", "nightly", "--profile", "minimal"]))?;
    }
    tools::install(cache, "cargo-fuzz", None)
}
