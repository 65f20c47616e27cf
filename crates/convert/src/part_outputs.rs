//! What a part of a run leaves for [`join`](crate::join): the outputs under their names in the folder of the parts, to which each part
//! writes its own ranges, and these ranges in its record.

use base::{FoundPart, Job, PartFolder};
use checkpoint::Checkpoint;
use plan::{ArtifactEntry, Plan};
use serde::{Deserialize, Serialize};
use tensor::Result;

use crate::checksum::WrittenRange;
use crate::run::Options;

/// The kind of job of a run in parts.
pub const CONVERSION: &str = "conversion";

/// The record of a part of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PartOutputs {
    /// The name of the manifest.
    pub(crate) manifest: String,
    /// The entries of the manifest, with the ranges of inputs that the part has read. Outputs have no hashes yet.
    pub(crate) artifacts: Vec<ArtifactEntry>,
    /// For each output of all artifacts, in order, the ranges that the part has written: ascending and disjoint.
    pub(crate) written: Vec<Vec<WrittenRange>>,
}

impl PartOutputs {
    /// That of a finished part.
    ///
    /// # Errors
    /// `Malformed` for another content, and for names of files outside of their folder.
    pub(crate) fn of(found: &FoundPart) -> Result<PartOutputs> {
        let outputs: PartOutputs = found.content()?;
        let files = outputs.artifacts.iter().flat_map(|entry| &entry.outputs).map(|file| &file.name);
        let count = files.clone().count();
        let outside = files.chain([&outputs.manifest]).find(|name| !base::is_plain_name(name)).cloned();
        match outside {
            Some(name) => Err(found.damaged(format!("it names a file outside of its folder: {name:?}"))),
            None if outputs.written.len() != count => {
                Err(found.damaged("its outputs and their ranges differ in number"))
            }
            None => Ok(outputs),
        }
    }
}

/// The folder of the parts of a run; `None` for a run that is the whole.
///
/// # Errors
/// `Target`; those of the checkpoint's fingerprint.
pub fn part_folder(checkpoint: &Checkpoint, plan: &Plan, options: &Options) -> Result<Option<PartFolder>> {
    let Some(part) = options.part else { return Ok(None) };
    let commit = options.source.as_ref().map_or("", |source| &source.commit);
    let inputs = [
        ("checkpoint", base::hex(&checkpoint.fingerprint()?)),
        // the files of a stream have headers only
        ("commit", commit.to_owned()),
        ("plan", plan.digest()),
        ("tool", options.tool.clone()),
    ];
    let outputs = plan.artifacts.iter().map(|artifact| artifact.recipe.clone()).collect();
    let job = Job::new(CONVERSION, outputs, inputs.into_iter().chain(options.depends_on.iter().cloned()));
    PartFolder::create(&options.folder, job, part).map(Some)
}
