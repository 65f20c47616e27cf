//! `cargo xtask bench verify`: the perplexity of the full-size synthetic E2B by our runtime and by llama-perplexity.
//!
//! Both read the same files, which are in the page cache, and the same text, in turns, so that a busy moment of the
//! machine meets both. Time is that of the whole process. The table goes to stdout as Markdown; its notes belong in
//! docs/BENCHMARKS.md.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use xtask::oracle::Oracle;

use super::files::{build, remove, synthetic, warm};
use super::measure;
use super::turns::{Row, in_turns};

/// Perplexity of the synthetic E2B (10.2 GB, made once in the cache folder), ours and llama.cpp's.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A preset to measure; may be given several times
    #[arg(long = "type", value_name = "PRESET", default_values = ["q4_0", "bf16"])]
    types: Vec<String>,
    /// Runs of each tool with each file
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Chunks of text
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    chunks: u32,
    /// Tokens of a chunk
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..))]
    context: u32,
    /// Threads of each tool
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Read this text instead of fixtures/text/eval.txt
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Use this checkpoint folder instead
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Measure this binary instead of building ours
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Leave llama.cpp out
    #[arg(long)]
    no_peer: bool,
    /// Keep the converted files, for the next time
    #[arg(long)]
    keep: bool,
}

impl Args {
    pub(super) fn run(self) -> Result<()> {
        let ours = self.binary.clone().map_or_else(build, Ok)?;
        let cache = xtask::cache_dir()?.join("bench");
        fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
        let oracle = Oracle::find().filter(|_| !self.no_peer);
        if oracle.is_none() && !self.no_peer {
            eprintln!("without llama.cpp: `cargo xtask oracle` would provide it");
        }
        let text = self.text.clone().unwrap_or_else(|| crate::root().join("fixtures/text/eval.txt"));

        let folder = cache.join("verify");
        let mut rows = Vec::new();
        for preset in &self.types {
            let file = self.converted(&ours, preset, &cache, &folder)?;
            warm(&file)?;
            let mut tools = vec![(format!("gemma-convert verify {preset}"), self.ours(&ours, &file, &text))];
            if let Some(oracle) = &oracle {
                tools.push((format!("llama-perplexity {preset}"), self.peer(oracle, &file, &text)));
            }
            rows.extend(in_turns(tools, self.runs, || Ok(()))?);
        }
        if !self.keep {
            remove(&folder)?;
        }
        print!("{}", table(&rows, &self.types, u64::from(self.chunks * self.context)));
        println!(
            "\n{} chunks of {} tokens, {} threads, {} runs of each, in turns.",
            self.chunks, self.context, self.threads, self.runs
        );
        Ok(())
    }

    /// The GGUF of a preset, made if it is not there: under its own name a file is complete.
    fn converted(&self, ours: &Path, preset: &str, cache: &Path, folder: &Path) -> Result<PathBuf> {
        let file = folder.join(format!("{preset}.gguf"));
        if !file.exists() {
            let model = self.model.clone().map_or_else(|| synthetic(cache), Ok)?;
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
            eprintln!("converting to {}", file.display());
            let mut command = Command::new(ours);
            command.arg("convert").arg(model).args(["--type", preset, "--quiet", "-o"]).arg(&file);
            measure::run(&mut command)?;
        }
        Ok(file)
    }

    fn ours(&self, binary: &Path, file: &Path, text: &Path) -> Command {
        let mut command = Command::new(binary);
        command.arg("verify").arg("--quiet").arg(file).arg("--text").arg(text);
        command.args(["--context", &self.context.to_string(), "--chunks", &self.chunks.to_string()]);
        command.args(["--threads", &self.threads.to_string()]);
        command
    }

    fn peer(&self, oracle: &Oracle, file: &Path, text: &Path) -> Command {
        let mut command = oracle.tool("llama-perplexity");
        command.arg("--model").arg(file).arg("--file").arg(text);
        command.args(["--ctx-size", &self.context.to_string(), "--chunks", &self.chunks.to_string()]);
        command.args(["--threads", &self.threads.to_string()]);
        command
    }
}

/// The Markdown table, and under it how our median compares.
fn table(rows: &[Row], presets: &[String], tokens: u64) -> String {
    let mut text = String::from(
        "| command | wall s, least | median | most | tokens/s | processor s | peak RSS MiB |\n\
         |---|---:|---:|---:|---:|---:|---:|\n",
    );
    for row in rows {
        let [least, median, most] = row.walls();
        let speed = tokens as f64 / median;
        let busy = row.costs.iter().map(|cost| cost.processor().as_secs_f64()).sum::<f64>();
        let busy = busy / row.costs.len() as f64;
        let peak = row.peak() >> 20;
        text += &format!(
            "| {} | {least:.2} | {median:.2} | {most:.2} | {speed:.1} | {busy:.2} | {peak} |\n",
            row.what
        );
    }
    let median = |what: String| Some(rows.iter().find(|row| row.what == what)?.walls()[1]);
    for preset in presets {
        let ours = median(format!("gemma-convert verify {preset}"));
        if let (Some(ours), Some(peer)) = (ours, median(format!("llama-perplexity {preset}"))) {
            text += &format!("\n{preset}: {:.2} times the wall time of llama-perplexity.\n", ours / peer);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::bench::measure::Cost;
    use std::time::Duration;

    #[test]
    fn medians_are_compared() {
        let cost = |seconds| {
            let wall = Duration::from_secs(seconds);
            Cost { wall, user: 2 * wall, system: wall, peak: seconds << 20 }
        };
        let row = |what: &str, walls: [u64; 3]| Row { what: what.into(), costs: walls.map(cost).into() };
        let rows =
            [row("gemma-convert verify q4_0", [30, 10, 20]), row("llama-perplexity q4_0", [50, 40, 10])];
        let text = table(&rows, &["q4_0".into(), "bf16".into()], 400);
        assert!(
            text.contains("| gemma-convert verify q4_0 | 10.00 | 20.00 | 30.00 | 20.0 | 60.00 | 30 |"),
            "{text}"
        );
        assert!(text.contains("\nq4_0: 0.50 times the wall time"), "{text}");
        assert!(!text.contains("bf16"), "{text}");
    }
}
