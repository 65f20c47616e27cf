//! `recipes` and `types`: the available names, and the size of each for a model.

use gemma_convert::{CatalogueEntry, Result};
use report::{Table, grouped};
use serde_json::json;

use crate::cli::args;
use crate::cli::outcome::Output;

pub(crate) fn recipes(args: &args::List) -> Result<Output> {
    Ok(list("recipe", "purpose", &gemma_convert::recipes(args.model.as_deref())?, args.model.is_some()))
}

pub(crate) fn types(args: &args::List) -> Result<Output> {
    Ok(list("type", "about", &gemma_convert::presets(args.model.as_deref())?, args.model.is_some()))
}

fn list(kind: &str, about: &str, entries: &[CatalogueEntry], with_sizes: bool) -> Output {
    let mut table = match with_sizes {
        true => Table::new(&[kind, "bytes", "bits per weight", about]),
        false => Table::new(&[kind, about]),
    };
    let mut rows = Vec::new();
    for entry in entries {
        let mut row = json!({ "name": entry.name, about: entry.about });
        let mut cells = vec![entry.name.clone()];
        if with_sizes {
            let (bytes, bits) = entry.size.unzip();
            cells.push(bytes.map_or("-".to_owned(), grouped));
            cells.push(bits.map_or("-".to_owned(), |bits| format!("{bits:.2}")));
            row["bytes"] = bytes.into();
            row["bits_a_weight"] = bits.into();
        }
        cells.push(entry.about.clone());
        table.row(cells);
        rows.push(row);
    }
    let mut json = json!({});
    json[format!("{kind}s")] = rows.into();
    Output::new(table.render(), json)
}
