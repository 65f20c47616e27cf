//! `pack`: finished GGUF files for other programs.

use std::fmt::Write;

use gemma_convert::{OllamaPacked, Placement, Result, StoredModel};
use report::{Table, grouped};

use crate::cli::args::{self, PackCommand};
use crate::cli::outcome::Output;
use crate::cli::progress::Console;

pub(crate) fn run(args: &args::Pack) -> Result<Output> {
    let PackCommand::Ollama(args) = &args.command;
    let packed = args.job().run(&Console::default())?;
    let json = serde_json::to_value(&packed).expect("a report is plain data");
    Ok(Output::new(text(&packed), json))
}

fn text(packed: &OllamaPacked) -> String {
    let mut text = String::new();
    if let Some(stored) = &packed.store {
        text.push_str(&blobs(stored));
    }
    let config = &packed.config;
    let _ = writeln!(
        text,
        "{} weights, {}, renderer {}, from Ollama {} on",
        config.model_type, config.file_type, config.renderer, config.requires
    );
    let _ = writeln!(text, "capabilities: {}", packed.capabilities.join(", "));
    if let Some(stored) = &packed.store {
        let what = match (stored.unchanged, stored.replaced) {
            (true, _) => "was there already",
            (_, true) => "replaced another model",
            _ => "added",
        };
        let _ = writeln!(text, "{} {what}: {}", stored.name, stored.manifest.display());
        let _ = writeln!(text, "ollama run {}", stored.name);
    }
    if let Some(file) = &packed.modelfile {
        let _ = writeln!(text, "ollama create NAME -f {}", file.display());
    }
    text
}

/// Table of the blobs.
fn blobs(stored: &StoredModel) -> String {
    let mut table = Table::new(&["layer", "bytes", "", "file"]);
    for blob in &stored.layers {
        let kind = blob.layer.media_type.rsplit('.').next().unwrap_or_default();
        let placement = match blob.placement {
            Placement::Present => "present",
            Placement::Linked => "linked",
            Placement::Copied => "copied",
            Placement::Written => "written",
        };
        let file = blob.file.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
        let kind = if kind.ends_with("json") { "config" } else { kind };
        table.row(vec![kind.to_owned(), grouped(blob.layer.size), placement.to_owned(), file]);
    }
    table.render()
}
