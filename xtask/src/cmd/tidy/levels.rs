//! Which crate may depend on which: an edge points to a strictly lower level.
//!
//! The table here is the rule; the one in docs/ARCHITECTURE.md says the same to people, and is checked against it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

/// The document with the table for people.
pub(super) const DOCUMENT: &str = "docs/ARCHITECTURE.md";

/// Level of each crate. A change here needs one in [`DOCUMENT`] and its reason in the commit.
const LEVELS: &[(u8, &[&str])] = &[
    (0, &["base"]),
    (1, &["tensor"]),
    (2, &["quant", "gguf", "hub", "media"]),
    (3, &["checkpoint", "imatrix", "litert"]),
    (4, &["gemma", "text"]),
    (5, &["plan", "runtime"]),
    (6, &["convert", "eval", "generate", "footprint"]),
    (7, &["verify", "calibrate", "draft", "pack"]),
    (8, &["report"]),
    (9, &["gemma-convert"]),
];

/// Packages for development: they may use everything, and only tests may use them.
const TOOLS: &[&str] = &["xtask", "testkit"];

/// Crate → the workspace's crates that it depends on.
pub(super) type Edges = BTreeMap<String, Vec<Edge>>;

/// A dependency on another crate of the workspace.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Edge {
    to: String,
    only_tests: bool,
}

/// The edges in the output of `cargo metadata --no-deps`.
pub(super) fn edges(metadata: &Value) -> Result<Edges> {
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let mut edges = Edges::new();
    for package in packages {
        let name = package["name"].as_str().context("a package without a name")?;
        let dependencies = package["dependencies"].as_array().context("a package without dependencies")?;
        let inside = dependencies.iter().filter(|dependency| dependency["path"].is_string());
        let inside = inside.filter_map(|dependency| {
            Some(Edge {
                to: dependency["name"].as_str()?.to_owned(),
                only_tests: dependency["kind"].as_str() == Some("dev"),
            })
        });
        edges.insert(name.to_owned(), inside.collect());
    }
    Ok(edges)
}

fn level(name: &str) -> Option<u8> {
    LEVELS.iter().find(|(_, names)| names.contains(&name)).map(|(level, _)| *level)
}

/// Crates without a level, and edges that do not point down.
pub(super) fn check(edges: &Edges) -> Vec<String> {
    let mut problems = Vec::new();
    for (from, targets) in edges.iter().filter(|(from, _)| !TOOLS.contains(&from.as_str())) {
        let Some(from_level) = level(from) else {
            problems.push(format!("crate {from} has no level; add it to {} and {DOCUMENT}", file!()));
            continue;
        };
        for Edge { to, only_tests } in targets {
            if TOOLS.contains(&to.as_str()) {
                if !only_tests {
                    problems.push(format!("{from} depends on {to}, which only tests may"));
                }
                continue;
            }
            if let Some(to_level) = level(to)
                && to_level >= from_level
            {
                problems.push(format!(
                    "{from} (level {from_level}) depends on {to} (level {to_level}); an edge points to a lower level"
                ));
            }
        }
    }
    problems
}

/// Differences between the table above and the rows `| level | crate |` of the document, for crates that exist.
pub(super) fn check_document(edges: &Edges, text: &str) -> Vec<String> {
    let documented = rows(text);
    let mut problems = Vec::new();
    for name in edges.keys().filter(|name| !TOOLS.contains(&name.as_str())) {
        let Some(level) = level(name) else { continue };
        match documented.get(name.as_str()) {
            None => problems.push(format!("{DOCUMENT}: no row for crate {name} (level {level})")),
            Some(&said) if said != level => {
                problems.push(format!("{DOCUMENT}: crate {name} is at level {level}, its row says {said}"));
            }
            Some(_) => {}
        }
    }
    for name in documented.keys().filter(|name| level(name).is_none()) {
        problems.push(format!("{DOCUMENT}: crate {name} is not in the table of {}", file!()));
    }
    problems
}

/// Rows whose first cell is a number and whose second holds names in backticks.
fn rows(text: &str) -> BTreeMap<&str, u8> {
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let mut cells = line.trim().trim_start_matches('|').split('|').map(str::trim);
        let (Some(Ok(level)), Some(crates)) = (cells.next().map(str::parse), cells.next()) else { continue };
        for name in crates.split('`').skip(1).step_by(2) {
            rows.insert(name, level);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Value {
        let dependencies: Vec<_> = dependencies
            .iter()
            .map(|(name, kind)| json!({"name": name, "path": format!("crates/{name}"), "kind": kind}))
            .chain([json!({"name": "serde", "kind": null})])
            .collect();
        json!({"name": name, "dependencies": dependencies})
    }

    fn graph(packages: &[Value]) -> Edges {
        edges(&json!({ "packages": packages })).unwrap()
    }

    #[test]
    fn edges_point_down() {
        let good = graph(&[
            package("tensor", &[]),
            package("plan", &[("gemma", None), ("tensor", None)]),
            package("convert", &[("plan", None)]),
            package("gemma-convert", &[("convert", None), ("xtask", Some("dev"))]),
            package("xtask", &[("gemma-convert", None)]),
        ]);
        assert_eq!(check(&good), [""; 0]);

        for (from, to, kind) in [
            ("gguf", "checkpoint", None),
            ("tensor", "plan", Some("dev")),
            ("plan", "convert", None),
            ("plan", "xtask", None),
            ("newcomer", "tensor", None),
        ] {
            assert_eq!(check(&graph(&[package(from, &[(to, kind)])])).len(), 1, "{from} -> {to}");
        }
    }

    #[test]
    fn the_document_agrees() {
        let edges = graph(&[package("tensor", &[]), package("quant", &[]), package("gemma-convert", &[])]);
        let table = "| level | crate | knows |\n|---|---|---|\n| 1 | `tensor` | x |\n| 2 | `quant`, `hub` | |\n\
                     | 9 | `gemma-convert` | |\n| – | `oracle` | unchecked |\n";
        assert_eq!(check_document(&edges, table), [""; 0]);
        assert_eq!(check_document(&edges, &table.replace("| 2 |", "| 3 |")).len(), 1);
        assert_eq!(check_document(&edges, &table.replace("`tensor`", "tensor")).len(), 1);
        assert_eq!(check_document(&edges, &table.replace("`hub`", "`hubb`")).len(), 1);
    }
}
