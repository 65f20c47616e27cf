//! The importance matrix (imatrix) in a plan: its keys in the file, the tensors that it applies to, and a check that
//! it belongs to the model.
//!
//! As in llama-quantize: the presence of an imatrix affects the choice of types (`formats/gguf-presets.toml`), a
//! tensor's own entry its quantization; a tensor without an entry is quantized without weights. Stricter than
//! llama-quantize: an entry of another shape is refused for the embeddings too, and so is one that is all zeros.
//!
//! Sources: llama.cpp's `tools/quantize/quantize.cpp` (keys), `src/llama-quant.cpp` (shapes).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use gguf::Metadata;
use imatrix::{Entry, Importance};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tensor::{Error, Result, TensorDesc};

use crate::manifest::FileEntry;

const FILE: &str = "quantize.imatrix.file";
const DATASET: &str = "quantize.imatrix.dataset";
const ENTRIES: &str = "quantize.imatrix.entries_count";
const CHUNKS: &str = "quantize.imatrix.chunks_count";

/// Maximum bytes of a string that llama-quantize can put into a key.
const MOST_TEXT: usize = 127;

/// The keys `quantize.imatrix.*` of a GGUF that was made with an imatrix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImportanceKeys {
    /// The path of the imatrix file, as the user gave it.
    pub file: String,
    /// The first calibration text of the imatrix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// Number of entries.
    pub entries: u32,
    /// Number of chunks of text, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks: Option<u32>,
}

impl ImportanceKeys {
    /// The keys for an imatrix that was given as `path`.
    pub fn new(path: &Path, importance: &Importance) -> ImportanceKeys {
        ImportanceKeys {
            file: short(&base::with_slashes(path)),
            dataset: importance.datasets.first().map(|text| short(text)),
            entries: u32::try_from(importance.len()).unwrap_or(u32::MAX),
            chunks: Some(importance.chunks).filter(|chunks| *chunks > 0),
        }
    }

    /// Reads the keys of a GGUF; `None` if it was made without an imatrix.
    ///
    /// # Errors
    /// `Malformed` if a value's type differs from llama-quantize's.
    pub fn of(metadata: &Metadata) -> Result<Option<ImportanceKeys>> {
        let Some(entries) = metadata.typed(ENTRIES)? else { return Ok(None) };
        let text = |key| metadata.typed::<&str>(key).map(|text| text.map(str::to_owned));
        let file = text(FILE)?.unwrap_or_default();
        Ok(Some(ImportanceKeys { file, dataset: text(DATASET)?, entries, chunks: metadata.typed(CHUNKS)? }))
    }

    /// Appends the keys at the end, as llama-quantize does.
    pub(crate) fn append(&self, metadata: &mut Metadata) {
        metadata.append(FILE, self.file.as_str());
        if let Some(dataset) = &self.dataset {
            metadata.append(DATASET, dataset.as_str());
        }
        metadata.append(ENTRIES, self.entries);
        if let Some(chunks) = self.chunks {
            metadata.append(CHUNKS, chunks);
        }
    }
}

fn short(text: &str) -> String {
    let mut end = text.len().min(MOST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// The imatrix that an artifact is made with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ImportanceSource {
    /// The description that the keys contain.
    pub keys: ImportanceKeys,
    /// The file, if it is available: one of the inputs, by the path that the user gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileEntry>,
}

/// The imatrix of a request.
#[derive(Clone, Debug)]
pub struct GivenImportance {
    /// The origin.
    pub source: ImportanceSource,
    /// The entries. `None`, as for an existing artifact, skips the check against the model.
    pub entries: Option<Arc<Importance>>,
}

/// Checks an imatrix against the tensors of a model, and decides which tensors use it.
pub(crate) struct ImatrixMatcher<'a> {
    given: &'a GivenImportance,
    entries: &'a Importance,
    used: BTreeSet<String>,
    /// Number of tensors quantised without an entry, by role.
    without: BTreeMap<&'static str, usize>,
    weighted: usize,
    unseen: Vec<String>,
}

