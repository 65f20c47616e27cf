//! `adapter`: adapters (LoRA) for llama.cpp.

use std::fmt::Write;

use gemma_convert::{AdapterConverted, Result};
use report::{Table, grouped};

use crate::cli::args::{self, AdapterCommand};
use crate::cli::outcome::Output;
use crate::cli::progress::Console;

pub(crate) fn run(args: &args::AdapterArgs) -> Result<Output> {
    let AdapterCommand::Convert(args) = &args.command;
    let converted = args.job()?.run(&Console::default())?;
    let json = serde_json::to_value(&converted).expect("a report is plain data");
    Ok(Output::new(text(&converted), json))
}

fn text(converted: &AdapterConverted) -> String {
    let mut text = String::new();
    if !converted.dropped.is_empty() {
        let mut table = Table::new(&["dropped", "reason"]);
        for dropped in &converted.dropped {
            table.row(vec![dropped.tensor.clone(), dropped.reason.clone()]);
        }
        text.push_str(&table.render());
        text.push('\n');
    }
    let AdapterConverted { file, bytes, alpha, pairs, .. } = converted;
    let _ = writeln!(
        text,
        "{}  {} bytes, {} pairs, alpha {alpha}",
        file.display(),
        grouped(*bytes),
        grouped(pairs.len() as u64)
    );
    text
}
