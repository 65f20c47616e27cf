//! `inspect` of an importance matrix: amount of text, matrices without tokens, and dominant columns.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use ::imatrix::{Entry, Importance, Statistics};
use serde_json::json;
use tensor::Result;

use crate::cli::commands::inspect::role;
use crate::cli::outcome::Output;
use report::{Table, grouped};

/// An entry with its statistics.
struct Listed<'a> {
    name: &'a str,
    entry: &'a Entry,
    figures: Statistics,
}

pub(super) fn file(path: &Path, list: bool) -> Result<Output> {
    let importance = Importance::read(path)?;
    let listed = importance.iter().map(|(name, entry)| Listed { name, entry, figures: entry.statistics() });
    let listed: Vec<_> = listed.collect();
    let form = if importance.chunk_size.is_some() { "gguf" } else { "dat" };
    let json = json!({
        "kind": "importance",
        "form": form,
        "datasets": importance.datasets,
        "chunks": importance.chunks,
        "chunk_size": importance.chunk_size,
        "entries": listed.iter().map(described).collect::<Vec<_>>(),
    });
    let mut text = facts(&importance, form);
    let table = if list { by_tensor(&listed) } else { by_role(&listed) };
    text.push_str(&table.render());
    remarks(&listed, &mut text);
    Ok(Output::new(text, json))
}

fn facts(importance: &Importance, form: &str) -> String {
    let size = importance.chunk_size.map_or("unknown size".to_owned(), |size| format!("{size} tokens"));
    let mut text = format!("importance  {} entries, form {form}\n", grouped(importance.len() as u64));
    let _ = writeln!(
        text,
        "texts       {}",
        match importance.datasets.as_slice() {
            [] => "not said".to_owned(),
            texts => texts.join(", "),
        }
    );
    let _ = writeln!(text, "chunks      {} of {size}\n", grouped(importance.chunks.into()));
    text
}

fn described(Listed { name, entry, figures }: &Listed<'_>) -> serde_json::Value {
    json!({
        "tensor": name,
        "matrices": entry.counts().len(),
        "columns": entry.cols(),
        "counts": entry.counts(),
        "unseen": figures.unseen,
        "filled": entry.filled().collect::<Vec<_>>(),
        "mean": figures.mean,
        "peak": figures.peak,
        "top_share": figures.top_share,
        "zero_columns": figures.zeros,
        "all_zero": figures.blank,
    })
}

fn by_tensor(listed: &[Listed<'_>]) -> Table {
    let heads =
        ["tensor", "matrices", "columns", "tokens", "unseen", "mean x²", "max / mean", "top 1 %", "zeros"];
    let mut table = Table::new(&heads);
    for Listed { name, entry, figures } in listed {
        table.row(vec![
            (*name).to_owned(),
            grouped(entry.counts().len() as u64),
            grouped(entry.cols() as u64),
            range(figures.tokens),
            grouped(figures.unseen.len() as u64),
            format!("{:.3e}", figures.mean),
            format!("{:.1}", figures.peak),
            format!("{:.1} %", 100.0 * figures.top_share),
            grouped(figures.zeros as u64),
        ]);
    }
    table
}

/// A table by role, with the largest figures of its tensors.
fn by_role(listed: &[Listed<'_>]) -> Table {
    let mut roles: BTreeMap<String, Vec<&Statistics>> = BTreeMap::new();
    for listed in listed {
        roles.entry(role(listed.name)).or_default().push(&listed.figures);
    }
    let heads = ["role", "tensors", "tokens", "unseen", "largest max / mean", "largest top 1 %"];
    let mut table = Table::new(&heads);
    for (role, figures) in roles {
        let largest = |of: fn(&Statistics) -> f64| figures.iter().map(|f| of(f)).fold(0.0, f64::max);
        let fewest = figures.iter().map(|f| f.tokens.0).min().unwrap_or(0);
        let most = figures.iter().map(|f| f.tokens.1).max().unwrap_or(0);
        table.row(vec![
            role,
            grouped(figures.len() as u64),
            range((fewest, most)),
            grouped(figures.iter().map(|f| f.unseen.len() as u64).sum()),
            format!("{:.1}", largest(|f| f.peak)),
            format!("{:.1} %", 100.0 * largest(|f| f.top_share)),
        ]);
    }
    table
}

/// Remarks about matrices without tokens and entries of zeros.
fn remarks(listed: &[Listed<'_>], text: &mut String) {
    let total: usize = listed.iter().map(|l| l.entry.counts().len()).sum();
    let unseen: usize = listed.iter().map(|l| l.figures.unseen.len()).sum();
    let filled: usize = listed.iter().map(|l| l.entry.filled().count()).sum();
    if unseen > 0 {
        let _ = writeln!(
            text,
            "\n{unseen} of {total} matrices got no token; {filled} of these have the mean of the others, the rest \
             is quantized with equal weights"
        );
    }
    let blank: Vec<_> = listed.iter().filter(|l| l.figures.blank).map(|l| l.name).collect();
    if let Some(first) = blank.first() {
        let _ = writeln!(
            text,
            "\nall sums are 0 in {} entries, such as {first}: they cannot be used for quantization",
            blank.len()
        );
    }
}

fn range((fewest, most): (u64, u64)) -> String {
    if fewest == most { grouped(most) } else { format!("{} to {}", grouped(fewest), grouped(most)) }
}
