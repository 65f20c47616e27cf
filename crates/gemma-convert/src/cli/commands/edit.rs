//! `edit`: other keys or other parts for a finished GGUF.

use gemma_convert::{Edited, Result};
use gguf::Value;
use report::{Table, grouped};
use serde_json::json;

use super::inspect::short;
use crate::cli::args;
use crate::cli::outcome::Output;
use crate::cli::progress::Console;

pub(crate) fn run(args: &args::Edit) -> Result<Output> {
    let edited = args.job()?.run(&Console::default())?;
    Ok(Output::new(text(&edited), document(&edited)))
}

fn text(edited: &Edited) -> String {
    let shown = |value: &Option<Value>| value.as_ref().map_or_else(|| "-".to_owned(), short);
    let mut keys = Table::new(&["key", "before", "after"]);
    for change in &edited.changes {
        keys.row(vec![change.key.clone(), shown(&change.before), shown(&change.after)]);
    }
    let mut files = Table::new(&["file", "bytes", "sha256"]);
    for file in edited.artifacts.iter().flat_map(|artifact| &artifact.outputs) {
        let path = edited.folder.join(&file.name).display().to_string();
        files.row(vec![path, grouped(file.bytes), file.sha256.clone()]);
    }
    let keys = if edited.changes.is_empty() { String::new() } else { keys.render() };
    format!("{keys}{}manifest: {}\n", files.render(), edited.manifest.display())
}

/// The document of `--json`.
fn document(edited: &Edited) -> serde_json::Value {
    let shown = |value: &Option<Value>| {
        value.as_ref().map(|value| json!({ "type": value.type_name(), "value": short(value) }))
    };
    let changes = edited.changes.iter().map(
        |change| json!({ "key": change.key, "before": shown(&change.before), "after": shown(&change.after) }),
    );
    json!({
        "changes": changes.collect::<Vec<_>>(),
        "artifacts": edited.artifacts,
        "folder": edited.folder,
        "manifest": edited.manifest,
    })
}
