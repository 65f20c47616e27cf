//! `cargo xtask bench parts`: what a job in parts takes, beside the same job in one process. The parts run one after the other, so each
//! has the machine to itself; a real cluster runs them at once.
//!
//! The outputs are compared: parts that do not make the bytes of the single run are an error. The table goes to stdout as Markdown.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::files::{build, remove, synthetic, warm};
use super::measure::{self, Cost};

/// Do a job (convert, calibrate or sensitivity) in one process, and in parts, on the synthetic E2B (10.2 GB, made once in the cache
/// folder).
#[derive(clap::Args)]
pub(super) struct Args {
    /// The command and its options, without model, output and part: `-- convert --type q4_0`
    #[arg(last = true, required = true)]
    job: Vec<String>,
    /// Numbers of parts
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 2, 4, 8])]
    parts: Vec<u32>,
    /// Use this checkpoint folder instead
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Measure this binary instead of building ours
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// One job in parts.
struct Row {
    parts: u32,
    of_parts: Vec<Cost>,
    join: Cost,
}

impl Args {
    pub(super) fn run(self) -> Result<()> {
        let ours = self.binary.clone().map_or_else(build, Ok)?;
        let cache = xtask::cache_dir()?.join("bench");
        fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
        let model = self.model.clone().map_or_else(|| synthetic(&cache), Ok)?;
        let folder = cache.join("parts");
        let name = match self.job[0].as_str() {
            "convert" => "model.gguf",
            "calibrate" => "imatrix.gguf",
            _ => "sensitivity.json",
        };
        let run = |out: &Path, more: &[&str]| {
            warm(&model)?;
            let mut command = Command::new(&ours);
            command.arg(&self.job[0]).arg(&model).args(&self.job[1..]).arg("--quiet");
            measure::run(command.arg("-o").arg(out.join(name)).args(more))
        };
        let [single, out] = ["single", "out"].map(|name| folder.join(name));
        remove(&folder)?;
        fs::create_dir_all(&single)?;
        let whole = run(&single, &[])?;
        eprintln!("in one process: {whole:?}");
        let mut rows = Vec::new();
        for &parts in &self.parts {
            let of_parts = (1..=parts).map(|number| run(&out, &["--part", &format!("{number}/{parts}")]));
            let of_parts = of_parts.collect::<Result<Vec<_>>>()?;
            let join = measure::run(Command::new(&ours).args(["join", "--quiet"]).arg(&out))?;
            let same = fs::read(out.join(name))? == fs::read(single.join(name))?;
            ensure!(same, "{parts} parts made other bytes than one process");
            remove(&out)?;
            eprintln!("in {parts} parts: {of_parts:?}, {join:?}");
            rows.push(Row { parts, of_parts, join });
        }
        remove(&folder)?;
        print!("{}", table(whole, &rows));
        Ok(())
    }
}

fn processor(cost: &Cost) -> Duration {
    cost.user + cost.system
}

/// The Markdown table.
fn table(whole: Cost, rows: &[Row]) -> String {
    let mut text = String::from(
        "| parts | processor time, s | of one process | longest part, s | `join`, s | peak memory, MB |\n\
         |---:|---:|---:|---:|---:|---:|\n",
    );
    let mut line = |parts: &str, all: Duration, longest: Duration, join: Duration, peak: u64| {
        let [all_s, longest, join] = [all, longest, join].map(|time| time.as_secs_f64());
        let ratio = all_s / processor(&whole).as_secs_f64();
        let megabytes = peak / 1_000_000;
        text += &format!("| {parts} | {all_s:.1} | {ratio:.3} | {longest:.1} | {join:.1} | {megabytes} |\n");
    };
    line("one process", processor(&whole), whole.wall, Duration::ZERO, whole.peak);
    for Row { parts, of_parts, join } in rows {
        let all = of_parts.iter().chain([join]).map(processor).sum();
        let longest = of_parts.iter().map(|part| part.wall).max().unwrap_or_default();
        let peak = of_parts.iter().map(|part| part.peak).max().unwrap_or_default();
        line(&parts.to_string(), all, longest, join.wall, peak);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_join_counts() {
        let cost = |seconds| Cost {
            wall: Duration::from_secs(seconds),
            user: Duration::from_secs(seconds),
            system: Duration::ZERO,
            peak: seconds * 1_000_000,
        };
        let rows = [Row { parts: 2, of_parts: vec![cost(6), cost(4)], join: cost(1) }];
        let text = table(cost(10), &rows);
        assert!(text.ends_with("| 2 | 11.0 | 1.100 | 6.0 | 1.0 | 6 |\n"), "{text}");
    }
}
