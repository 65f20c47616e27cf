//! `cargo xtask bench formats`: what each format costs, by the KL divergence of the trained tiny checkpoints.
//!
//! Every recipe is converted to a temporary folder and verified against its checkpoint over the same text. The table goes
//! to stdout as Markdown; its notes belong in docs/BENCHMARKS.md.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::files::build;

/// The KL divergence of each format from the tiny checkpoints, with its bits a weight.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A recipe to measure; may be given several times
    #[arg(long = "recipe", value_name = "NAME", default_values = ["bf16-safetensors", "q8_0", "fp8", "sfp8", "q4_0"])]
    recipes: Vec<String>,
    /// A folder of fixtures/checkpoints; may be given several times
    #[arg(long = "model", value_name = "NAME", default_values = ["e2b", "26b-a4b", "31b"])]
    models: Vec<String>,
    /// Tokens of a chunk of fixtures/text/eval.txt
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(2..))]
    context: u32,
    /// The most chunks
    #[arg(long, value_name = "N")]
    chunks: Option<u32>,
    /// Measure this binary instead of building ours
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// One recipe of one checkpoint.
struct Row {
    model: String,
    recipe: String,
    bits: f64,
    mean: f64,
    interval: [f64; 2],
    p99: f64,
    top1: f64,
    ratio: f64,
}

impl Args {
    pub(super) fn run(self) -> Result<()> {
        let binary = self.binary.clone().map_or_else(build, Ok)?;
        let home = tempfile::tempdir()?;
        let mut rows = Vec::new();
        for model in &self.models {
            let checkpoint = crate::root().join("fixtures/checkpoints").join(model);
            for recipe in &self.recipes {
                let out = home.path().join(format!("{model}-{recipe}"));
                let mut convert = Command::new(&binary);
                run(convert.arg("convert").arg(&checkpoint).args(["--recipe", recipe, "-o"]).arg(&out))?;
                let report = run(&mut self.verify(&binary, &artifact(&out)?, &checkpoint))?;
                let report = serde_json::from_slice(&report).context("verify --json is no JSON")?;
                let row = Row::of(model, recipe, &report)?;
                eprintln!("{model} {recipe}: {:.6}", row.mean);
                rows.push(row);
            }
        }
        print!("{}", table(&rows));
        Ok(())
    }

    fn verify(&self, binary: &Path, artifact: &Path, checkpoint: &Path) -> Command {
        let mut command = Command::new(binary);
        command.arg("verify").arg("--quiet").arg(artifact).arg("--against").arg(checkpoint).arg("--json");
        command.arg("--context").arg(self.context.to_string());
        command.arg(format!("--text={}", crate::root().join("fixtures/text/eval.txt").display()));
        command.args(self.chunks.map(|chunks| format!("--chunks={chunks}")));
        command
    }
}

/// The GGUF in a folder, or the folder.
fn artifact(out: &Path) -> Result<PathBuf> {
    for entry in out.read_dir()? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "gguf") {
            return Ok(path);
        }
    }
    Ok(out.to_owned())
}

/// What a command prints.
fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stdout));
    Ok(output.stdout)
}

impl Row {
    fn of(model: &str, recipe: &str, report: &Value) -> Result<Row> {
        let number = |pointer: &str| {
            let value = report.pointer(pointer).and_then(Value::as_f64);
            value.with_context(|| format!("the report of {model} {recipe} has no {pointer}"))
        };
        Ok(Row {
            model: model.to_owned(),
            recipe: recipe.to_owned(),
            bits: 8.0 * number("/artifact/bytes")? / number("/artifact/weights")?,
            mean: number("/kld/mean")?,
            interval: [number("/intervals/kld.mean/0")?, number("/intervals/kld.mean/1")?],
            p99: number("/kld/p99")?,
            top1: number("/top1")?,
            ratio: number("/perplexity/ratio")?,
        })
    }
}

/// The Markdown table.
fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| checkpoint | recipe | bits a weight | mean KLD | 95 % interval | 99 % KLD | same top token | perplexity ratio |\n\
         |---|---|---:|---:|---:|---:|---:|---:|\n",
    );
    for Row { model, recipe, bits, mean, interval: [low, high], p99, top1, ratio } in rows {
        text += &format!(
            "| {model} | {recipe} | {bits:.2} | {} | {} – {} | {} | {:.2} % | {ratio:.4} |\n",
            nats(*mean),
            nats(*low),
            nats(*high),
            nats(*p99),
            100.0 * top1
        );
    }
    text
}

/// Three digits that count, down to a millionth of a nat.
fn nats(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 0.1 => format!("{value:.3}"),
        size if size >= 0.01 => format!("{value:.4}"),
        size if size >= 0.001 => format!("{value:.5}"),
        _ => format!("{value:.6}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_what_the_report_says() {
        let report = serde_json::json!({
            "artifact": { "bytes": 17, "weights": 16 },
            "kld": { "mean": 0.004_249, "p99": 0.031_4 },
            "intervals": { "kld.mean": [0.0041, 0.0] },
            "top1": 0.975,
            "perplexity": { "ratio": 1.004 }
        });
        let row = Row::of("e2b", "q8_0", &report).unwrap();
        let text = table(&[row]);
        let line = "| e2b | q8_0 | 8.50 | 0.00425 | 0.00410 – 0 | 0.0314 | 97.50 % | 1.0040 |\n";
        assert!(text.ends_with(line), "{text}");
        assert!(Row::of("e2b", "q8_0", &Value::Null).is_err());
    }
}
