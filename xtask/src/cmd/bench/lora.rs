//! `cargo xtask bench lora`: what merging an adapter adds to the conversion of the synthetic E2B.
//!
//! The adapter is PEFT's: a pair for each linear of the text model's layers, F32 noise. Figures belong in
//! docs/BENCHMARKS.md.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use base::SplitMix64;
use checkpoint::{Checkpoint, SafetensorsWriter};
use serde_json::json;
use tensor::{DType, TensorDesc, TensorSink, TensorSource};

use super::files::{build, remove, synthetic, warm};
use super::measure::{self, Cost};

/// Convert the synthetic E2B (10.2 GB, made once in the cache folder) with and without an adapter.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Rank of the adapter
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1024))]
    rank: u64,
    /// The preset to convert to
    #[arg(long = "type", value_name = "PRESET", default_value = "q4_0")]
    preset: String,
    /// Runs of each; the table shows the median by wall time
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Use this checkpoint folder instead
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Write the outputs into this folder, such as one in memory, instead of the cache folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self) -> Result<()> {
        let ours = build()?;
        let folder = xtask::cache_dir()?.join("bench");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let model = self.model.map_or_else(|| synthetic(&folder), Ok)?;
        let adapter = folder.join(format!("adapter-r{}", self.rank));
        let pairs = write_adapter(&model, &adapter, self.rank)?;
        let out = self.out.unwrap_or(folder).join("lora-output");

        println!("| command | wall s | user s | system s | peak RSS MiB |\n|---|---:|---:|---:|---:|");
        let mut walls = Vec::new();
        for merged in [false, true] {
            let mut costs = Vec::new();
            for _ in 0..self.runs {
                remove(&out)?;
                warm(&model)?;
                let mut command = Command::new(&ours);
                command.arg("convert").arg(&model).args(["--type", &self.preset, "--quiet", "-o"]).arg(&out);
                if merged {
                    command.arg("--lora").arg(&adapter);
                }
                costs.push(measure::run(&mut command)?);
            }
            remove(&out)?;
            let Cost { wall, user, system, peak } = measure::median(costs);
            let [wall, user, system] = [wall, user, system].map(|time| time.as_secs_f64());
            let what = if merged { format!("{}, --lora", self.preset) } else { self.preset.clone() };
            println!("| {what} | {wall:.2} | {user:.2} | {system:.2} | {} |", peak >> 20);
            walls.push(wall);
        }
        println!(
            "\n{pairs} pairs of rank {}: {:.2} × the time. Median of {} runs by wall time.",
            self.rank,
            walls[1] / walls[0],
            self.runs
        );
        Ok(())
    }
}

/// Writes an adapter for the linears of the layers; returns the number of pairs.
fn write_adapter(model: &Path, folder: &Path, rank: u64) -> Result<usize> {
    let checkpoint = Checkpoint::open(model)?;
    let linear = |desc: &&TensorDesc| {
        let name = &desc.name;
        name.contains("language_model.layers.") && name.ends_with(".weight") && desc.shape.len() == 2
    };
    let linears: Vec<_> = checkpoint.tensors().iter().filter(linear).collect();
    let mut factors = Vec::new();
    for desc in &linears {
        let module = format!("base_model.model.{}", desc.name.trim_end_matches(".weight"));
        let (rows, cols) = (desc.shape[0], desc.shape[1]);
        factors.push(TensorDesc::new(format!("{module}.lora_A.weight"), DType::F32, [rank, cols])?);
        factors.push(TensorDesc::new(format!("{module}.lora_B.weight"), DType::F32, [rows, rank])?);
    }
    remove(folder)?;
    fs::create_dir_all(folder)?;
    let config =
        json!({ "peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": "all-linear" });
    fs::write(folder.join("adapter_config.json"), config.to_string())?;
    let path = folder.join("adapter_model.safetensors");
    let file = SafetensorsWriter::create(&path, factors, &[("format", "pt")])?;
    let mut random = SplitMix64(1);
    for (index, desc) in file.tensors().iter().enumerate() {
        // uniform within ± 0.01, from the upper bits
        let value = |bits: u64| ((bits >> 40) as f32 / (1 << 23) as f32 - 1.0) * 0.01;
        let bytes: Vec<u8> = (0..desc.elements()).flat_map(|_| value(random.next()).to_le_bytes()).collect();
        file.write_rows(index, 0, &bytes)?;
    }
    file.finish()?;
    Ok(linears.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkpoint::Adapter;

    #[test]
    fn the_adapter_fits_the_model() {
        let model = testkit::fixtures("checkpoints/e2b");
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("adapter");
        let pairs = write_adapter(&model, &folder, 4).unwrap();
        let base = Checkpoint::open(&model).unwrap();
        let merged = base.with_adapters(&[Adapter { folder, scale: 1.0, tie: false }]).unwrap();
        let adapted = merged.notes().iter().find(|note| note.text.contains("product of low rank")).unwrap();
        assert!(adapted.text.contains(&format!("{pairs} tensors")), "{adapted:?}");
    }
}