impl<'a> ImatrixMatcher<'a> {
    /// `None` if there are no entries to check.
    pub(crate) fn new(given: Option<&'a GivenImportance>) -> Option<ImatrixMatcher<'a>> {
        let given = given?;
        let entries = given.entries.as_deref()?;
        let (used, without) = Default::default();
        Some(ImatrixMatcher { given, entries, used, without, weighted: 0, unseen: Vec::new() })
    }

    /// Whether a tensor's quantization uses the imatrix. Repacking does not.
    ///
    /// # Errors
    /// `Malformed` if its entry has another shape or is all zeros.
    pub(crate) fn applies_to(
        &mut self,
        desc: &TensorDesc,
        role: &'static str,
        repacked: bool,
    ) -> Result<bool> {
        let uses_imatrix = quant::uses_importance(desc.dtype) && !repacked;
        let name = &desc.name;
        let Some(entry) = self.entries.get(name) else {
            if uses_imatrix {
                *self.without.entry(role).or_default() += 1;
            }
            return Ok(false);
        };
        self.used.insert(name.clone());
        check(entry, desc).map_err(|e| e.within(format!("{}: entry {name}", self.given.source.keys.file)))?;
        if !uses_imatrix {
            return Ok(false);
        }
        self.weighted += 1;
        let (unseen, filled) = (entry.unseen().count(), entry.filled().count());
        if unseen > 0 {
            let instead = if filled == unseen {
                "the mean of the others"
            } else {
                "equal weights, as in llama-quantize"
            };
            let all = entry.counts().len();
            self.unseen
                .push(format!("{name}: no token of the text reached {unseen} of {all} experts: {instead}"));
        }
        Ok(true)
    }

    /// Adds the notes about the imatrix.
    ///
    /// # Errors
    /// `Malformed` if no tensor has an entry.
    pub(crate) fn finish(self, notes: &mut Vec<String>) -> Result<()> {
        let file = &self.given.source.keys.file;
        let strange: Vec<_> =
            self.entries.iter().map(|(name, _)| name).filter(|name| !self.used.contains(*name)).collect();
        if self.used.is_empty() {
            return Err(of_another_model(file, strange.first()));
        }
        if let Some(first) = strange.first() {
            notes.push(format!(
                "{} entries of {file} name no tensor of the output, such as {first}",
                strange.len()
            ));
        }
        if self.weighted == 0 {
            notes.push(format!("{file} changes no weight: no tensor is of a type that importance steers"));
        } else if !self.without.is_empty() {
            let roles: Vec<_> = self.without.iter().map(|(role, count)| format!("{count} {role}")).collect();
            notes.push(format!(
                "quantised without importance, because {file} has no entries: {}",
                roles.join(", ")
            ));
        }
        notes.extend(self.unseen);
        Ok(())
    }
}

/// The weights of the columns of matrices, by their index: those of `tensors` (GGUF name, index and description) that have an entry. `file` is
/// for errors.
///
/// # Errors
/// `Malformed` for an entry of another shape or of zeros, and if no tensor has one.
pub fn column_weights<'a>(
    (entries, file): (&Importance, &str),
    tensors: impl IntoIterator<Item = (&'a str, usize, &'a TensorDesc)>,
) -> Result<BTreeMap<usize, Vec<f32>>> {
    let mut weights = BTreeMap::new();
    for (name, index, desc) in tensors {
        let Some(entry) = entries.get(name) else { continue };
        check(entry, desc).map_err(|e| e.within(format!("{file}: entry {name}")))?;
        weights.insert(index, entry.weights());
    }
    if weights.is_empty() {
        return Err(of_another_model(file, entries.iter().next().map(|(name, _)| name).as_ref()));
    }
    Ok(weights)
}

fn of_another_model(file: &str, found: Option<&&str>) -> Error {
    Error::malformed(file, "no entry names a tensor of this model")
        .expected("names as in a GGUF of Gemma 4, such as blk.0.attn_q.weight", found.unwrap_or(&"none"))
        .help("The imatrix is of another model, or its names are not llama.cpp's.")
}

/// Checks that an entry has the shape of the tensor, and that no matrix is all zeros.
fn check(entry: &Entry, desc: &TensorDesc) -> Result<()> {
    let (cols, matrices) = (desc.cols(), matrices(desc));
    let found = (entry.cols() as u64, entry.counts().len() as u64);
    // a .dat file has one count for all matrices
    if found != (cols, matrices) && found != (cols * matrices, 1) {
        let shape = |(cols, matrices): (u64, u64)| format!("{matrices} × {cols} columns");
        return Err(Error::malformed("sums", "of another shape than the tensor")
            .expected(shape((cols, matrices)), shape(found))
            .help("The importance is of another model."));
    }
    match entry.blank() {
        None => Ok(()),
        Some(matrix) => Err(Error::malformed(format!("matrix {matrix}"), "all its sums are 0")
            .help("Such weights are useless: collect the imatrix again, from more text.")),
    }
}

/// The number of matrices of a tensor with their own sums: its experts, or one.
fn matrices(desc: &TensorDesc) -> u64 {
    desc.shape.iter().rev().skip(2).product()
}
