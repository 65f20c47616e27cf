//! Licences of what is linked into the program: every crate, with the texts that its package holds, and Rust's standard
//! library.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::archive::Entry;
use super::release::Release;
use crate::cmd::tools::output;

/// The list of crates and texts.
pub(super) const CRATES: &str = "THIRD-PARTY.txt";
/// The notices of Rust's standard library, as the toolchain has them.
const RUST: &str = "THIRD-PARTY-RUST.html";

/// How the names of files with licences begin, in capitals.
const NAMES: &[&str] = &["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE", "PATENTS"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    license_file: Option<PathBuf>,
    repository: Option<String>,
    manifest_path: PathBuf,
    /// `None` for crates of the workspace.
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// `None` for what is linked; `dev` or `build`.
    kind: Option<String>,
}

/// The files with the licences.
pub(super) fn entries(release: &Release) -> Result<Vec<Entry>> {
    let mut cargo = crate::cargo();
    cargo.args(["metadata", "--format-version=1", "--locked", "--filter-platform", &release.triple]);
    let metadata: Metadata = serde_json::from_slice(&output(&mut cargo)?)?;
    let packages = linked(&metadata)?;
    let title = format!("{} {}, {}", "gemma-convert", release.version, release.triple);
    let mut entries = vec![Entry::file(CRATES, listing(&title, &packages)?)];
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = String::from_utf8(output(Command::new(rustc).args(["--print", "sysroot"]))?)?;
    match fs::read(Path::new(sysroot.trim()).join("share/doc/rust/COPYRIGHT-library.html")) {
        Ok(notices) => entries.push(Entry::file(RUST, notices)),
        Err(_) => {
            eprintln!("warning: the toolchain has no notices of the standard library; {RUST} is left out")
        }
    }
    Ok(entries)
}

/// The crates that the program is linked with, by name and version, but for those of the workspace.
fn linked(metadata: &Metadata) -> Result<Vec<&Package>> {
    let packages: BTreeMap<_, _> = metadata.packages.iter().map(|package| (&package.id, package)).collect();
    let nodes: BTreeMap<_, _> = metadata.resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let root =
        metadata.packages.iter().find(|package| package.name == "gemma-convert" && package.source.is_none());
    let mut open = vec![&root.context("cargo metadata names no gemma-convert")?.id];
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if seen.insert(id) {
            let node = nodes.get(id).with_context(|| format!("cargo metadata does not resolve {id}"))?;
            let linked =
                node.deps.iter().filter(|edge| edge.dep_kinds.iter().any(|kind| kind.kind.is_none()));
            open.extend(linked.map(|edge| &edge.pkg));
        }
    }
    let mut linked: Vec<_> = seen.iter().filter_map(|id| packages.get(id).copied()).collect();
    linked.retain(|package| package.source.is_some());
    linked.sort_by_key(|package| (&package.name, &package.version));
    Ok(linked)
}

/// The crates with their SPDX expressions, and each text once.
fn listing(title: &str, packages: &[&Package]) -> Result<String> {
    let mut crates = String::new();
    let mut texts: Vec<(String, String)> = Vec::new();
    for package in packages {
        let (name, version) = (&package.name, &package.version);
        let files = licence_files(package)?;
        let licence = package.license.as_deref().unwrap_or("licence: see the file");
        anyhow::ensure!(package.license.is_some() || !files.is_empty(), "{name} {version} has no licence");
        let _ = writeln!(crates, "{name} {version}\n    {licence}");
        if let Some(repository) = &package.repository {
            let _ = writeln!(crates, "    {repository}");
        }
        for (file, text) in files {
            let known = texts.iter().position(|(_, known)| *known == text);
            let number = known.unwrap_or_else(|| {
                texts.push((format!("{file} of {name} {version}"), text));
                texts.len() - 1
            });
            let _ = writeln!(crates, "    {file}: text {}", number + 1);
        }
        crates.push('\n');
    }
    let mut listing = format!(
        "Licences of the crates in {title}\n\n\
         {} crates. The source of each is in the registry crates.io under its name and version. A crate without a text\n\
         has none in its package. {RUST} has the notices of Rust's standard library.\n\n{crates}",
        packages.len()
    );
    for (number, (name, text)) in texts.iter().enumerate() {
        let _ = write!(listing, "{}\nText {}: {name}\n\n{text}\n\n", "=".repeat(80), number + 1);
    }
    Ok(listing)
}

