//! The plan itself: plain data, serialisable.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tensor::{DType, TensorDesc};

use crate::budget::Allocation;
use crate::imatrix::ImportanceSource;
use crate::offload::Offloaded;

/// What a run reads and writes.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Plan {
    /// `E2B`, …; `None` for a size without a name.
    pub variant: Option<&'static str>,
    /// The architecture that config.json names.
    pub architecture: String,
    /// The checkpoint's files, in the order in which they are read.
    pub inputs: Vec<InputFile>,
    /// In what the checkpoint is not as transformers would have saved it, and what is done about it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What is made of them, one entry a recipe.
    pub artifacts: Vec<Artifact>,
    /// Tensors of the checkpoint that none of the artifacts holds, and why.
    pub dropped: Vec<Dropped>,
    /// Of a draft model, the model that it drafts for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<DraftTarget>,
}

/// The model that a draft model is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DraftTarget {
    /// `E2B`, …; absent for a size without a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// What its checkpoint is known by, in hexadecimal: a digest of config, headers and a sample of the weights.
    pub fingerprint: String,
    /// Of a draft model that is cut out of it: which layers of it, ascending. The inputs are then those of the cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<usize>>,
}

/// A file of the checkpoint.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InputFile {
    /// Its name in the folder.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The files that one recipe makes.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Artifact {
    /// The recipe's name.
    pub recipe: String,
    /// Its preset, or the scheme of its safetensors.
    pub preset: &'static str,
    /// One file or the parts of a split; of safetensors also what belongs to a model besides its weights.
    pub files: Vec<PlannedFile>,
    /// What lies in files of its own, to be read when it is needed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub offloaded: Vec<Offloaded>,
    /// The importance that steers its rounding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub importance: Option<ImportanceSource>,
    /// What its types were chosen by, if they were chosen by a budget. They are all in the recipe; so it is not in the
    /// digest.
    #[serde(skip)]
    pub allocation: Option<Allocation>,
    /// What it leaves out, and why.
    pub dropped: Vec<Dropped>,
    /// What a reader should know: fall-backs, tensors that are kept though never read.
    pub notes: Vec<String>,
}

/// A file to write. Bytes that neither the header nor a tensor covers are zero.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlannedFile {
    /// Its name in the target folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Everything before the first tensor.
    #[serde(serialize_with = "digest_of")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Header"))]
    pub header: Vec<u8>,
    /// The tensors, in the order of the file.
    pub tensors: Vec<OutputTensor>,
    /// The file of the checkpoint's folder that it is a copy of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<String>,
}

/// A tensor to write.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OutputTensor {
    /// Name, type and shape in the file.
    #[serde(flatten, serialize_with = "described")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Described"))]
    pub desc: TensorDesc,
    /// llama.cpp's name for what it does.
    pub role: &'static str,
    /// Its layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// Its first byte in the file.
    pub offset: u64,
    /// Its bytes without padding.
    pub bytes: u64,
    /// Why it has this type.
    pub why: String,
    /// Nobody has named its type: it is the preset's.
    #[serde(skip)]
    pub free: bool,
    /// Where its values come from.
    pub from: Origin,
}

/// Where a tensor's values come from.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The checkpoint.
    Checkpoint(StoredTensor),
    /// They are computed from the config.
    Generated(Vec<f32>),
    /// They are the scales that the tensor of this name, in the same file, gets when it is encoded: one a row, or if
    /// this tensor is a scalar, one.
    Scales(String),
}

/// A tensor in the checkpoint.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StoredTensor {
    /// Its name there.
    pub tensor: String,
    /// Its type there.
    #[serde(serialize_with = "type_name")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub dtype: DType,
    /// Where its rows are, in their order: one stretch of one file, or many of a tensor that is stored apart.
    #[serde(flatten)]
    pub pieces: Pieces,
    /// The type to round to before encoding, if any.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_type_name")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub via: Option<DType>,
    /// It is rounded by its importance.
    #[serde(rename = "steered", skip_serializing_if = "std::ops::Not::not")]
    pub uses_imatrix: bool,
    /// It lies on a 4-bit lattice, and is repacked as Q4_0.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lattice: bool,
}

/// Stretches of files that hold the rows of a tensor. There is at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Pieces(Vec<StoredPiece>);

/// Some rows of a tensor that lie together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StoredPiece {
    /// Number of their file in [`Plan::inputs`].
    pub file: usize,
    /// The first byte in that file.
    pub offset: u64,
    /// Their bytes there.
    pub bytes: u64,
    /// What their values are multiplied with, if they are coded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<StoredScale>,
}

