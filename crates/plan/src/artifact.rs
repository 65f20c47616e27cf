//! The plan and its parts: plain, serialisable data.

use std::collections::BTreeMap;

use base::Sha256;
use gemma::towers::{TowerChange, is_bound};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tensor::{DType, TensorDesc};

use crate::budget::Allocation;
use crate::calibration::Calibration;
use crate::grid::Lattice;
use crate::imatrix::ImportanceSource;
use crate::manifest::AdapterEntry;
use crate::offload::Offloaded;
use crate::output::Format;
use crate::safetensors::OTHER;

/// The inputs and outputs of a run.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Plan {
    /// The variant (`E2B`, …); `None` for a size without a name.
    pub variant: Option<&'static str>,
    /// The architecture that config.json names.
    pub architecture: String,
    /// The checkpoint's files and those of adapters, in reading order.
    pub inputs: Vec<InputFile>,
    /// The adapters that are merged into the checkpoint, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<AdapterEntry>,
    /// Differences of the checkpoint from one that transformers saves, and how they are handled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The outputs, one entry per recipe.
    pub artifacts: Vec<Artifact>,
    /// Tensors of the checkpoint that no artifact contains, with reasons.
    pub dropped: Vec<Dropped>,
    /// The target model, if the input is a draft model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<DraftTarget>,
}

/// The target of a draft model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DraftTarget {
    /// The variant (`E2B`, …); absent for a size without a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The checkpoint's fingerprint in hexadecimal: a digest of config, headers and a sample of the weights.
    pub fingerprint: String,
    /// The target's layers in an extracted draft model, ascending. The inputs are then those of the extract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<usize>>,
}

/// A file of the checkpoint.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct InputFile {
    /// The file's name in the folder.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The files that one recipe produces.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Artifact {
    /// The recipe's name.
    pub recipe: String,
    /// The container. The header of its files is in the digest, so this is not.
    #[serde(skip)]
    pub format: Format,
    /// The preset, or the scheme of a safetensors output.
    pub preset: &'static str,
    /// One file, or the parts of a split; for safetensors also the companion files (config, tokenizer, card).
    pub files: Vec<PlannedFile>,
    /// Sparsely accessed weights that are in separate files, to be loaded on demand.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub offloaded: Vec<Offloaded>,
    /// The importance matrix used for quantization.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub importance: Option<ImportanceSource>,
    /// The bit allocation, if a budget chose the types. Its types are all rules of the recipe, so the digest leaves
    /// it out.
    #[serde(skip)]
    pub allocation: Option<Allocation>,
    /// Calibrated quantization.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// Tensors that the artifact leaves out, with reasons.
    pub dropped: Vec<Dropped>,
    /// Notes for the user: type fall-backs, unused tensors that are kept.
    pub notes: Vec<String>,
}

/// A file to write. Bytes outside the header and the tensors are zero.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct PlannedFile {
    /// The file's name in the target folder.
    pub name: String,
    /// The file's size in bytes.
    pub bytes: u64,
    /// All bytes before the first tensor. JSON holds their number and their SHA-256.
    #[serde(serialize_with = "digest_of")]
    #[schemars(with = "crate::schema::Header")]
    pub header: Vec<u8>,
    /// The tensors, in file order.
    pub tensors: Vec<OutputTensor>,
    /// The source file in the checkpoint's folder, if this file is a copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<String>,
}

/// A tensor to write.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct OutputTensor {
    /// Name, type and shape in the file.
    #[serde(flatten, serialize_with = "described")]
    #[schemars(with = "crate::schema::Described")]
    pub desc: TensorDesc,
    /// The tensor's role by llama.cpp's name (`attn_q`, `ffn_down`, …).
    pub role: &'static str,
    /// The layer's index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// Offset of the first byte in the file.
    pub offset: u64,
    /// Length in bytes, without padding.
    pub bytes: u64,
    /// The reason for the type.
    pub why: String,
    /// The type is the preset's: neither a rule nor another setting names it.
    #[serde(skip)]
    pub free: bool,
    /// The source of the values.
    pub from: Origin,
}

