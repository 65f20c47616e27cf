//! `manifest.json`: the record of inputs, recipes and outputs, with SHA-256 of every file.
//!
//! A folder has one manifest; a run replaces the entries of the files it writes and keeps the others. An output file
//! that the user named has its own manifest beside it: its name with a suffix. This module does no I/O.

use std::path::{Path, PathBuf};

use base::Sha256;
use checkpoint::{AdapterFile, MergedAdapter};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tensor::{Error, Result};

use crate::artifact::DraftTarget;
use crate::budget::Allocation;

use crate::imatrix::ImportanceKeys;

/// Maximum size of a manifest in bytes. One that lists the quantization of each tensor has about 1 MB.
pub const MAX_MANIFEST: u64 = 8 << 20;

/// The suffix that turns the name of a single output file into that of its manifest.
pub const MANIFEST_SUFFIX: &str = ".manifest.json";

/// The manifest of a folder or a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Manifest {
    /// One entry per recipe.
    pub artifacts: Vec<ArtifactEntry>,
}

/// The record of one recipe's output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ArtifactEntry {
    /// The recipe's name.
    pub recipe: String,
    /// The whole recipe, with all settings.
    pub settings: serde_json::Value,
    /// `gemma-convert` and its version.
    pub tool: String,
    /// SHA-256 of the plan: equal plans over equal inputs give equal outputs.
    pub plan_sha256: String,
    /// The repository of the hub from which the checkpoint came, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<HubSource>,
    /// The adapters that were merged into the checkpoint, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<AdapterEntry>,
    /// The target model, if the output is a draft model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<DraftTarget>,
    /// The importance matrix used for quantization, as the outputs' keys describe it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub importance: Option<ImportanceKeys>,
    /// The bit allocation, if a budget chose the types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<Allocation>,
    /// The calibration text and the results of calibrated quantization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationEntry>,
    /// Results of repacking tensors that are on a 4-bit quantization grid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repacked: Vec<RepackedTensor>,
    /// The checkpoint's files by their names in its folder: weights, then configs, tokenizer, templates, card. After
    /// them, by the paths that the user gave, texts, sensitivities and imatrix files.
    pub inputs: Vec<FileEntry>,
    /// The files of the artifact.
    pub outputs: Vec<FileEntry>,
    /// The machines that made it, if it was made in parts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartHost>,
}

/// The machine that made a part of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PartHost {
    /// The part, such as `3/8`.
    pub part: String,
    /// The name of the machine.
    pub host: String,
}

/// An adapter (LoRA) that is merged into a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AdapterEntry {
    /// Its folder, by the path that the user gave.
    pub folder: String,
    /// Multiplies the scale that it was trained with.
    pub scale: f64,
    /// An embedding that it replaces stays the head too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tie: bool,
    /// The program whose arithmetic the merge follows.
    pub rule: String,
    /// Config and weights, by their names in the folder.
    pub files: Vec<FileEntry>,
}

impl AdapterEntry {
    /// The entry of a merged adapter.
    pub fn new(merged: &MergedAdapter) -> AdapterEntry {
        let file = |file: &AdapterFile| FileEntry {
            name: file.name.clone(),
            bytes: file.bytes,
            sha256: file.sha256.clone(),
            ..FileEntry::default()
        };
        AdapterEntry {
            folder: base::with_slashes(&merged.adapter.folder),
            scale: merged.adapter.scale,
            tie: merged.adapter.tie,
            rule: merged.rule.to_owned(),
            files: merged.files.iter().map(file).collect(),
        }
    }
}

/// A repository of the Hugging Face hub at a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HubSource {
    /// URL of the hub.
    pub endpoint: String,
    /// `owner/name`.
    pub repository: String,
    /// The branch, tag or commit that was asked for.
    pub revision: String,
    /// The commit.
    pub commit: String,
}