impl Pieces {
    /// Pieces in the order of the rows; an empty one for none.
    pub fn new(mut pieces: Vec<StoredPiece>) -> Pieces {
        if pieces.is_empty() {
            pieces.push(StoredPiece { file: 0, offset: 0, bytes: 0, scale: None });
        }
        Pieces(pieces)
    }

    /// All of them.
    pub fn all(&self) -> &[StoredPiece] {
        &self.0
    }

    /// The one that the tensor begins with.
    pub fn first(&self) -> StoredPiece {
        self.0[0]
    }

    /// Bytes of the tensor in the checkpoint.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|piece| piece.bytes).sum()
    }

    /// The tensor is coded: its values are multiplied with scales.
    pub fn are_scaled(&self) -> bool {
        self.0.iter().any(|piece| piece.scale.is_some())
    }
}

/// One piece is a few fields of its tensor, many are a list.
impl Serialize for Pieces {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        if let [only] = &self.0[..] {
            return only.serialize(to);
        }
        let mut map = to.serialize_map(Some(2))?;
        map.serialize_entry("bytes", &self.bytes())?;
        map.serialize_entry("pieces", &self.0)?;
        map.end()
    }
}

/// Where the scales of a coded tensor are in the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StoredScale {
    /// Their type.
    #[serde(serialize_with = "type_name")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub dtype: DType,
    /// Number of their file in [`Plan::inputs`].
    pub file: usize,
    /// Their first byte in that file.
    pub offset: u64,
    /// There is one a row, else one for the tensor.
    pub per_row: bool,
}

/// A tensor that is left out.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Dropped {
    /// Its name in the checkpoint.
    pub tensor: String,
    /// Its bytes there.
    pub bytes: u64,
    /// Why.
    pub reason: &'static str,
}

impl Plan {
    /// SHA-256 of the plan's JSON, in hexadecimal: equal plans write equal bytes.
    ///
    /// The digest does not cover the weights, only where they are.
    pub fn digest(&self) -> String {
        // a plan is maps, lists, numbers and texts, which serialise without fail
        hex(&Sha256::digest(serde_json::to_vec(self).unwrap_or_default()))
    }

    /// The same plan with one artifact only, for a digest that does not depend on the others.
    pub fn only(&self, artifact: usize) -> Plan {
        let mut plan = self.clone();
        plan.artifacts = plan.artifacts.into_iter().skip(artifact).take(1).collect();
        plan
    }
}

impl PlannedFile {
    /// Where the padding after a tensor ends, by the tensor's number.
    pub fn padded_end(&self, tensor: usize) -> u64 {
        self.tensors.get(tensor + 1).map_or(self.bytes, |next| next.offset)
    }
}

impl Artifact {
    /// Bytes of all its files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// All its tensors, in the order of the files.
    pub fn tensors(&self) -> impl Iterator<Item = &OutputTensor> {
        self.files.iter().flat_map(|file| &file.tensors)
    }

    /// Bits a weight, over all tensors.
    pub fn bits_per_weight(&self) -> f64 {
        let (stored, weights) = self.tensors().fold((0, 0), |(stored, weights), tensor| {
            (stored + tensor.bytes, weights + tensor.desc.elements())
        });
        8.0 * stored as f64 / weights.max(1) as f64
    }

    /// Number of tensors and bytes by type.
    pub fn by_type(&self) -> BTreeMap<DType, (usize, u64)> {
        let mut types = BTreeMap::new();
        for tensor in self.tensors() {
            let entry: &mut (usize, u64) = types.entry(tensor.desc.dtype).or_default();
            *entry = (entry.0 + 1, entry.1 + tensor.bytes);
        }
        types
    }
}

/// A digest as text.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}"); // writing to a string cannot fail
    }
    text
}

fn digest_of<S: serde::Serializer>(header: &[u8], to: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeStruct;
    let mut fields = to.serialize_struct("header", 2)?;
    fields.serialize_field("bytes", &header.len())?;
    fields.serialize_field("sha256", &hex(&Sha256::digest(header)))?;
    fields.end()
}

fn described<S: serde::Serializer>(desc: &TensorDesc, to: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeStruct;
    let mut fields = to.serialize_struct("tensor", 3)?;
    fields.serialize_field("tensor", &desc.name)?;
    fields.serialize_field("type", desc.dtype.name())?;
    fields.serialize_field("shape", &desc.shape)?;
    fields.end()
}

fn type_name<S: serde::Serializer>(dtype: &DType, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(dtype.name())
}

fn optional_type_name<S: serde::Serializer>(dtype: &Option<DType>, to: S) -> Result<S::Ok, S::Error> {
    match dtype {
        Some(dtype) => type_name(dtype, to),
        None => to.serialize_none(),
    }
}
