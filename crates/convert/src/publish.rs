//! The end of a run: all outputs and the manifest get their names together.

use std::io::Seek;
use std::path::{Path, PathBuf};

use base::{OutputFile, Publication};
use plan::{ArtifactEntry, FileEntry, Manifest};
use tensor::{Error, Result};

use crate::manifest;

/// Renames all outputs and the manifest to their final names, or none. `outputs` are the files of the artifacts, in order. All steps that
/// can run out of space precede the first output.
pub(crate) fn publish(
    outputs: Vec<OutputFile>,
    artifacts: &[ArtifactEntry],
    manifest_path: &Path,
    sync: bool,
) -> Result<()> {
    let folder = base::folder_of(manifest_path);
    // another run may be adding to the manifest; the lock is released with the file
    let _lock = base::lock_folder(folder).map_err(|e| Error::write(folder.display(), &e))?;
    let mut manifest = manifest::read(manifest_path)?;
    // the old files will be replaced: their entries must not outlive them
    let forgot = manifest.forget(artifacts.iter().flat_map(|a| &a.outputs).map(|file| file.name.as_str()));
    let without = forgot.then(|| manifest::stage(&manifest, manifest_path)).transpose()?;
    let mut outputs = outputs.into_iter();
    let sets: Vec<Vec<OutputFile>> =
        artifacts.iter().map(|artifact| outputs.by_ref().take(artifact.outputs.len()).collect()).collect();

    let mut publication = Publication::new();
    if let Some(without) = without {
        publication.place(without)?;
    }
    // after the other one is in place
    manifest.artifacts.extend_from_slice(artifacts);
    let manifest = manifest::stage(&manifest, manifest_path)?;
    let heads: Vec<_> = artifacts.iter().map(head).collect();
    for (set, head) in sets.iter().zip(&heads) {
        head.and_then(|head| set.get(head)).map_or(Ok(()), |file| publication.set_aside(file.path()))?;
    }
    for (mut set, head) in sets.into_iter().zip(heads) {
        let last = head.map(|head| set.remove(head));
        set.into_iter().chain(last).try_for_each(|file| publication.place(file))?;
    }
    publication.place(manifest)?;
    publication.commit(sync)
}

/// Gives a file that the user named its final name, with a manifest beside it. `entry` has all but the file itself. Returns the
/// entry and the path of the manifest.
///
/// # Errors
/// `Target` for a manifest that is not one of this tool, and for files that cannot be written: then nothing has changed.
pub fn publish_named(file: OutputFile, entry: ArtifactEntry) -> Result<(ArtifactEntry, PathBuf)> {
    // on Windows a write at a position moves that of the file
    let mut content = file.file();
    let hashed = content.rewind().and_then(|()| base::sha256(content, &|_| ()));
    let (bytes, sha256) = hashed.map_err(|e| file.fail(&e))?;
    let name = base::file_name(file.path());
    let manifest = Manifest::path(base::folder_of(file.path()), Some(&name));
    let entry =
        ArtifactEntry { outputs: vec![FileEntry { name, bytes, sha256, ..FileEntry::default() }], ..entry };
    file.sync()?;
    publish(vec![file], std::slice::from_ref(&entry), &manifest, true)?;
    Ok((entry, manifest))
}

/// Index of the file without which no reader opens the set: the config of a folder, the first part of a split.
fn head(artifact: &ArtifactEntry) -> Option<usize> {
    if artifact.outputs.len() < 2 {
        return None;
    }
    Some(artifact.outputs.iter().position(|file| file.name == "config.json").unwrap_or(0))
}
