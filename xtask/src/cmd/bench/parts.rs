//! `cargo xtask bench parts`: what a job in parts takes, beside the same job in one process. The parts run one after the other, so each
//! has the machine to itself; a real cluster runs them at once.
//!
//! The outputs are compared: parts that do not make the bytes of the single run, or its report, are an error. The table goes to stdout as
//! Markdown.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::files::{build, remove, synthetic, warm};
use super::measure::{self, Cost};

/// Do a job (convert, calibrate, sensitivity or verify) in one process, and in parts, on the synthetic E2B (10.2 GB, made once in the
/// cache folder). A verification is that of its Q4_0.
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
        remove(&folder)?;
        fs::create_dir_all(&folder)?;
        let job = Job::new(ours, &self.job, model, &folder)?;
        let [single, out] = ["single", "out"].map(|name| folder.join(name));
        fs::create_dir_all(&single)?;
        let whole = job.run(&single, Step::Whole)?;
        eprintln!("in one process: {whole:?}");
        let mut rows = Vec::new();
        for &parts in &self.parts {
            let of_parts = (1..=parts).map(|number| job.run(&out, Step::Part(number, parts)));
            let of_parts = of_parts.collect::<Result<Vec<_>>>()?;
            let join = job.run(&out, Step::Join)?;
            ensure!(
                job.made(&out)? == job.made(&single)?,
                "{parts} parts made another output than one process"
            );
            remove(&out)?;
            eprintln!("in {parts} parts: {of_parts:?}, {join:?}");
            rows.push(Row { parts, of_parts, join });
        }
        remove(&folder)?;
        print!("{}", table(whole, &rows));
        Ok(())
    }
}

/// A job, whose output is a file.
struct Job {
    program: PathBuf,
    /// The command, the model and the options.
    command: Vec<String>,
    model: PathBuf,
    /// The name of the output.
    output: &'static str,
}

/// A process of a job.
#[derive(Clone, Copy)]
enum Step {
    Whole,
    Part(u32, u32),
    Join,
}

impl Job {
    fn new(program: PathBuf, job: &[String], model: PathBuf, folder: &Path) -> Result<Job> {
        let text = |path: &Path| path.to_str().map(str::to_owned).context("a path that is not UTF-8");
        let output = match job[0].as_str() {
            "convert" => "model.gguf",
            "calibrate" => "imatrix.gguf",
            "sensitivity" => "sensitivity.json",
            _ => REPORT,
        };
        let mut command = vec![job[0].clone(), text(&model)?];
        if output == REPORT {
            let artifact = folder.join("model-q4_0.gguf");
            let mut convert = Command::new(&program);
            convert.arg("convert").arg(&model).args(["--type", "q4_0", "--quiet", "-o"]).arg(&artifact);
            measure::run(&mut convert)?;
            command = vec![job[0].clone(), text(&artifact)?, "--against".to_owned(), text(&model)?];
        }
        command.extend(job[1..].iter().cloned());
        Ok(Job { program, command, model, output })
    }

    fn run(&self, out: &Path, step: Step) -> Result<Cost> {
        warm(&self.model)?;
        let mut command = Command::new(&self.program);
        let file = out.join(self.output);
        if let (Step::Join, true) = (step, self.output != REPORT) {
            return measure::run(command.args(["join", "--quiet"]).arg(out));
        }
        command.args(&self.command).arg("--quiet");
        match (step, self.output == REPORT) {
            (Step::Part(number, parts), is_report) => {
                let target = if is_report { out } else { &file };
                command.args(["--part", &format!("{number}/{parts}"), "-o"]).arg(target);
            }
            (_, false) => drop(command.arg("-o").arg(file)),
            (Step::Whole, true) => drop(command.arg("--report-json").arg(file)),
            (Step::Join, true) => drop(command.arg("--join").arg(out).arg("--report-json").arg(file)),
        }
        measure::run(&mut command)
    }

    /// What must be the same in any number of parts.
    fn made(&self, out: &Path) -> Result<Vec<u8>> {
        let bytes = fs::read(out.join(self.output))?;
        if self.output != REPORT {
            return Ok(bytes);
        }
        let mut report: Value = serde_json::from_slice(&bytes)?;
        let report = report.as_object_mut().context("a report")?;
        // the command and its times
        for key in ["run", "seconds"] {
            report.remove(key);
        }
        Ok(serde_json::to_vec(report)?)
    }
}

/// The output of a verification.
const REPORT: &str = "report.json";

/// The Markdown table.
fn table(whole: Cost, rows: &[Row]) -> String {
    let mut text = String::from(
        "| parts | processor time, s | of one process | longest part, s | join, s | peak memory, MB |\n\
         |---:|---:|---:|---:|---:|---:|\n",
    );
    let mut line = |parts: &str, all: Duration, longest: Duration, join: Duration, peak: u64| {
        let [all_s, longest, join] = [all, longest, join].map(|time| time.as_secs_f64());
        let ratio = all_s / whole.processor().as_secs_f64();
        let megabytes = peak / 1_000_000;
        text += &format!("| {parts} | {all_s:.1} | {ratio:.3} | {longest:.1} | {join:.1} | {megabytes} |\n");
    };
    line("one process", whole.processor(), whole.wall, Duration::ZERO, whole.peak);
    for Row { parts, of_parts, join } in rows {
        let all = of_parts.iter().chain([join]).map(Cost::processor).sum();
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