/// Names and texts, sorted. Line ends and space at the ends do not make another text.
fn licence_files(package: &Package) -> Result<Vec<(String, String)>> {
    let folder = package.manifest_path.parent().context("a manifest without a folder")?;
    let mut names: BTreeSet<PathBuf> = package.license_file.iter().cloned().collect();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_uppercase();
        if NAMES.iter().any(|start| name.starts_with(start)) && entry.path().is_file() {
            names.insert(entry.file_name().into());
        }
    }
    let read = |name: PathBuf| {
        let path = folder.join(&name);
        let text = fs::read(&path).with_context(|| path.display().to_string())?;
        let text = String::from_utf8_lossy(&text).replace("\r\n", "\n");
        Ok((name.display().to_string(), text.trim().to_owned()))
    };
    names.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn linked_crates_are_listed_once_with_texts() {
        let folder = tempfile::tempdir().unwrap();
        let package = |name: &str, licence: Option<&str>, source: Option<&str>| {
            let manifest_path = folder.path().join(name).join("Cargo.toml");
            fs::create_dir_all(manifest_path.parent().unwrap()).unwrap();
            json!({"id": name, "name": name, "version": "1.0.0", "license": licence, "license_file": null,
                "repository": null, "manifest_path": manifest_path, "source": source})
        };
        let registry = Some("registry");
        let node = |id: &str, deps: &[(&str, Option<&str>)]| {
            let deps = deps.iter().map(|(pkg, kind)| json!({"pkg": pkg, "dep_kinds": [{"kind": kind}]}));
            json!({"id": id, "deps": deps.collect::<Vec<_>>()})
        };
        let metadata = json!({
            "packages": [
                package("gemma-convert", Some("Apache-2.0"), None),
                package("inner", Some("Apache-2.0"), None),
                package("zlib", Some("Zlib"), registry),
                package("alpha", Some("MIT"), registry),
                package("beta", Some("MIT"), registry),
                package("only-tests", Some("MIT"), registry),
                package("only-build", Some("MIT"), registry),
            ],
            "resolve": {"nodes": [
                node("gemma-convert", &[("inner", None), ("alpha", None), ("only-tests", Some("dev"))]),
                node("inner", &[("zlib", None), ("only-build", Some("build"))]),
                node("zlib", &[("beta", None)]),
                node("alpha", &[]), node("beta", &[]), node("only-tests", &[]), node("only-build", &[]),
            ]},
        });
        fs::write(folder.path().join("alpha/LICENSE-MIT"), "the text\r\n").unwrap();
        fs::write(folder.path().join("beta/License.txt"), "the text\n\n").unwrap();
        fs::write(folder.path().join("beta/NOTICE"), "a notice").unwrap();
        let mut metadata: Metadata = serde_json::from_value(metadata).unwrap();
        let listed = listing("x", &linked(&metadata).unwrap()).unwrap();
        let crates = "alpha 1.0.0\n    MIT\n    LICENSE-MIT: text 1\n\n\
                      beta 1.0.0\n    MIT\n    License.txt: text 1\n    NOTICE: text 2\n\n\
                      zlib 1.0.0\n    Zlib\n\n====";
        assert!(listed.contains(crates), "{listed}");
        assert_eq!(listed.matches("the text").count(), 1);
        assert!(!listed.contains("only-") && !listed.contains("inner"));

        metadata.packages[2].license = None;
        let message = listing("x", &linked(&metadata).unwrap()).unwrap_err().to_string();
        assert_eq!(message, "zlib 1.0.0 has no licence");
    }
}
