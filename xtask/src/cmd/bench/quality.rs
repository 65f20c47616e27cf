//! `cargo xtask bench quality`: the KL divergence of what llama.cpp's tools make of the trained tiny checkpoints, and of
//! what we make in the same types or of the same size, all measured by stock llama-perplexity.
//!
//! The base logits are those of the F32 file; both sides calibrate on fixtures/text/calib.txt and are measured on
//! fixtures/text/eval.txt. The table goes to stdout as Markdown; its notes belong in docs/BENCHMARKS.md.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use xtask::oracle::Oracle;

use super::files::build;

/// KL divergence of our roundings beside those of llama-quantize, by llama-perplexity.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A folder of fixtures/checkpoints; may be given several times
    #[arg(long = "model", value_name = "NAME", default_values = ["e2b", "26b-a4b", "31b"])]
    models: Vec<String>,
    /// A preset; may be given several times
    #[arg(long = "type", value_name = "PRESET", default_values = ["q4_0", "q4_k_m"])]
    presets: Vec<String>,
    /// Tokens of a chunk
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(2..))]
    context: u32,
    /// The most chunks to measure on
    #[arg(long, value_name = "N")]
    chunks: Option<u32>,
    /// Measure this binary instead of building ours
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

/// One file of one checkpoint.
struct Row {
    model: String,
    preset: String,
    method: Method,
    bytes: u64,
    figures: Figures,
}

/// What llama-perplexity says of a file.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Figures {
    mean: f64,
    tail: f64,
    top: f64,
}

/// Who rounds, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Stock,
    StockImportance,
    Importance,
    Calibrated,
    /// The recipe for the size of Q4_0.
    Iq4,
    /// The recipe `auto`, for the size of [`REFERENCE`].
    Budget,
}

const METHODS: [(Method, &str); 6] = [
    (Method::Stock, "llama-quantize"),
    (REFERENCE, "llama-quantize --imatrix"),
    (Method::Importance, "convert --importance, ours"),
    (Method::Calibrated, "convert, calibrated"),
    (Method::Iq4, "convert --recipe iq4-calibrated"),
    (Method::Budget, "convert --recipe auto, no larger"),
];
/// What the ratio is of.
const REFERENCE: Method = Method::StockImportance;

impl Args {
    pub(super) fn run(self) -> Result<()> {
        let ours = self.binary.clone().map_or_else(build, Ok)?;
        let oracle = Oracle::find().context("without llama.cpp: `cargo xtask oracle` would provide it")?;
        let home = tempfile::tempdir()?;
        let mut rows = Vec::new();
        for model in &self.models {
            let bench =
                Bench { args: &self, ours: &ours, oracle: &oracle, dir: home.path().join(model), model };
            std::fs::create_dir_all(&bench.dir)?;
            bench.prepare()?;
            for preset in &self.presets {
                let mut limit = 0;
                for (method, name) in METHODS {
                    if method == Method::Iq4 && preset != "q4_0" {
                        continue;
                    }
                    let file = bench.file("model.gguf");
                    bench.make(method, preset, limit, &file)?;
                    let figures = bench.measure(&file)?;
                    eprintln!("{model} {preset} {name}: {figures:?}");
                    let bytes = std::fs::metadata(&file)?.len();
                    if method == REFERENCE {
                        limit = bytes;
                    }
                    let (model, preset) = (model.clone(), preset.clone());
                    rows.push(Row { model, preset, method, bytes, figures });
                }
            }
        }
        print!("{}", table(&rows));
        Ok(())
    }
}

/// A checkpoint, and what both sides need of it.
struct Bench<'a> {
    args: &'a Args,
    ours: &'a Path,
    oracle: &'a Oracle,
    model: &'a str,
    dir: PathBuf,
}

