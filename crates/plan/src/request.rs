//! Requests and their plan, with the helpers that the planners of both containers share.

use std::collections::{HashMap, HashSet};

use checkpoint::{Checkpoint, Piece, StoredEncoding};
use gemma::{Found, ModelSpec};
use quant::GridSurvey;
use tensor::{DType, Error, Result, TensorDesc, TensorSource};

use crate::artifact::{
    Artifact, Dropped, InputFile, Pieces, Plan, PlannedFile, StoredPiece, StoredScale, StoredTensor,
};
use crate::budget::Allocation;
use crate::imatrix::GivenImportance;
use crate::manifest::AdapterEntry;
use crate::offload::Offloaded;
use crate::output::Format;
use crate::recipe::{Recipe, UnusedKv};
use crate::{gguf, mmproj, safetensors};

const UNUSED_KV: &str = "K/V of a layer that reads another layer's: never used (unused_kv = \"drop\")";

/// One artifact to make.
#[derive(Clone, Debug)]
pub struct Request {
    /// The recipe's name.
    pub name: String,
    /// The recipe.
    pub recipe: Recipe,
    /// The name of a GGUF without `.gguf`, see [`stem`](crate::stem).
    pub stem: String,
    /// The importance matrix.
    pub importance: Option<GivenImportance>,
    /// The bit allocation that chose its types, see [`allocate`](crate::allocate).
    pub allocation: Option<Allocation>,
}

impl Request {
    /// A request without an imatrix or a bit allocation.
    pub fn new(name: impl Into<String>, recipe: Recipe, stem: impl Into<String>) -> Request {
        Request { name: name.into(), recipe, stem: stem.into(), importance: None, allocation: None }
    }
}

/// The locations of the checkpoint's tensors.
#[derive(Clone, Debug)]
pub struct Shards<'a> {
    /// The files, in reading order.
    pub files: Vec<InputFile>,
    /// All tensors, by index.
    pub tensors: &'a [TensorDesc],
    /// The locations of each tensor's rows, by tensor index.
    pub pieces: Vec<Vec<Piece>>,
    /// The encodings of tensors that are stored in another form than `tensors` shows, by tensor index.
    pub encodings: HashMap<usize, StoredEncoding>,
    /// Grid surveys of the tensors that [`to_survey`](crate::to_survey) lists, by tensor index.
    pub surveys: HashMap<usize, GridSurvey>,
    /// The adapters that are merged into the checkpoint, in order.
    pub adapters: Vec<AdapterEntry>,
    /// The tensors that they change, by index.
    pub adapted: HashSet<usize>,
}