impl OutputTensor {
    /// Whether infinities are valid: values that are only copied, and bounds of clipped linears.
    pub fn may_be_infinite(&self) -> bool {
        self.role == OTHER || is_bound(self.role)
    }
}

/// The source of a tensor's values.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A tensor of the checkpoint.
    Checkpoint(StoredTensor),
    /// Values computed from the config.
    Generated(Vec<f32>),
    /// The scales that encoding the named tensor of the same file yields: one per row, or a single one if this tensor
    /// is a scalar.
    Scales(String),
}

/// A tensor of the checkpoint as a source.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct StoredTensor {
    /// The tensor's name in the checkpoint.
    pub tensor: String,
    /// The tensor's type in the checkpoint.
    #[serde(serialize_with = "type_name")]
    #[schemars(with = "String")]
    pub dtype: DType,
    /// The location of the rows, in order: one range of a file, or several if the tensor is stored in pieces.
    #[serde(flatten)]
    pub pieces: Pieces,
    /// The type to round to before encoding, if any.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_type_name")]
    #[schemars(with = "Option<String>")]
    pub via: Option<DType>,
    /// The quantization uses the importance matrix.
    #[serde(rename = "steered", skip_serializing_if = "std::ops::Not::not")]
    pub uses_imatrix: bool,
    /// The values are on a 4-bit quantization grid, or were moved from one, and become Q4_0 on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lattice: Option<Lattice>,
    /// The change of the values of a tower's tensor before encoding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<StoredChange>,
}

/// A change of the values of a tensor before encoding.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct StoredChange {
    /// The kind of change.
    #[schemars(with = "String")]
    pub kind: TowerChange,
    /// The dimensions in the checkpoint, slowest first.
    pub shape: Vec<u64>,
}

impl StoredChange {
    /// Whether rows have other places afterwards.
    pub fn moves_rows(&self) -> bool {
        self.kind == TowerChange::PlanesFirst
    }

    /// The place of a row afterwards.
    pub fn row(&self, row: u64) -> u64 {
        self.kind.row(&self.shape, row)
    }
}

impl StoredTensor {
    /// Values of a row in the checkpoint, for an output of this description.
    pub fn cols(&self, output: &TensorDesc) -> u64 {
        self.change.as_ref().map_or_else(|| output.cols(), |change| change.shape.last().copied().unwrap_or(1))
    }
}

/// File ranges that hold the rows of a tensor, at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Pieces(Vec<StoredPiece>);

/// A contiguous range of rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct StoredPiece {
    /// Index of the file in [`Plan::inputs`].
    pub file: usize,
    /// Offset of the first byte in that file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// The scales of encoded values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<StoredScale>,
    /// Number of rows, where the checkpoint decodes them from a packed weight. The range is then a part of the packed
    /// codes, and not these rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packed_rows: Option<u64>,
}

impl StoredPiece {
    /// Number of rows, of `row_bytes` each if they are not packed.
    pub fn rows(&self, row_bytes: u64) -> u64 {
        self.packed_rows.unwrap_or(self.bytes / row_bytes)
    }
}

impl Pieces {
    /// Pieces in row order; an empty list becomes one empty piece.
    pub fn new(mut pieces: Vec<StoredPiece>) -> Pieces {
        if pieces.is_empty() {
            pieces.push(StoredPiece { file: 0, offset: 0, bytes: 0, scale: None, packed_rows: None });
        }
        Pieces(pieces)
    }

    /// All pieces, in row order.
    pub fn all(&self) -> &[StoredPiece] {
        &self.0
    }

    /// The piece that contains the first row.
    pub fn first(&self) -> StoredPiece {
        self.0[0]
    }

