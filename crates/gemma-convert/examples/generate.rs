//! Continues a prompt with the reference runtime: `cargo run --release --example generate -- MODEL PROMPT`.

#![allow(clippy::print_stdout, reason = "a program prints")]

use std::io::Write;

use gemma_convert::{Error, Generate, Result, Silent};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, prompt] = &args[..] else { panic!("usage: generate MODEL PROMPT") };
    let job = Generate::new(model, prompt).max_tokens(32);
    let mut stdout = std::io::stdout();
    let generated = job.run(&Silent, &mut |piece| {
        write!(stdout, "{piece}").and_then(|()| stdout.flush()).map_err(|e| Error::io("stdout", &e))?;
        Ok(true)
    })?;
    println!("\n{} tokens, finish: {}", generated.tokens.len(), generated.finish);
    Ok(())
}