impl Bench<'_> {
    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn checkpoint(&self) -> PathBuf {
        crate::root().join("fixtures/checkpoints").join(self.model)
    }

    /// The F32 file, its logits, and importance by both sides.
    fn prepare(&self) -> Result<()> {
        let [calib, eval] =
            ["calib.txt", "eval.txt"].map(|name| crate::root().join("fixtures/text").join(name));
        let context = self.args.context.to_string();
        self.convert(&["--type", "f32"], &self.file("f32.gguf"))?;
        self.perplexity(&self.file("f32.gguf"), &["-f", text(&eval)?])?;
        let mut imatrix = self.oracle.runner("llama-imatrix");
        imatrix.args(["-t", "2", "--no-ppl", "-c", &context, "-m"]).arg(self.file("f32.gguf"));
        run(imatrix.arg("-f").arg(&calib).arg("-o").arg(self.file("stock.imatrix.gguf")))?;
        let mut calibrate = Command::new(self.ours);
        calibrate
            .arg("calibrate")
            .arg(self.checkpoint())
            .arg("--text")
            .arg(&calib)
            .args(["-c", &context, "-o"]);
        run(calibrate.arg(self.file("ours.imatrix.gguf")))?;
        Ok(())
    }

    fn convert(&self, more: &[&str], out: &Path) -> Result<()> {
        let mut convert = Command::new(self.ours);
        convert.arg("convert").arg(self.checkpoint()).args(more);
        run(convert.args(["--quiet", "--force", "-o"]).arg(out))
    }

    /// Makes a file; one whose types are free of at most `limit` bytes.
    fn make(&self, method: Method, preset: &str, limit: u64, out: &Path) -> Result<()> {
        let importance = self.file("ours.imatrix.gguf");
        let calib = crate::root().join("fixtures/text/calib.txt");
        let context = format!("calibration.context={}", self.args.context);
        let calibrated = |recipe: &[&str]| {
            self.convert(&[recipe, &["--set", &context, "--text", text(&calib)?]].concat(), out)
        };
        match method {
            Method::Stock | Method::StockImportance => {
                let mut quantize = self.oracle.tool("llama-quantize");
                if method == Method::StockImportance {
                    quantize.arg("--imatrix").arg(self.file("stock.imatrix.gguf"));
                }
                run(quantize.arg(self.file("f32.gguf")).arg(out).arg(preset.to_uppercase()))
            }
            Method::Importance => self.convert(&["--type", preset, "--importance", text(&importance)?], out),
            Method::Calibrated => calibrated(&["--type", preset, "--set", "calibration.method=ldlq"]),
            Method::Iq4 => calibrated(&["--recipe", "iq4-calibrated"]),
            Method::Budget => calibrated(&["--recipe", "auto", "--target-size", &limit.to_string()]),
        }
    }

    fn measure(&self, file: &Path) -> Result<Figures> {
        let said = self.perplexity(file, &["--kl-divergence"])?;
        let figure = |name: &str| {
            let line = said.lines().find(|line| line.trim_start().starts_with(name));
            let number =
                line.and_then(|line| line.split(':').nth(1)?.split_whitespace().next()?.parse().ok());
            number.with_context(|| format!("llama-perplexity does not say {name:?}"))
        };
        Ok(Figures { mean: figure("Mean    KLD")?, tail: figure("99.9%   KLD")?, top: figure("Same top p")? })
    }

    /// What llama-perplexity says. Its logger may lose the last lines, so it is asked again.
    fn perplexity(&self, file: &Path, more: &[&str]) -> Result<String> {
        for _ in 0..5 {
            let mut command = self.oracle.runner("llama-perplexity");
            command.args(["-t", "2", "-c", &self.args.context.to_string(), "-m"]).arg(file).args(more);
            command.args(self.args.chunks.map(|chunks| format!("--chunks={chunks}")));
            command.arg("--kl-divergence-base").arg(self.file("base.logits"));
            let output = command.stdin(Stdio::null()).output()?;
            ensure!(
                output.status.success(),
                "{command:?} failed: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            if more[0] == "-f" || said.contains("Same top p: ") {
                return Ok(said);
            }
        }
        bail!("llama-perplexity says nothing of {}", file.display())
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The Markdown table.
fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| checkpoint | types | rounded by | bytes | mean KLD | of `--imatrix` | 99.9 % KLD | same top token |\n\
         |---|---|---|---:|---:|---:|---:|---:|\n",
    );
    for row in rows {
        let reference = rows.iter().find(|other| {
            (&other.model, &other.preset, other.method) == (&row.model, &row.preset, REFERENCE)
        });
        let ratio = reference.map_or(f64::NAN, |reference| row.figures.mean / reference.figures.mean);
        let Figures { mean, tail, top } = row.figures;
        let name = METHODS.iter().find(|(method, _)| *method == row.method).map_or("", |(_, name)| name);
        text += &format!(
            "| {} | {} | {name} | {} | {mean:.6} | {ratio:.3} | {tail:.4} | {top:.2} % |\n",
            row.model, row.preset, row.bytes
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_checkpoint_and_types() {
        let row = |model: &str, method, mean| Row {
            model: model.to_owned(),
            preset: "q4_0".to_owned(),
            method,
            bytes: 10,
            figures: Figures { mean, tail: 0.5, top: 95.0 },
        };
        let rows =
            [row("a", REFERENCE, 0.004), row("a", Method::Budget, 0.002), row("b", Method::Budget, 0.1)];
        let text = table(&rows);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[2].contains("| 0.004000 | 1.000 |"), "{}", lines[2]);
        assert!(lines[3].contains("| 0.002000 | 0.500 |"), "{}", lines[3]);
        assert!(lines[4].contains("NaN"), "{}", lines[4]);
    }
}
