//! Checks of the target folder, before anything is read and again once the temporary files exist.

use std::fs;
use std::path::{Path, PathBuf};

use checkpoint::Checkpoint;
use plan::{Artifact, ArtifactEntry, Manifest, Plan, PlannedFile};
use tensor::{Error, Result};

use crate::manifest;
use crate::part::run_size;
use crate::run::Options;

const WEIGHTS: &str = ".safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// All files that a plan writes.
pub(crate) fn outputs(plan: &Plan) -> Vec<&PlannedFile> {
    plan.artifacts.iter().flat_map(|artifact| &artifact.files).collect()
}

/// Checks that the target can take the files of `plan`. [`run`](crate::run) begins with this check; a long job that
/// precedes a run should too. Creates the folder.
///
/// # Errors
/// `Target` for outputs that already exist, insufficient disk space, a folder that cannot be written.
pub fn check(checkpoint: &Checkpoint, plan: &Plan, options: &Options) -> Result<()> {
    let (folder, outputs) = (&options.folder, outputs(plan));
    fs::create_dir_all(folder).map_err(|e| Error::write(folder.display(), &e))?;
    if outputs.iter().any(|output| output.name.ends_with(WEIGHTS)) {
        alone(checkpoint, &outputs, folder)?;
    }
    not_the_source(checkpoint, plan, folder)?;
    vacant(plan, options)?;
    let needed = run_size(plan, options)?.output;
    // if the free space is unknown, the writes themselves will fail
    if let Some(free) = base::free_space(folder)
        && free < needed
    {
        return Err(Error::target(folder.display(), "the disk is too full")
            .expected(format!("{needed} bytes free"), free)
            .help("Free some space, or choose another target."));
    }
    Ok(())
}

/// Refuses outputs of `plan` in `folder` that are files of the source.
///
/// # Errors
/// `Target`, naming the file.
pub fn not_the_source(checkpoint: &Checkpoint, plan: &Plan, folder: &Path) -> Result<()> {
    let sources: Vec<_> =
        checkpoint.shards().iter().filter_map(|shard| shard.path.canonicalize().ok()).collect();
    let paths = outputs(plan).into_iter().map(|output| folder.join(&output.name));
    let is_source = |path: &PathBuf| path.canonicalize().is_ok_and(|path| sources.contains(&path));
    match paths.into_iter().find(is_source) {
        None => Ok(()),
        Some(path) => Err(Error::target(path.display(), "this is a file of the source")
            .help("Choose another target: the source is read while the output is written.")),
    }
}

/// Refuses outputs that already exist, unless they may be replaced.
pub(crate) fn vacant(plan: &Plan, options: &Options) -> Result<()> {
    let manifest = manifest::read(&options.manifest())?;
    for output in outputs(plan) {
        let path = options.folder.join(&output.name);
        if is_occupied(&path, options.force)? {
            return Err(exists(plan, &manifest, &path, output));
        }
    }
    Ok(())
}

/// The problem of an output that exists and may not be replaced.
pub(crate) const EXISTS: &str = "the output exists already";

/// Whether a file has the name of an output and may not be replaced. `force`: files may be replaced.
///
/// # Errors
/// `Target` for a folder of this name.
pub(crate) fn is_occupied(path: &Path, force: bool) -> Result<bool> {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => {
            Err(Error::target(path.display(), "a folder has the name of the output")
                .help("Move it away, or choose another target."))
        }
        found => Ok(found.is_ok() && !force),
    }
}

/// For each artifact of the plan, its manifest entry if the folder already has it: made by this same plan, every
/// output with the planned size. The contents of the files are not hashed.
///
/// # Errors
/// `Target` for a manifest that cannot be read.
pub fn finished(plan: &Plan, options: &Options) -> Result<Vec<Option<ArtifactEntry>>> {
    let manifest = manifest::read(&options.manifest())?;
    let entry = |(number, artifact): (usize, &Artifact)| {
        let entry = manifest.entry_of(&artifact.files.first()?.name)?;
        let is_there = |file: &PlannedFile| {
            fs::metadata(options.folder.join(&file.name)).is_ok_and(|found| found.len() == file.bytes)
        };
        let complete = artifact.files.iter().all(is_there);
        (complete && entry.plan_sha256 == plan.only(number).digest()).then(|| entry.clone())
    };
    Ok(plan.artifacts.iter().enumerate().map(entry).collect())
}

/// The error for an output that already exists; its help says whether the file is what would be written.
fn exists(plan: &Plan, manifest: &Manifest, path: &Path, output: &PlannedFile) -> Error {
    let error = Error::exists(path.display(), EXISTS);
    let Some(entry) = manifest.entry_of(&output.name) else {
        return error.help("Use ‹force› to replace it. No manifest says what it is.");
    };
    let planned = (0..plan.artifacts.len()).any(|number| plan.only(number).digest() == entry.plan_sha256);
    let complete = fs::metadata(path).is_ok_and(|found| found.len() == output.bytes);
    error.help(match (planned, complete) {
        (true, true) => {
            "It is complete and was made by this very plan. If the weights are still those whose SHA-256 is in its manifest, \
             it can be used as it is: ‹skip_existing› does so. ‹force› makes it again."
        }
        (true, false) => {
            "It was made by this very plan, but its size has changed since. Use ‹force› to replace it."
        }
        (false, _) => "It was made by another plan (see its manifest). Use ‹force› to replace it.",
    })
}

/// Refuses a folder with other weights: all weights in a folder form one model, and programs differ in how they treat
/// two sets.
fn alone(checkpoint: &Checkpoint, outputs: &[&PlannedFile], folder: &Path) -> Result<()> {
    let [here, there] = [folder, checkpoint.dir()].map(|path| path.canonicalize().ok());
    if here.is_some() && here == there {
        return Err(Error::target(folder.display(), "this is the folder of the checkpoint")
            .help("Choose another target: the files of the output have the same names."));
    }
    let entries = fs::read_dir(folder).map_err(|e| Error::write(folder.display(), &e))?;
    let mut others: Vec<_> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(WEIGHTS) || name == INDEX)
        .filter(|name| outputs.iter().all(|output| output.name != *name))
        .collect();
    others.sort_unstable();
    match others.first() {
        None => Ok(()),
        Some(first) => Err(Error::target(folder.display(), "other weights are in this folder")
            .expected("a folder without safetensors, or with only the files to replace", first)
            .help("Remove them, or choose another target.")),
    }
}
