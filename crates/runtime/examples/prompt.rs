//! How long the forward pass of a perplexity takes: `prompt MODEL [TOKENS [SEQUENCES [plain]]]`, MODEL a checkpoint
//! folder or a GGUF, `plain` to do without AMX. Threads are rayon's: set `RAYON_NUM_THREADS`.

#![allow(clippy::print_stdout, reason = "it is a program")]

use std::path::Path;
use std::time::Instant;

use checkpoint::Checkpoint;
use gemma::Config;
use gguf::GgufSet;
use runtime::{Compute, Kernel, Model, Weights};
use tensor::{Result, TensorSource};

/// Logits of a token at a time.
const PIECE: usize = 8192;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().unwrap_or_else(|| "model.gguf".into());
    let mut number = |otherwise| args.next().and_then(|arg| arg.parse().ok()).unwrap_or(otherwise);
    let (tokens, sequences) = (number(512), number(1));
    let mut compute = Compute::detect();
    if args.next().is_some() {
        compute.kernel = Kernel::F32;
    }
    if Path::new(&path).is_dir() {
        let checkpoint = Checkpoint::open(&path)?;
        let config = Config::from_json(checkpoint.config())?;
        let inventory = gemma::inventory(&config, checkpoint.tensors(), &|_| path.clone())?;
        time(&Model::new(&config, Weights::new(&checkpoint, &inventory, compute)?)?, tokens, sequences)
    } else {
        let file = GgufSet::open(&path)?;
        let config = Config::from_metadata(file.metadata(), file.tensors())?;
        let inventory = gemma::gguf_inventory(&config, file.tensors())?;
        time(&Model::new(&config, Weights::new(&file, &inventory, compute)?)?, tokens, sequences)
    }
}

fn time(model: &Model<'_>, tokens: usize, sequences: usize) -> Result<()> {
    let vocab = model.config().vocab as u32;
    let ids: Vec<u32> =
        (0..(tokens * sequences) as u32).map(|n| n.wrapping_mul(2_654_435_761) % vocab).collect();
    let ids: Vec<&[u32]> = ids.chunks(tokens).collect();

    let start = Instant::now();
    let mut batch = model.embed(&ids)?;
    // as a perplexity with llama-perplexity's stride: the second half of each sequence
    let wanted: Vec<usize> =
        batch.sequences().flat_map(|rows| rows.start + rows.len() / 2..rows.end).collect();
    batch.want(wanted);
    let embedded = start.elapsed();
    for layer in 0..model.config().layers() {
        model.layer(layer, &mut batch)?;
    }
    let layers = start.elapsed() - embedded;
    let normed = model.norm(batch.hidden())?;
    let vocab = model.config().vocab;
    for first in (0..vocab).step_by(PIECE) {
        model.logits(&normed, first..vocab.min(first + PIECE as u64))?;
    }
    let all = start.elapsed();
    println!(
        "{tokens} tokens × {sequences}: embedding {:.2} s, layers {:.2} s, head {:.2} s; {:.1} tokens/s",
        embedded.as_secs_f64(),
        layers.as_secs_f64(),
        (all - embedded - layers).as_secs_f64(),
        (tokens * sequences) as f64 / all.as_secs_f64(),
    );
    Ok(())
}
