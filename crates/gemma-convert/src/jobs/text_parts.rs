//! Parts of a job that reads a text and makes one file: what the file depends on, and the outcome of a part.

use std::fs;
use std::path::{Path, PathBuf};

use base::{FoundPart, Job, JobParts, Part, PartFolder};
use runtime::Compute;
use serde::{Deserialize, Serialize};
use tensor::{Error, Result};

use super::rounding::names;
use crate::TOOL;

/// A finished part of a job.
#[derive(Clone, Debug)]
pub struct MadePart {
    /// The part.
    pub part: Part,
    /// The folder for [`Join`](super::Join).
    pub folder: PathBuf,
    /// The record of the part.
    pub record: PathBuf,
}

/// A file of a part, in its record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PartFile {
    /// Its size.
    pub(crate) bytes: u64,
    sha256: String,
}

impl PartFile {
    /// Describes a finished file.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn of(path: &Path) -> Result<PartFile> {
        let (bytes, sha256) = base::sha256_file(path, &|_| ())?;
        Ok(PartFile { bytes, sha256 })
    }

    /// The path of the file, which has the recorded bytes. `progress` gets numbers of bytes.
    ///
    /// # Errors
    /// `Malformed` for a file that has changed, `Io`.
    pub(crate) fn unchanged(
        &self,
        part: &FoundPart,
        extension: &str,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<PathBuf> {
        let path = part.file(extension);
        let (bytes, sha256) = base::sha256_file(&path, progress)?;
        if (bytes, sha256) != (self.bytes, self.sha256.clone()) {
            return Err(part.damaged(format!("{} has changed", base::file_name(&path))));
        }
        Ok(path)
    }
}

/// A job in parts that makes one file of a model and a text.
pub(crate) struct TextJob<'a> {
    pub(crate) kind: &'a str,
    /// The file.
    pub(crate) out: &'a Path,
    /// That of the model.
    pub(crate) fingerprint: &'a [u8],
    pub(crate) texts: &'a [PathBuf],
    /// Tokens of the texts.
    pub(crate) sequences: &'a [Vec<u32>],
    pub(crate) compute: Compute,
}

impl TextJob<'_> {
    /// The folder of the parts.
    ///
    /// # Errors
    /// `Target`.
    pub(crate) fn folder(&self, part: Part) -> Result<PartFolder> {
        let inputs = [
            ("checkpoint", base::hex(self.fingerprint)),
            ("kernel", self.compute.kernel.name().to_owned()),
            ("text", calibrate::store_id(&[], self.sequences)),
            // the file has them
            ("names of texts", names(self.texts).join(", ")),
            ("tool", TOOL.to_owned()),
        ];
        let job = Job::new(self.kind, vec![base::file_name(self.out)], inputs);
        PartFolder::create(base::folder_of(self.out), job, part)
    }

    /// The outcome of a part.
    pub(crate) fn made(&self, part: Part, record: PathBuf) -> MadePart {
        MadePart { part, folder: base::folder_of(self.out).to_owned(), record }
    }
}

/// The path of the file that the parts of such a job make. Creates its folder.
///
/// # Errors
/// `Malformed` for a record without its name, `Target`.
pub(crate) fn output(parts: &JobParts, folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).map_err(|e| Error::write(folder.display(), &e))?;
    match &parts.job.outputs[..] {
        [name] if base::is_plain_name(name) => Ok(folder.join(name)),
        names => Err(Error::malformed("parts", "their records name no output")
            .expected("the name of a file", names.join(", "))),
    }
}