/// A calibration text and its use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CalibrationEntry {
    /// The text files, by the paths that the user gave.
    pub texts: Vec<FileEntry>,
    /// Number of tokens read.
    pub tokens: u64,
    /// Number of sequences.
    pub sequences: u64,
    /// Vector instructions and kernel of the arithmetic: another kernel quantizes a few weights to a neighbouring
    /// value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub compute: String,
    /// Results by tensor.
    pub tensors: serde_json::Value,
}

/// A tensor that was repacked from its quantization grid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RepackedTensor {
    /// The tensor's name in the GGUF.
    pub tensor: String,
    /// Number of blocks.
    pub blocks: u64,
    /// Blocks that decode, in BF16, to exactly the weights of the checkpoint.
    pub exact: u64,
    /// Blocks with the right codes, whose scale is not representable in f16.
    pub near: u64,
}

/// A file with its size and hash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileEntry {
    /// Name within its folder.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 in hexadecimal. Absent if no process had the whole file, when `ranges` has those of its ranges, and of input that
    /// was not to be hashed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sha256: String,
    /// The ranges that processes had, one for each part of a job, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<FileRange>,
    /// Who has verified the SHA-256. Absent if this run has read and hashed the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_by: Option<VerifiedBy>,
}

/// Who has compared a file with its SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VerifiedBy {
    /// The program that downloaded it from the hub.
    Download,
}

/// A range of a file with its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileRange {
    /// Offset of the first byte.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

impl FileEntry {
    /// A file of which these ranges were hashed, ascending and disjoint; one that is the whole file gives its hash.
    pub fn of_ranges(name: String, bytes: u64, mut ranges: Vec<FileRange>) -> FileEntry {
        let sha256 = match &mut ranges[..] {
            [] if bytes == 0 => base::hex(&Sha256::of(b"")),
            [whole] if (whole.offset, whole.bytes) == (0, bytes) => std::mem::take(&mut whole.sha256),
            _ => return FileEntry { name, bytes, ranges, ..FileEntry::default() },
        };
        FileEntry { name, bytes, sha256, ..FileEntry::default() }
    }

    /// The ranges that were hashed, ascending: one, if it is the whole file.
    pub fn hashed(&self) -> Vec<FileRange> {
        match self.sha256.as_str() {
            "" => self.ranges.clone(),
            sha256 => vec![FileRange { offset: 0, bytes: self.bytes, sha256: sha256.to_owned() }],
        }
    }

    /// Whether a range that both entries have has another content in `other`.
    pub fn differs_from(&self, other: &FileEntry) -> bool {
        let others = other.hashed();
        let same_place = |a: &FileRange, b: &FileRange| (a.offset, a.bytes) == (b.offset, b.bytes);
        let differs = |a: &FileRange| others.iter().any(|b| same_place(a, b) && a.sha256 != b.sha256);
        self.bytes != other.bytes || self.hashed().iter().any(differs)
    }
}

impl Manifest {
    /// The path of the manifest of outputs in `folder`; `named` is the output file that the user named, if any.
    pub fn path(folder: &Path, named: Option<&str>) -> PathBuf {
        match named {
            Some(name) => folder.join(format!("{name}{MANIFEST_SUFFIX}")),
            None => folder.join("manifest.json"),
        }
    }

    /// Parses a manifest.
    ///
    /// # Errors
    /// `Malformed` for other content, and for names of outputs that leave the folder.
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

    /// The entry that lists an output of this name.
    pub fn entry_of(&self, name: &str) -> Option<&ArtifactEntry> {
        self.artifacts.iter().find(|entry| entry.outputs.iter().any(|file| file.name == name))
    }

    /// Removes every entry that lists one of these outputs. Returns whether there was one.
    pub fn forget<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) -> bool {
        let before = self.artifacts.len();
        for name in names {
            self.artifacts.retain(|entry| entry.outputs.iter().all(|file| file.name != name));
        }
        self.artifacts.len() < before
    }
}
