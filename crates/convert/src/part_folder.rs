//! The folder in which the parts of a job meet: `parts-ID`, in the target folder.
//!
//! It has the outputs under their names, to which each part writes its own ranges, and a record of each finished part. Machines without a
//! common folder each have one with the ranges that they wrote. ID is a digest of all that the outputs depend on, so that parts of
//! different jobs never meet.

use std::fs;
use std::path::{Path, PathBuf};

use base::{OutputFile, Sha256, read_bounded};
use checkpoint::Checkpoint;
use plan::{ArtifactEntry, MAX_MANIFEST, Plan};
use serde::{Deserialize, Serialize};
use tensor::{Error, Result};

use crate::part::Part;
use crate::run::Options;

/// The beginning of the folder's name.
pub(crate) const PREFIX: &str = "parts-";

/// Digits of the id.
const ID_DIGITS: usize = 16;

/// The folder of a job's parts, for one of them.
pub(crate) struct PartFolder {
    path: PathBuf,
    part: Part,
    job: String,
    manifest: String,
}

/// The record of a finished part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PartRecord {
    /// The id of the job.
    pub(crate) job: String,
    /// The part, such as `3/8`.
    pub(crate) part: String,
    /// The name of the machine.
    pub(crate) host: String,
    /// The name of the manifest.
    pub(crate) manifest: String,
    /// The entries of the manifest, with the ranges of inputs and outputs that the part has read and written.
    pub(crate) artifacts: Vec<ArtifactEntry>,
}

impl PartFolder {
    /// Creates the folder if it is missing.
    ///
    /// # Errors
    /// `Target`; those of the checkpoint's fingerprint.
    pub(crate) fn of(
        checkpoint: &Checkpoint,
        plan: &Plan,
        part: Part,
        options: &Options,
    ) -> Result<PartFolder> {
        let mut id = Sha256::new();
        id.update(plan.digest());
        id.update(checkpoint.fingerprint()?);
        id.update(&options.tool);
        // the files of a stream have headers only
        id.update(options.source.as_ref().map_or("", |source| &source.commit));
        let mut job = base::hex(&id.finish());
        job.truncate(ID_DIGITS);
        let path = options.folder.join(format!("{PREFIX}{job}"));
        fs::create_dir_all(&path).map_err(|e| Error::write(path.display(), &e))?;
        let manifest = base::file_name(&options.manifest());
        Ok(PartFolder { path, part, job, manifest })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the record of the part, which says that its ranges are complete. Returns its path.
    ///
    /// # Errors
    /// `Target`.
    pub(crate) fn record(&self, artifacts: &[ArtifactEntry], sync: bool) -> Result<PathBuf> {
        let path = self.path.join(record_name(self.part));
        let record = PartRecord {
            job: self.job.clone(),
            part: self.part.to_string(),
            host: base::host_name(),
            manifest: self.manifest.clone(),
            artifacts: artifacts.to_vec(),
        };
        let text = serde_json::to_vec_pretty(&record).map_err(|e| Error::target(path.display(), e))?;
        // the same part may be running twice; the lock is released with the file
        let folder = base::lockable(&self.path).map_err(|e| Error::write(self.path.display(), &e))?;
        folder.lock().map_err(|e| Error::write(self.path.display(), &e))?;
        let output = OutputFile::create(&path)?;
        output.write_at(&text, 0)?;
        if sync { output.publish() } else { output.publish_unsynced() }?;
        Ok(path)
    }
}

/// The name of the record of a part.
pub(crate) fn record_name(part: Part) -> String {
    format!("part-{}-of-{}.json", part.number(), part.count())
}

/// Reads the record at `path`, whose name must be that of its part.
///
/// # Errors
/// `Malformed` for a file that is no record, or that of another part; `Io`.
pub(crate) fn read_record(path: &Path) -> Result<(Part, PartRecord)> {
    let within = |problem: String| {
        Error::malformed(path.display(), problem)
            .help("It was damaged, perhaps in a transfer. Copy it again, or run this part again.")
    };
    let text = read_bounded(path, MAX_MANIFEST)?;
    let record: PartRecord =
        serde_json::from_slice(&text).map_err(|e| within(format!("not the record of a part: {e}")))?;
    let part: Part = record.part.parse().map_err(|_| within(format!("a part {:?}", record.part)))?;
    let mut names = record.artifacts.iter().flat_map(|entry| &entry.outputs).map(|file| &file.name);
    if let Some(name) = names.find(|name| !base::is_plain_name(name)) {
        return Err(within(format!("it names a file outside of its folder: {name:?}")));
    }
    if !base::is_plain_name(&record.manifest) || !path.ends_with(record_name(part)) {
        return Err(within(format!("the record of part {part}, with the manifest {:?}", record.manifest)));
    }
    Ok((part, record))
}