    /// Length of the tensor in the checkpoint, in bytes.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|piece| piece.bytes).sum()
    }

    /// Whether the checkpoint decodes the rows from a packed weight.
    pub fn are_packed(&self) -> bool {
        self.0.iter().any(|piece| piece.packed_rows.is_some())
    }

    /// Whether the values are encoded with scales.
    pub fn are_scaled(&self) -> bool {
        self.0.iter().any(|piece| piece.scale.is_some())
    }
}

/// A single piece serialises as fields of its tensor, several as a list.
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

/// The location of an encoded tensor's scales in the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct StoredScale {
    /// The scales' type.
    #[serde(serialize_with = "type_name")]
    #[schemars(with = "String")]
    pub dtype: DType,
    /// Index of the file in [`Plan::inputs`].
    pub file: usize,
    /// Offset of the first byte in that file.
    pub offset: u64,
    /// One scale per row; otherwise one for the tensor.
    pub per_row: bool,
}

/// A tensor that an output leaves out.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Dropped {
    /// The tensor's name in the checkpoint.
    pub tensor: String,
    /// The tensor's length there, in bytes.
    pub bytes: u64,
    /// The reason.
    pub reason: &'static str,
}

impl Plan {
    /// SHA-256 of the plan's JSON without notes and reasons, in hexadecimal: equal plans write equal bytes from equal inputs.
    ///
    /// The digest covers the location of the weights, not the weights.
    pub fn digest(&self) -> String {
        let json = serde_json::to_vec(&self.without_texts()).expect("a plan is plain data");
        base::hex(&Sha256::of(json))
    }

    /// The plan without its texts for people: they may be worded differently in another version.
    fn without_texts(&self) -> Plan {
        let mut plan = self.clone();
        plan.notes.clear();
        plan.dropped.iter_mut().for_each(|dropped| dropped.reason = "");
        for artifact in &mut plan.artifacts {
            artifact.notes.clear();
            artifact.dropped.iter_mut().for_each(|dropped| dropped.reason = "");
            artifact
                .files
                .iter_mut()
                .flat_map(|file| &mut file.tensors)
                .for_each(|tensor| tensor.why.clear());
        }
        plan
    }

    /// The plan with this artifact only, for a digest that is independent of the others.
    pub fn only(&self, artifact: usize) -> Plan {
        let mut plan = self.clone();
        plan.artifacts = plan.artifacts.into_iter().skip(artifact).take(1).collect();
        plan
    }
}

impl PlannedFile {
    /// The end of the padding after a tensor, given by its index.
    pub fn padded_end(&self, tensor: usize) -> u64 {
        self.tensors.get(tensor + 1).map_or(self.bytes, |next| next.offset)
    }
}

impl Artifact {
    /// Total size of the files, in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// All tensors, in file order.
    pub fn tensors(&self) -> impl Iterator<Item = &OutputTensor> {
        self.files.iter().flat_map(|file| &file.tensors)
    }

    /// Mean bits per weight, over all tensors.
    pub fn bits_per_weight(&self) -> f64 {
        let (stored, weights) = self.tensors().fold((0, 0), |(stored, weights), tensor| {
            (stored + tensor.bytes, weights + tensor.desc.elements())
        });
        8.0 * stored as f64 / weights.max(1) as f64
    }

    /// Number of tensors and bytes, by type.
    pub fn by_type(&self) -> BTreeMap<DType, (usize, u64)> {
        let mut types = BTreeMap::new();
        for tensor in self.tensors() {
            let entry: &mut (usize, u64) = types.entry(tensor.desc.dtype).or_default();
            *entry = (entry.0 + 1, entry.1 + tensor.bytes);
        }
        types
    }
}

fn digest_of<S: serde::Serializer>(header: &[u8], to: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeStruct;
    let mut fields = to.serialize_struct("header", 2)?;
    fields.serialize_field("bytes", &header.len())?;
    fields.serialize_field("sha256", &base::hex(&Sha256::of(header)))?;
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