impl<'a> Shards<'a> {
    /// The locations in an open checkpoint. Does no I/O.
    pub fn of(checkpoint: &'a Checkpoint) -> Shards<'a> {
        let tensors = checkpoint.tensors();
        let files = checkpoint.shards().iter().map(|s| InputFile { name: s.name.clone(), bytes: s.len });
        Shards {
            files: files.collect(),
            tensors,
            pieces: (0..tensors.len()).map(|index| checkpoint.pieces(index).to_vec()).collect(),
            encodings: (0..tensors.len()).filter_map(|i| Some((i, checkpoint.encoding(i)?))).collect(),
            surveys: HashMap::new(),
            adapters: checkpoint.adapters().iter().map(AdapterEntry::new).collect(),
            adapted: (0..tensors.len()).filter(|index| checkpoint.is_adapted(*index)).collect(),
        }
    }
}

/// Plans all `requests` for one pass over the checkpoint.
///
/// # Errors
/// `Recipe` for a rule or a value without effect or two outputs with the same name, and errors of the containers.
pub fn plan(model: &ModelSpec, shards: &Shards<'_>, requests: &[Request]) -> Result<Plan> {
    model.check_sampling()?;
    let mut artifacts: Vec<_> = requests
        .iter()
        .map(|request| {
            let format = request.recipe.output.format;
            let artifact = match format {
                Format::Mmproj | Format::Safetensors if model.keys.is_some() => {
                    return Err(without_folder(request, format));
                }
                Format::Gguf => gguf::artifact,
                Format::Mmproj => mmproj::artifact,
                Format::Safetensors => safetensors::artifact,
            };
            artifact(model, shards, request).map_err(|e| e.within(format!("recipe {}", request.name)))
        })
        .collect::<Result<_>>()?;
    distinct(&artifacts)?;
    let mut dropped: Vec<_> =
        model.inventory.dropped.iter().map(|d| dropped(shards, d.index, d.reason)).collect();
    // a tensor that one artifact contains is dropped by the other artifacts only
    if requests.iter().any(|request| request.recipe.holds_towers()) {
        let others =
            artifacts.iter_mut().zip(requests).filter(|(_, r)| r.recipe.output.format == Format::Gguf);
        others.for_each(|(artifact, _)| artifact.dropped.extend_from_slice(&dropped));
        dropped.clear();
    } else if requests.iter().all(|request| request.recipe.text_only) {
        dropped.clear(); // each artifact gives the reasons itself
    }
    Ok(Plan {
        variant: model.config.variant(),
        architecture: model.config.architecture.clone(),
        inputs: shards.files.clone(),
        adapters: shards.adapters.clone(),
        notes: model.notes.clone(),
        artifacts,
        dropped,
        target: None,
    })
}

/// Refuses two files with the same name.
pub(crate) fn distinct(artifacts: &[Artifact]) -> Result<()> {
    let mut names = HashSet::new();
    match artifacts.iter().flat_map(|artifact| &artifact.files).find(|file| !names.insert(&file.name)) {
        Some(twice) => Err(Error::recipe(&twice.name, "two outputs have this name").help(
            "Give each recipe once, or one of them another name. Two of safetensors need two folders.",
        )),
        None => Ok(()),
    }
}

pub(crate) fn dropped(shards: &Shards<'_>, index: usize, reason: &'static str) -> Dropped {
    let tensor = &shards.tensors[index];
    Dropped { tensor: tensor.name.clone(), bytes: tensor.byte_len(), reason }
}

/// The error for an output that a GGUF has not the contents for.
fn without_folder(request: &Request, format: Format) -> Error {
    let needs = match format {
        Format::Mmproj => "image and audio towers",
        _ => "config.json and the tokenizer files",
    };
    Error::recipe(
        format!("recipe {}", request.name),
        format!("needs {needs}, which the GGUF of a text model does not have"),
    )
    .expected("the folder of a checkpoint", "a GGUF file")
    .help("Give the checkpoint, or a recipe or type for a GGUF of the text model.")
}

/// The tensors to write, and those that the recipe leaves out.
pub(crate) fn unused_kv<'m>(
    model: &'m ModelSpec,
    shards: &Shards<'_>,
    recipe: &Recipe,
    notes: &mut Vec<String>,
) -> (Vec<&'m Found>, Vec<Dropped>) {
    let text = &model.inventory.text;
    let (unused, used): (Vec<_>, Vec<_>) = text.iter().partition(|found| found.slot.unused);
    if recipe.unused_kv == UnusedKv::Drop {
        return (used, unused.iter().map(|found| dropped(shards, found.index, UNUSED_KV)).collect());
    }
    if !unused.is_empty() {
        let bytes: u64 = unused.iter().map(|found| shards.tensors[found.index].byte_len()).sum();
        notes.push(format!(
            "{} K/V tensors of KV-shared layers ({bytes} bytes in the checkpoint) are kept though no layer reads them, \
             as llama.cpp's converter does; ‹set› unused_kv=drop leaves them out",
            unused.len()
        ));
    }
    (text.iter().collect(), Vec::new())
}

/// The location of a checkpoint tensor, rounded to `via` before encoding.
pub(crate) fn stored(shards: &Shards<'_>, index: usize, via: Option<DType>) -> StoredTensor {
    let tensor = &shards.tensors[index];
    let dtype = shards.encodings.get(&index).map_or(tensor.dtype, |encoding| encoding.dtype);
    // rows are whole blocks: the description was checked, and encodings have blocks of one element
    let row_bytes = dtype.row_bytes(tensor.cols()).unwrap_or(0);
    let piece = |piece: &Piece| StoredPiece {
        file: piece.location.shard,
        offset: piece.location.offset,
        bytes: piece.packed.map_or(piece.rows * row_bytes, |packed| packed.bytes),
        packed_rows: piece.packed.map(|_| piece.rows),
        scale: piece.scale.filter(|_| piece.packed.is_none()).map(|scale| StoredScale {
            dtype: scale.dtype,
            file: scale.location.shard,
            offset: scale.location.offset,
            per_row: scale.per_row,
        }),
    };
    StoredTensor {
        tensor: tensor.name.clone(),
        dtype,
        pieces: Pieces::new(shards.pieces[index].iter().map(piece).collect()),
        via,
        uses_imatrix: false,
        lattice: None,
        change: None,
    }
}

/// The sparsely accessed weights in the files. A class that this model does not have is noted.
pub(crate) fn offloaded(
    model: &ModelSpec,
    recipe: &Recipe,
    files: &[PlannedFile],
    notes: &mut Vec<String>,
) -> Result<Vec<Offloaded>> {
    let mut found = Vec::new();
    for (class, name) in recipe.output.offload_classes()?.into_iter().zip(&recipe.output.offload) {
        match class.of(&model.config, files.iter().flat_map(|file| &file.tensors)) {
            Some(offloaded) => found.push(offloaded),
            None => notes.push(format!("nothing to offload as {name:?}: this model has no such weights")),
        }
    }
    Ok(found)
}
