//! `cargo xtask bench convert`: the full-size synthetic E2B through our converter and through llama.cpp's two steps.
//!
//! The input is in the page cache before each run, so the numbers are those of the program and of writing.
//! The table goes to stdout as Markdown; its notes belong in docs/BENCHMARKS.md.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use xtask::oracle::Oracle;

use super::files::{build, each_block, remove, synthetic, warm};
use super::measure::{self, Cost};

/// Convert the synthetic E2B (10.2 GB, made once in the cache folder) with our tool and with llama.cpp.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A preset to measure; may be given several times
    #[arg(long = "type", value_name = "PRESET", default_value = "q4_0")]
    types: Vec<String>,
    /// Runs of our tool for each preset; the table shows the median by wall time
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Use this checkpoint folder instead
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Measure this binary instead of building ours
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Do not wait for the disk at the end, as llama.cpp's tools do not
    #[arg(long)]
    no_sync: bool,
    /// Leave llama.cpp out
    #[arg(long)]
    no_peer: bool,
    /// Keep the outputs
    #[arg(long)]
    keep: bool,
}

/// One line of the table.
struct Row {
    what: String,
    cost: Cost,
    bytes: u64,
}

impl Args {
    pub(super) fn run(self) -> Result<()> {
        let ours = self.binary.map_or_else(build, Ok)?;
        let folder = xtask::cache_dir()?.join("bench");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let model = match self.model {
            Some(model) => model,
            None => synthetic(&folder)?,
        };
        let oracle = Oracle::find().filter(|oracle| !self.no_peer && oracle.can_convert());
        if oracle.is_none() && !self.no_peer {
            eprintln!("without llama.cpp: `cargo xtask oracle` would provide it");
        }

        let outputs = Outputs { folder: folder.join("outputs"), keep: self.keep };
        let mut digests = Vec::new();
        let mut rows = Vec::new();
        for preset in &self.types {
            let (row, digest) = run_ours(&ours, &model, preset, self.no_sync, &outputs, self.runs)?;
            rows.push(row);
            digests.push(format!("{preset}: sha256 {digest}"));
        }
        if let Some(oracle) = oracle {
            rows.extend(run_peer(&oracle, &model, &self.types, &outputs)?);
        }
        print!("{}", table(&rows, &self.types));
        println!(
            "\nOurs: median of {} runs by wall time, the same bytes each time. llama.cpp: one run.",
            self.runs
        );
        println!("{}", digests.join("\n"));
        Ok(())
    }
}

fn run_ours(
    ours: &Path,
    model: &Path,
    preset: &str,
    no_sync: bool,
    outputs: &Outputs,
    runs: u32,
) -> Result<(Row, String)> {
    let name = format!("ours-{preset}");
    let mut costs = Vec::new();
    let mut digests = Vec::new();
    let mut bytes = 0;
    for number in 1..=runs {
        let out = outputs.fresh(&name)?;
        warm(model)?;
        let mut command = Command::new(ours);
        command.arg("convert").arg(model).args(["--type", preset, "--quiet", "-o"]).arg(&out);
        if no_sync {
            command.arg("--no-sync");
        }
        let cost = measure::run(&mut command)?;
        eprintln!("{name}, run {number}: {:.2} s", cost.wall.as_secs_f64());
        costs.push(cost);
        digests.push(sha256(&out)?);
        bytes = out.metadata()?.len();
    }
    outputs.done_with(&name)?;
    digests.dedup();
    ensure!(digests.len() == 1, "{preset}: the runs gave different bytes: {}", digests.join(", "));
    let cost = measure::median(costs);
    Ok((Row { what: format!("gemma-convert {preset}"), cost, bytes }, digests.remove(0)))
}

