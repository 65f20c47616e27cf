//! What a report needs to be repeated: the command, the date, the files.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tensor::Result;

/// How a report was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Invocation {
    /// The command line, for a shell. Absolute paths are shortened, and a token of the hub is left out.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub command: String,
    /// Date and time in UTC: `2026-11-29T22:49:00Z`; that of `SOURCE_DATE_EPOCH` where it is set.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub date: String,
    /// The files of the artifact, and the texts, images and sounds.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub files: Vec<HashedFile>,
}

/// A file that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HashedFile {
    /// Path as given by the user.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

impl HashedFile {
    /// Hashes a file. `progress` gets byte counts.
    ///
    /// # Errors
    /// `Malformed` for anything but a regular file; `Io`.
    pub fn read(path: &Path, progress: &(dyn Fn(u64) + Sync)) -> Result<HashedFile> {
        let (bytes, sha256) = base::sha256_file(path, progress)?;
        Ok(HashedFile { path: path.display().to_string(), bytes, sha256 })
    }
}
