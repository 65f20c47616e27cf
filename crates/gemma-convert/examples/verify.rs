//! Verifies an artifact against its checkpoint on a text: `cargo run --release --example verify -- FILE CHECKPOINT TEXT`.

#![allow(clippy::print_stdout, reason = "a program prints")]

use gemma_convert::{Chunks, Result, Silent, Verify};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file, checkpoint, text] = &args[..] else { panic!("usage: verify FILE CHECKPOINT TEXT") };
    let mut job = Verify::new(file).against(checkpoint).text(text).max_kld(0.1);
    (job.context, job.chunks) = (128, Some(Chunks(0..4)));
    let report = job.run(&Silent)?;
    for finding in &report.findings {
        println!("{:?}: {}: {}", finding.severity, finding.place, finding.problem);
    }
    if let Some(kld) = &report.kld {
        println!("KL divergence {:.4} nats per token, 99 % of tokens below {:.4}", kld.mean, kld.p99);
    }
    std::process::exit(i32::from(!report.passed));
}