/// llama.cpp's way: one BF16 file, then each preset from it.
fn run_peer(oracle: &Oracle, model: &Path, presets: &[String], outputs: &Outputs) -> Result<Vec<Row>> {
    let bf16 = outputs.fresh("peer-bf16")?;
    warm(model)?;
    let mut command = oracle.script("convert_hf_to_gguf.py");
    command.arg(model).args(["--outtype", "bf16", "--outfile"]).arg(&bf16);
    let first = measure::run(&mut command)?;
    eprintln!("convert_hf_to_gguf.py: {:.1} s", first.wall.as_secs_f64());
    let what = "convert_hf_to_gguf.py bf16".to_owned();
    let mut rows = vec![Row { what, cost: first, bytes: bf16.metadata()?.len() }];
    for preset in presets {
        let name = format!("peer-{preset}");
        let out = outputs.fresh(&name)?;
        warm(&bf16)?;
        let mut command = oracle.tool("llama-quantize");
        let second = measure::run(command.arg(&bf16).arg(&out).arg(preset.to_uppercase()))?;
        eprintln!("llama-quantize {preset}: {:.1} s", second.wall.as_secs_f64());
        let bytes = out.metadata()?.len();
        rows.push(Row { what: format!("llama-quantize {preset}"), cost: second, bytes });
        rows.push(Row { what: format!("llama.cpp {preset}, both steps"), cost: first.then(second), bytes });
        outputs.done_with(&name)?;
    }
    outputs.done_with("peer-bf16")?;
    Ok(rows)
}

/// Where outputs go: a folder each, at a fixed place, so that what an interrupted run leaves is gone after the next.
struct Outputs {
    folder: PathBuf,
    keep: bool,
}

impl Outputs {
    /// The path of a GGUF file alone in a new folder.
    fn fresh(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        remove(&folder)?;
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder.join("model.gguf"))
    }

    fn done_with(&self, name: &str) -> Result<()> {
        let folder = self.folder.join(name);
        if self.keep {
            eprintln!("kept {}", folder.display());
            return Ok(());
        }
        remove(&folder)
    }
}

/// The Markdown table, and under it how many times faster and smaller we are.
fn table(rows: &[Row], presets: &[String]) -> String {
    let mut text = String::from(
        "| command | wall s | user s | system s | peak RSS MiB | output bytes |\n|---|---:|---:|---:|---:|---:|\n",
    );
    for Row { what, cost, bytes } in rows {
        let [wall, user, system] = [cost.wall, cost.user, cost.system].map(|time| time.as_secs_f64());
        let peak = cost.peak >> 20;
        text += &format!("| {what} | {wall:.2} | {user:.2} | {system:.2} | {peak} | {bytes} |\n");
    }
    let find = |what: String| rows.iter().find(|row| row.what == what);
    for preset in presets {
        let ours = find(format!("gemma-convert {preset}"));
        let peer = find(format!("llama.cpp {preset}, both steps"));
        if let (Some(ours), Some(peer)) = (ours, peer) {
            text += &format!(
                "\n{preset}: {:.1} times faster than both steps, with {:.1} % of the peak memory.\n",
                peer.cost.wall.as_secs_f64() / ours.cost.wall.as_secs_f64(),
                100.0 * ours.cost.peak as f64 / peer.cost.peak as f64,
            );
        }
    }
    text
}

fn sha256(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    each_block(path, |block| hash.update(block))?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ratios_compare_with_both_steps() {
        let row = |what: &str, seconds, peak| {
            let wall = Duration::from_secs(seconds);
            Row { what: what.into(), cost: Cost { wall, user: wall, system: wall, peak }, bytes: 7 }
        };
        let rows = [row("gemma-convert q4_0", 10, 1 << 30), row("llama.cpp q4_0, both steps", 137, 20 << 30)];
        let text = table(&rows, &["q4_0".into(), "q8_0".into()]);
        assert!(text.contains("| gemma-convert q4_0 | 10.00 | 10.00 | 10.00 | 1024 | 7 |"), "{text}");
        assert!(text.contains("\nq4_0: 13.7 times faster than both steps, with 5.0 % of"), "{text}");
        assert!(!text.contains("q8_0"), "{text}");
    }

    #[test]
    fn digests() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        fs::write(&path, "abc").unwrap();
        assert!(sha256(&path).unwrap().starts_with("ba7816bf8f01cfea"));
    }

    #[test]
    fn outputs_are_alone_and_go_away() {
        let dir = tempfile::tempdir().unwrap();
        let outputs = |keep| Outputs { folder: dir.path().join("outputs"), keep };
        let out = outputs(true).fresh("x").unwrap();
        fs::write(out.with_file_name("manifest.json"), "left over").unwrap();
        outputs(true).done_with("x").unwrap();
        assert_eq!(outputs(false).fresh("x").unwrap(), out);
        assert_eq!(fs::read_dir(out.parent().unwrap()).unwrap().count(), 0);
        outputs(false).done_with("x").unwrap();
        assert!(!out.parent().unwrap().exists());
    }
}
