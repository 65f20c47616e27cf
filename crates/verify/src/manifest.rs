//! Lookup of the artifact's entry in the manifests of its folder.
//!
//! A manifest is looked up by the file's name, then by content, because files are renamed for the hub. Manifests come
//! with downloads and are untrusted: their size is limited, and names in them must lead to regular files in the same
//! folder.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use plan::{ArtifactEntry, MANIFEST_SUFFIX, MAX_MANIFEST, Manifest};
use tensor::Result;

use crate::artifact::Part;
use crate::{Finding, Severity, Step};

/// The most manifests of other files that are searched for a renamed file.
const MAX_OTHERS: usize = 64;

/// The entry of an artifact.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    /// Path of the manifest.
    pub(crate) path: PathBuf,
    pub(crate) entry: ArtifactEntry,
    /// The names in the manifest by the names of renamed files.
    pub(crate) renamed: HashMap<String, String>,
}

/// Looks for the entry of a file with these parts. Adds problems of the manifests to `findings`, and computed hashes to
/// `hashes`.
///
/// # Errors
/// `Io` if a part cannot be read.
pub(crate) fn describing(
    parts: &[Part],
    hashes: &mut HashMap<PathBuf, String>,
    findings: &mut Vec<Finding>,
) -> Result<Option<Described>> {
    let Some(first) = parts.first() else { return Ok(None) };
    let folder = base::folder_of(&first.path);
    let of_this = of_this(folder, &first.name);
    let mut read = Vec::new();
    for path in &of_this {
        match open(path) {
            Ok(None) => {}
            Ok(Some(manifest)) => read.push((path.clone(), manifest)),
            Err(problem) => findings.push(warning(path.display(), problem)),
        }
    }
    for (path, manifest) in &read {
        if let Some(entry) = manifest.entry_of(&first.name) {
            let (path, entry) = (path.clone(), entry.clone());
            return Ok(Some(Described { path, entry, renamed: HashMap::new() }));
        }
    }
    let silent = read.len();
    read.extend(others(folder, &of_this).into_iter().filter_map(|path| {
        let manifest = open(&path).ok()??;
        Some((path, manifest))
    }));
    if let Some(described) = by_content(&read, folder, parts, hashes)? {
        return Ok(Some(described));
    }
    for (path, _) in &read[..silent] {
        let problem = format!("it lists nothing of {}: neither its name nor its content", first.name);
        findings.push(warning(path.display(), problem));
    }
    Ok(None)
}

/// Paths of the manifests that may have an entry for a file of this name.
fn of_this(folder: &Path, name: &str) -> Vec<PathBuf> {
    // a split has the manifest of its name without the part number
    let whole = name.rsplit_once("-of-").and_then(|(stem, _)| stem.rsplit_once('-'));
    let whole = whole.map(|(stem, _)| format!("{stem}.gguf"));
    let names = [Some(name), whole.as_deref()].into_iter().flatten().map(Some).chain([None]);
    names.map(|name| Manifest::path(folder, name)).collect()
}

/// Manifests of other single files in the folder.
fn others(folder: &Path, known: &[PathBuf]) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_one = |path: &PathBuf| path.to_str().is_some_and(|path| path.ends_with(MANIFEST_SUFFIX));
    let mut paths: Vec<_> = paths.filter(|path| is_one(path) && !known.contains(path)).collect();
    paths.sort();
    paths.truncate(MAX_OTHERS);
    paths
}

/// All manifests of a folder that can be read, up to a number.
pub(crate) fn all(folder: &Path) -> Vec<(PathBuf, Manifest)> {
    let paths = std::iter::once(Manifest::path(folder, None)).chain(others(folder, &[]));
    paths.filter_map(|path| Some((path.clone(), open(&path).ok()??))).collect()
}

/// The entry with the content of the first part under another name. Otherwise the entry of a missing file with the same
/// size: the file was renamed and changed.
fn by_content(
    manifests: &[(PathBuf, Manifest)],
    folder: &Path,
    parts: &[Part],
    hashes: &mut HashMap<PathBuf, String>,
) -> Result<Option<Described>> {
    let first = &parts[0];
    let mut near = None;
    for (path, manifest) in manifests {
        for entry in &manifest.artifacts {
            for file in entry.outputs.iter().filter(|file| file.bytes == first.len) {
                let described =
                    || Described { path: path.clone(), entry: entry.clone(), renamed: HashMap::new() };
                if hashed(&first.path, hashes)? == file.sha256 {
                    let mut described = described();
                    for part in parts {
                        described.rename(part, folder, hashes)?;
                    }
                    return Ok(Some(described));
                }
                let gone = inside(folder, &file.name).is_ok_and(|path| path.is_none());
                if gone && near.is_none() {
                    let mut described = described();
                    described.renamed.insert(first.name.clone(), file.name.clone());
                    near = Some(described);
                }
            }
        }
    }
    Ok(near)
}

