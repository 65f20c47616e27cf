//! `cargo xtask bench codecs`: million weights a second on one core, for each type and level of vector instructions, beside ggml's encoders,
//! which llama-quantize calls.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use quant::Simd;
use tensor::DType;
use testkit::SplitMix64;
use xtask::oracle::Oracle;

use crate::cmd::tools;

const ROWS: usize = 256;
const COLS: usize = 4096;
/// The shortest run within so many seconds counts.
const SECONDS: f64 = 0.5;
const TYPES: [DType; 13] = [
    DType::Q8_0,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::IQ4_NL,
    DType::IQ4_XS,
    DType::Q2_K,
    DType::Q3_K,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
    DType::MXFP4,
];

/// Encode random rows with each codec, and with ggml's if llama.cpp was built here.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A type to measure; may be given several times. By default all
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<DType>,
}

/// The shortest time of a type without and with importance, and the bytes of both.
struct Encoded {
    seconds: [f64; 2],
    bytes: [Vec<u8>; 2],
}

impl Args {
    pub(super) fn run(self) -> Result<()> {
        let types = if self.types.is_empty() { TYPES.to_vec() } else { self.types };
        let mut random = SplitMix64(1);
        let values: Vec<f32> = (0..ROWS * COLS).map(|_| 0.02 * random.normal()).collect();
        let importance: Vec<f32> = (0..COLS).map(|_| 0.5 + random.unit() as f32).collect();
        let peer = Oracle::find().map(|oracle| ggml(&oracle, &types, &values, &importance)).transpose()?;
        if peer.is_none() {
            eprintln!("without ggml: `cargo xtask oracle` would provide it");
        }
        let levels = Simd::available();
        let names: Vec<&str> = levels.iter().map(|level| level.name()).collect();
        println!("| type | {} | ggml | ratio | with importance | ggml | ratio |", names.join(" | "));
        println!("|---|{}---:|---:|---:|---:|---:|", "---:|".repeat(levels.len()));
        for (number, dtype) in types.iter().enumerate() {
            let ours: Vec<Encoded> =
                levels.iter().map(|level| encode(*level, *dtype, &values, &importance)).collect();
            let fastest = ours.last().context("a processor has a level")?;
            let rate = |seconds: f64| (ROWS * COLS) as f64 / seconds / 1e6;
            let plain: Vec<String> = ours.iter().map(|one| format!("{:.0}", rate(one.seconds[0]))).collect();
            let mut cells = vec![dtype.name().to_owned(), plain.join(" | ")];
            for weighted in [0, 1] {
                if weighted == 1 {
                    cells.push(format!("{:.0}", rate(fastest.seconds[1])));
                }
                match peer.as_ref().map(|peer| &peer[number]) {
                    Some(peer) => {
                        let same = ours.iter().all(|one| one.bytes[weighted] == peer.bytes[weighted]);
                        ensure!(same, "{dtype}: other bytes than ggml's");
                        cells.push(format!("{:.0}", rate(peer.seconds[weighted])));
                        cells.push(format!("{:.1}", peer.seconds[weighted] / fastest.seconds[weighted]));
                    }
                    None => cells.extend([String::new(), String::new()]),
                }
            }
            println!("| {} |", cells.join(" | "));
        }
        println!("\nMillion weights a second on one core; the same bytes at all levels and by ggml.");
        Ok(())
    }
}

fn encode(simd: Simd, dtype: DType, values: &[f32], importance: &[f32]) -> Encoded {
    let mut encoded = Encoded { seconds: [f64::INFINITY; 2], bytes: Default::default() };
    for (weighted, importance) in [None, Some(importance)].into_iter().enumerate() {
        let mut bytes = vec![0; values.len() / dtype.block_len() * dtype.block_bytes()];
        let begin = Instant::now();
        while begin.elapsed().as_secs_f64() < SECONDS {
            let start = Instant::now();
            quant::encode(simd, dtype, COLS, values, importance, &mut bytes);
            encoded.seconds[weighted] = encoded.seconds[weighted].min(start.elapsed().as_secs_f64());
        }
        encoded.bytes[weighted] = bytes;
    }
    encoded
}

/// The encoders of ggml, in a program that is linked to the library of the tools.
fn ggml(oracle: &Oracle, types: &[DType], values: &[f32], importance: &[f32]) -> Result<Vec<Encoded>> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let (program, out) = (path("codecs"), path("out"));
    let library = oracle.bin.join("../ggml/src/libggml-base.a");
    let mut compiler = Command::new("c++");
    compiler.args(["-O2", "-x", "c"]).arg(crate::root().join("xtask/src/cmd/bench/codecs.c"));
    compiler.args(["-x", "none", "-I"]).arg(oracle.src.join("ggml/include")).arg("-o").arg(&program);
    compiler.arg(library).args(["-lm", "-lpthread", "-ldl", "-fopenmp"]);
    tools::output(&mut compiler)?;
    let floats = |path: &Path, values: &[f32]| {
        fs::write(path, values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
    };
    floats(&path("values"), values)?;
    floats(&path("importance"), importance)?;
    let mut command = Command::new(program);
    command.args([ROWS.to_string(), COLS.to_string(), SECONDS.to_string()]);
    command.arg(path("values")).arg(path("importance")).arg(&out);
    for dtype in types {
        command.arg(gguf::type_id(*dtype)?.to_string());
    }
    let said = String::from_utf8(tools::output(&mut command)?)?;
    let seconds: Vec<f64> = said.lines().map(str::parse).collect::<Result<_, _>>()?;
    let bytes = fs::read(out)?;
    let mut rest = &bytes[..];
    let mut take = |len: usize| {
        let (taken, after) = rest.split_at(len);
        rest = after;
        taken.to_vec()
    };
    let encoded = types.iter().zip(seconds.as_chunks().0).map(|(dtype, seconds)| {
        let len = values.len() / dtype.block_len() * dtype.block_bytes();
        Encoded { seconds: *seconds, bytes: [take(len), take(len)] }
    });
    Ok(encoded.collect())
}
