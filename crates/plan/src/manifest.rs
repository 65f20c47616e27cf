//! `manifest.json`: what was made of what, with SHA-256 of every file on both sides.
//!
//! A folder has one manifest for everything in it; a run replaces the entries of the files it writes and keeps the
//! others. A file that was asked for by name has its manifest beside it, under the same name with a suffix.
//! Files are read and written elsewhere.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tensor::{Error, Result};

use crate::artifact::DraftTarget;
use crate::budget::Allocation;

use crate::imatrix::ImportanceKeys;

/// The most bytes of a manifest. One that lists how each tensor was rounded has 1 MB.
pub const MAX_MANIFEST: u64 = 8 << 20;

/// What follows the name of a single output file in the name of its manifest.
pub const MANIFEST_SUFFIX: &str = ".manifest.json";

/// The manifest of a folder or a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Manifest {
    /// One entry a recipe.
    pub artifacts: Vec<ArtifactEntry>,
}

/// What one recipe made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ArtifactEntry {
    /// The recipe's name.
    pub recipe: String,
    /// The whole recipe, with all settings.
    pub settings: serde_json::Value,
    /// `gemma-convert` and its version.
    pub tool: String,
    /// SHA-256 of the plan: equal plans over equal inputs give equal outputs.
    pub plan_sha256: String,
    /// Of a draft model, the model that it drafts for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<DraftTarget>,
    /// The importance that steered the rounding, as the keys of the outputs name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub importance: Option<ImportanceKeys>,
    /// What its types were chosen by, if they were chosen by a budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<Allocation>,
    /// The text that it was rounded for, and how that went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationEntry>,
    /// What has become of the tensors that lie on a 4-bit lattice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repacked: Vec<RepackedTensor>,
    /// The checkpoint's files by their names in its folder: weights, then config, tokenizer, templates, card. After them, by the
    /// paths that were given, texts, sensitivities and importance.
    pub inputs: Vec<FileEntry>,
    /// The files of the artifact.
    pub outputs: Vec<FileEntry>,
}

/// A text that weights were rounded for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CalibrationEntry {
    /// The files, by the paths that were given.
    pub texts: Vec<FileEntry>,
    /// Tokens that were read.
    pub tokens: u64,
    /// Pieces of text.
    pub sequences: u64,
    /// Vector instructions and kernel of the arithmetic: another kernel rounds a few weights to another neighbour.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub compute: String,
    /// How each tensor was rounded.
    pub tensors: serde_json::Value,
}

/// A tensor that was repacked from its lattice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RepackedTensor {
    /// Its name in the GGUF.
    pub tensor: String,
    /// Its blocks.
    pub blocks: u64,
    /// Those that decode, in BF16, to the very weights of the checkpoint.
    pub exact: u64,
    /// Those with the right codes whose scale is no f16.
    pub near: u64,
}

/// A file, its size and hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FileEntry {
    /// Name within its folder.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Where the manifest of `outputs` in `folder` is: `named` is the file that was asked for by name, if any.
    pub fn path(folder: &Path, named: Option<&str>) -> PathBuf {
        match named {
            Some(name) => folder.join(format!("{name}{MANIFEST_SUFFIX}")),
            None => folder.join("manifest.json"),
        }
    }

    /// Reads the text of a manifest.
    ///
    /// # Errors
    /// `Malformed` for anything else.
    pub fn parse(bytes: &[u8]) -> Result<Manifest> {
        let manifest: Manifest = serde_json::from_slice(bytes)
            .map_err(|e| Error::malformed("manifest", format!("not a manifest of gemma-convert: {e}")))?;
        let mut outputs = manifest.artifacts.iter().flat_map(|entry| &entry.outputs);
        match outputs.find(|file| !base::is_plain_name(&file.name)) {
            None => Ok(manifest),
            Some(file) => Err(Error::malformed("manifest", "it lists a file outside of its folder")
                .expected("relative names without `..`", format!("{:?}", file.name))),
        }
    }

    /// The entry that holds an output of this name.
    pub fn entry_of(&self, name: &str) -> Option<&ArtifactEntry> {
        self.artifacts.iter().find(|entry| entry.outputs.iter().any(|file| file.name == name))
    }

    /// Takes out every entry that holds one of these outputs. Returns whether there was one.
    pub fn forget<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) -> bool {
        let before = self.artifacts.len();
        for name in names {
            self.artifacts.retain(|entry| entry.outputs.iter().all(|file| file.name != name));
        }
        self.artifacts.len() < before
    }
}
