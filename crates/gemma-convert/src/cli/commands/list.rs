//! `recipes` and `types`: the available names, and the size of each for a model. `recipes` also lists those of bundles and releases.

use gemma_convert::{CatalogueEntry, Result};
use report::{Table, grouped};
use serde_json::{Value, json};

use crate::cli::args;
use crate::cli::outcome::Output;

pub(crate) fn recipes(args: &args::List) -> Result<Output> {
    let all = gemma_convert::recipes(args.model.as_deref())?;
    let (text, recipes) = list("recipe", "purpose", &all, args.model.is_some());
    let (of_bundles, bundles) =
        list("recipe of a bundle", "purpose", &gemma_convert::bundle_recipes(), false);
    let (of_releases, releases) = list("release recipe", "purpose", &gemma_convert::release_recipes(), false);
    let json = json!({ "recipes": recipes, "bundle_recipes": bundles, "release_recipes": releases });
    Ok(Output::new(format!("{text}\n{of_bundles}\n{of_releases}"), json))
}

pub(crate) fn types(args: &args::List) -> Result<Output> {
    let all = gemma_convert::presets(args.model.as_deref())?;
    let (text, types) = list("type", "about", &all, args.model.is_some());
    Ok(Output::new(text, json!({ "types": types })))
}

/// The table, and its rows as JSON.
fn list(kind: &str, about: &str, entries: &[CatalogueEntry], with_sizes: bool) -> (String, Vec<Value>) {
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
    (table.render(), rows)
}