impl Described {
    /// Finds the name of a part in the entry.
    fn rename(&mut self, part: &Part, folder: &Path, hashes: &mut HashMap<PathBuf, String>) -> Result<()> {
        if self.entry.outputs.iter().any(|file| file.name == part.name) {
            return Ok(());
        }
        for file in self.entry.outputs.iter().filter(|file| file.bytes == part.len) {
            let gone = inside(folder, &file.name).is_ok_and(|path| path.is_none());
            if hashed(&part.path, hashes)? == file.sha256 || gone {
                self.renamed.insert(part.name.clone(), file.name.clone());
                break;
            }
        }
        Ok(())
    }
}

/// Reads a manifest; `None` if it does not exist.
fn open(path: &Path) -> std::result::Result<Option<Manifest>, String> {
    if !path.exists() {
        return Ok(None);
    }
    let read = base::read_regular(path, MAX_MANIFEST).and_then(|bytes| Manifest::parse(&bytes));
    read.map(Some).map_err(|error| format!("not used: {}", error.problem()))
}

/// The path of a regular file in a folder; `None` if it does not exist.
///
/// # Errors
/// The reason why the name is not followed.
pub(crate) fn inside(folder: &Path, name: &str) -> std::result::Result<Option<PathBuf>, &'static str> {
    let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if name.is_empty() || name.contains('\0') || !plain {
        return Err("not the name of a file in the folder");
    }
    let path = folder.join(name);
    let Ok(found) = path.canonicalize() else { return Ok(None) };
    let Ok(home) = folder.canonicalize() else { return Ok(None) };
    // the cache of the hub keeps the files of `REPO/snapshots/REVISION` in `REPO/blobs`
    let blobs = home.parent().filter(|p| p.ends_with("snapshots")).and_then(Path::parent);
    let blobs = blobs.map(|repo| repo.join("blobs"));
    if !found.starts_with(&home) && !blobs.is_some_and(|blobs| found.starts_with(blobs)) {
        return Err("a link that leads out of the folder");
    }
    if !found.is_file() {
        return Err("not a regular file");
    }
    Ok(Some(path))
}

fn warning(place: impl ToString, problem: impl ToString) -> Finding {
    Finding::new(Severity::Warning, Step::Structure, place, problem)
}

/// SHA-256 of a file; each file is hashed once.
fn hashed(path: &Path, hashes: &mut HashMap<PathBuf, String>) -> Result<String> {
    if let Some(hash) = hashes.get(path) {
        return Ok(hash.clone());
    }
    let hash = sha256(path, &|_| {})?;
    hashes.insert(path.to_owned(), hash.clone());
    Ok(hash)
}

/// SHA-256 of a file in hexadecimal. `progress` gets byte counts.
///
/// # Errors
/// `Io`.
pub(crate) fn sha256(path: &Path, progress: &(dyn Fn(u64) + Sync)) -> Result<String> {
    base::sha256_file(path, progress).map(|(_, sha256)| sha256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_regular_files_of_the_folder_or_nowhere() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("folder");
        std::fs::create_dir_all(folder.join("in")).unwrap();
        std::fs::write(home.path().join("out"), "x").unwrap();
        std::fs::write(folder.join("in/a"), "x").unwrap();
        std::os::unix::fs::symlink("in/a", folder.join("near")).unwrap();
        std::os::unix::fs::symlink("../out", folder.join("far")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.join("device")).unwrap();
        for name in ["in/a", "near"] {
            assert_eq!(inside(&folder, name), Ok(Some(folder.join(name))), "{name}");
        }
        assert_eq!(inside(&folder, "none"), Ok(None));
        for name in ["", "..", "../out", "in/../../out", "/dev/zero", "./in/a", "far", "device", "in", "a\0b"]
        {
            assert!(inside(&folder, name).is_err(), "{name}");
        }
        // a snapshot in the hub's cache
        let snapshot = home.path().join("repo/snapshots/1");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir(home.path().join("repo/blobs")).unwrap();
        std::fs::write(home.path().join("repo/blobs/b"), "x").unwrap();
        std::os::unix::fs::symlink("../../blobs/b", snapshot.join("config.json")).unwrap();
        assert!(inside(&snapshot, "config.json").is_ok_and(|path| path.is_some()));
    }
}
