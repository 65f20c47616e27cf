//! `cargo xtask tidy`: the habits of this house that neither compiler nor clippy checks.
//!
//! What is looked at is what git tracks or would track (new files that are not ignored). Each check is a pure
//! function over names and texts; this file gathers those and shows what was found.

mod levels;
mod links;
mod sources;
mod tree;
mod type_names;

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use super::tools::output;

/// Check crate levels, file layout, module docs, links and provenance.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// A file of the repository.
struct Entry {
    /// Relative to the root, with slashes.
    path: String,
    /// Content; bytes that are not UTF-8 replaced.
    text: String,
    bytes: u64,
}

/// What the checks have found.
#[derive(Default)]
struct Findings {
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let root = crate::root();
        let entries = entries(&root)?;
        let mut found = Findings::default();

        let metadata = output(crate::cargo().args(["metadata", "--no-deps", "--format-version=1"]))?;
        let edges = levels::edges(&serde_json::from_slice(&metadata)?)?;
        found.problems.extend(levels::check(&edges));
        let architecture = entries.iter().find(|entry| entry.path == levels::DOCUMENT);
        match architecture {
            Some(entry) => found.problems.extend(levels::check_document(&edges, &entry.text)),
            None => found.problems.push(format!("{} is missing", levels::DOCUMENT)),
        }
        for entry in &entries {
            if entry.path.ends_with(".rs") {
                sources::check(&entry.path, &entry.text, &mut found);
            }
            if entry.path.ends_with(".md") {
                found.problems.extend(links::check(&entry.path, &entry.text, |target| {
                    let folder = format!("{target}/");
                    entries.iter().any(|other| other.path == target || other.path.starts_with(&folder))
                }));
            }
            found.problems.extend(tree::check_paths(&entry.path, &entry.text));
        }
        let sources = entries.iter().filter(|entry| entry.path.ends_with(".rs"));
        let sources = sources.map(|entry| (entry.path.as_str(), entry.text.as_str()));
        found.problems.extend(type_names::check(sources.clone()));
        let container = entries.iter().find(|entry| entry.path == tree::CONTAINER);
        let container = container.map_or("", |entry| entry.text.as_str());
        found.problems.extend(tree::check_container(container, sources));
        let sizes: Vec<_> = entries.iter().map(|entry| (entry.path.as_str(), entry.bytes)).collect();
        found.problems.extend(tree::check(&sizes));

        for warning in &found.warnings {
            eprintln!("warning: {warning}");
        }
        for problem in &found.problems {
            eprintln!("error: {problem}");
        }
        ensure!(found.problems.is_empty(), "not tidy: {} problem(s)", found.problems.len());
        println!("tidy: {} files, {} crates", entries.len(), edges.len());
        Ok(())
    }
}

/// Every file that git tracks or would track, as it is on disk. Deleted ones are left out.
fn entries(root: &Path) -> Result<Vec<Entry>> {
    let listing = output(
        Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"])
            .current_dir(root),
    )?;
    let mut entries = Vec::new();
    for path in String::from_utf8(listing)?.split_terminator('\0') {
        let Ok(content) = std::fs::read(root.join(path)) else { continue };
        let bytes = content.len() as u64;
        let text = String::from_utf8_lossy(&content).into_owned();
        entries.push(Entry { path: path.to_owned(), text, bytes });
    }
    Ok(entries)
}
