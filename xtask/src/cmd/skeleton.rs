//! `cargo xtask skeleton`: a graph skeleton of an architecture, from two exports of small models with the public exporter of LiteRT-LM.
//!
//! Both exports have the layers, heads and window of the config, and 1 and 2 units of its widths. One of E2B takes 3 GB of memory and, on
//! two cores, some ten minutes; a real export of E2B takes 64 GB.

use std::path::{Path, PathBuf};

use anyhow::Result;
use xtask::oracle::clients::{EXPORTER, Installed};

use super::tools;

/// Make a graph skeleton with the public exporter of LiteRT-LM, which is installed into the cache folder (7 GB).
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The config.json of the architecture, such as fixtures/configs/gemma-4-E2B-it.json
    config: PathBuf,
    /// A folder with a tokenizer, such as fixtures/checkpoints/e2b: the exporter asks for one, and the graph does not depend on it
    tokenizer: PathBuf,
    /// The file to write
    out: PathBuf,
    /// Units of the full width. The exports have 1 and 2 of them
    #[arg(long, default_value_t = 16)]
    units: u32,
    /// Tokens of the prefill signature
    #[arg(long, default_value_t = 128)]
    prefill: u32,
    /// Tokens in the KV cache
    #[arg(long, default_value_t = 4096)]
    cache: u32,
    /// The backend of LiteRT-LM for which the graph is
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,
    /// A folder for the exports: those that are there are used, and all are kept
    #[arg(long)]
    exports: Option<PathBuf>,
}

/// A backend of LiteRT-LM.
#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Backend {
    #[default]
    Cpu,
    Gpu,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let exporter = EXPORTER.install()?;
        let temporary = tempfile::tempdir()?;
        let folder = std::path::absolute(self.exports.as_deref().unwrap_or(temporary.path()))?;
        let [config, tokenizer] = [&self.config, &self.tokenizer].map(std::path::absolute);
        let (config, tokenizer, out) = (config?, tokenizer?, std::path::absolute(&self.out)?);
        let [small, large] = ["small", "large"].map(|name| folder.join(name));
        for (export, units) in [(&small, 1.0), (&large, 2.0)] {
            if export.join("model.litertlm").exists() {
                continue;
            }
            let mut command = script(&exporter, "export.py");
            command.arg(&config).arg(&tokenizer).arg((units / f64::from(self.units)).to_string()).arg(export);
            command.args(["--prefill", &self.prefill.to_string(), "--cache", &self.cache.to_string()]);
            if let Backend::Gpu = self.backend {
                command.arg("--gpu");
            }
            tools::run(&mut command)?;
        }
        let mut command = script(&exporter, "record.py");
        command.arg(&small).arg(&large).arg(self.units.to_string()).arg(&config).arg(&out);
        tools::run(&mut command)
    }
}

/// A script beside this file.
fn script(exporter: &Installed, name: &str) -> std::process::Command {
    let mut command = exporter.python("python");
    command.arg(crate::root().join(Path::new("xtask/src/cmd/skeleton")).join(name));
    // transformers computes RoPE of the kinds of layers in the order of a set: a seed makes that order the same in both exports
    command.env("PYTHONHASHSEED", "0").env("CUDA_VISIBLE_DEVICES", "");
    command
}
