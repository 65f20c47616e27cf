//! Making a plan: which tensors go into each artifact, in which type and where.

use std::collections::{HashMap, HashSet};

use checkpoint::{Checkpoint, Code, Piece};
use gemma::{Attention, Found, KeySources, Model, Parameters};
use gguf::{Layout, Metadata, SplitBy};
use quant::Survey;
use tensor::{DType, Error, Result, TensorDesc, TensorSource};

use crate::budget::Allocation;
use crate::digests::{self, TENSOR_DIGESTS};
use crate::draft::{self, Head};
use crate::lattice::OnLattice;
use crate::offload::{Offloaded, set_id};
use crate::output::Format;
use crate::presets::{Place, Preset};
use crate::recipe::{Recipe, UnusedKv, Via};
use crate::rules::{Decision, Rules};
use crate::safetensors;
use crate::steering::{Given, Steering};
use crate::types::{
    Artifact, Dropped, InputFile, Origin, OutputFile, OutputTensor, Pieces, Plan, Stored, StoredPiece,
    StoredScale,
};

/// One thing to make.
#[derive(Clone, Debug)]
pub struct Request {
    /// The recipe's name.
    pub name: String,
    /// The recipe.
    pub recipe: Recipe,
    /// The name of a GGUF without `.gguf`: see [`stem`](crate::stem).
    pub stem: String,
    /// What the rounding is to be steered by.
    pub importance: Option<Given>,
    /// What its types were chosen by, see [`allocate`](crate::allocate).
    pub allocation: Option<Allocation>,
}

impl Request {
    /// A recipe, with nothing known besides.
    pub fn new(name: impl Into<String>, recipe: Recipe, stem: impl Into<String>) -> Request {
        Request { name: name.into(), recipe, stem: stem.into(), importance: None, allocation: None }
    }
}

/// Where the checkpoint's tensors are.
#[derive(Clone, Debug)]
pub struct Shards<'a> {
    /// The files, in the order in which they are to be read.
    pub files: Vec<InputFile>,
    /// All tensors.
    pub tensors: &'a [TensorDesc],
    /// Where the rows of each tensor are.
    pub pieces: Vec<Vec<Piece>>,
    /// By number, the tensors that are not stored as they are presented.
    pub codes: HashMap<usize, Code>,
    /// By number, what a sample says of the tensors that [`to_survey`](crate::to_survey) asks about.
    pub surveys: HashMap<usize, Survey>,
}

impl<'a> Shards<'a> {
    /// Where the tensors of an open checkpoint are. Reads nothing.
    pub fn of(checkpoint: &'a Checkpoint) -> Shards<'a> {
        let tensors = checkpoint.tensors();
        let files = checkpoint.shards().iter().map(|s| InputFile { name: s.name.clone(), bytes: s.len });
        Shards {
            files: files.collect(),
            tensors,
            pieces: (0..tensors.len()).map(|index| checkpoint.pieces(index).to_vec()).collect(),
            codes: (0..tensors.len()).filter_map(|i| Some((i, checkpoint.code(i)?))).collect(),
            surveys: HashMap::new(),
        }
    }
}

/// The key of a GGUF that says how it was rounded for a text.
pub const CALIBRATION: &str = "gemma-convert.calibration.method";

const UNUSED_KV: &str = "K/V of a layer that reads another layer's: never used (unused_kv = \"drop\")";

/// Plans all `requests` over one reading of the checkpoint.
///
/// # Errors
/// `Recipe` for a rule or a value that cannot take effect or two outputs of one name, and what the containers refuse.
pub fn plan(model: &Model, shards: &Shards<'_>, requests: &[Request]) -> Result<Plan> {
    model.check_sampling()?;
    let mut artifacts: Vec<_> = requests
        .iter()
        .map(|request| {
            let artifact = match request.recipe.output.format {
                Format::Gguf => artifact,
                Format::Safetensors => safetensors::artifact,
            };
            artifact(model, shards, request).map_err(|e| e.within(format!("recipe {}", request.name)))
        })
        .collect::<Result<_>>()?;
    let mut names = HashSet::new();
    if let Some(twice) = artifacts.iter().flat_map(|a| &a.files).find(|file| !names.insert(&file.name)) {
        return Err(Error::recipe(&twice.name, "two outputs have this name").help(
            "Give each recipe once, or one of them another name. Two of safetensors need two folders.",
        ));
    }
    let mut dropped: Vec<_> =
        model.inventory.dropped.iter().map(|d| dropped(shards, d.index, d.reason)).collect();
    // what one artifact holds is only left out of the others
    if requests.iter().any(|request| request.recipe.holds_towers()) {
        let others =
            artifacts.iter_mut().zip(requests).filter(|(_, r)| r.recipe.output.format == Format::Gguf);
        others.for_each(|(artifact, _)| artifact.dropped.extend_from_slice(&dropped));
        dropped.clear();
    } else if requests.iter().all(|request| request.recipe.text_only) {
        dropped.clear(); // each artifact says why
    }
    Ok(Plan {
        variant: model.config.variant(),
        architecture: model.config.architecture.clone(),
        inputs: shards.files.clone(),
        notes: model.notes.clone(),
        artifacts,
        dropped,
        target: None,
    })
}

pub(crate) fn dropped(shards: &Shards<'_>, index: usize, reason: &'static str) -> Dropped {
    let tensor = &shards.tensors[index];
    Dropped { tensor: tensor.name.clone(), bytes: tensor.byte_len(), reason }
}

/// A tensor of an artifact, without its place.
struct Chosen {
    desc: TensorDesc,
    role: &'static str,
    layer: Option<usize>,
    why: String,
    free: bool,
    from: Origin,
}

pub(crate) fn artifact(model: &Model, shards: &Shards<'_>, request: &Request) -> Result<Artifact> {
    let recipe = &request.recipe;
    if recipe.budget.is_some() {
        return Err(Error::recipe(
            "budget",
            "types are chosen by what rounding costs, which is not known here",
        )
        .help(
            "Give --sensitivity, or a --text to measure it on. Of an artifact, its manifest has the types.",
        ));
    }
    let preset = Preset::named(&recipe.types.preset)?;
    let mut notes = model.config.check_gguf()?;
    notes.extend(model.gguf_notes());
    let (found, mut dropped) = unused_kv(model, shards, recipe, &mut notes);
    let Head { config, found, kept } = draft::head(model, shards, recipe, found, &mut dropped, &mut notes);
    let parameters = parameters(model, &found);
    let found = found.into_iter().chain(kept).collect();
    let mut chosen = choose(model, shards, request, preset, found, &mut notes)?;
    if model.config.attention.contains(&Attention::Full) {
        chosen.push(rope_freqs(model)?);
    }
    // llama-quantize's order: the model's own first, then block by block, bytewise by name
    chosen.sort_by(|a, b| (a.layer, &a.desc.name).cmp(&(b.layer, &b.desc.name)));

    let mut metadata = gemma::metadata(
        &KeySources {
            config: &config,
            vocabulary: &model.vocabulary,
            templates: &model.templates,
            generation: model.generation.as_ref(),
            card: &model.card,
            names: &recipe.metadata,
            overrides: &recipe.kv,
            parameters,
        },
        preset.file_type,
    )?;
    if let Some(given) = &request.importance {
        given.source.keys.append(&mut metadata);
    }
    if let Some(calibration) = &recipe.calibration {
        metadata.append(CALIBRATION, calibration.method.name());
        metadata.append(TENSOR_DIGESTS, digests::unknown(chosen.iter().map(|chosen| &chosen.desc)));
    }
    let files = lay_out(model, &metadata, chosen, request)?;
    notes.sort();
    notes.dedup();
    let offloaded = offloaded(model, recipe, &files, &mut notes)?;
    Ok(Artifact {
        recipe: request.name.clone(),
        preset: &preset.name,
        files,
        offloaded,
        importance: request.importance.as_ref().map(|given| given.source.clone()),
        allocation: request.allocation.clone(),
        dropped,
        notes,
    })
}

/// The tensors to write, and those that the recipe leaves out.
pub(crate) fn unused_kv<'m>(
    model: &'m Model,
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
             as llama.cpp's converter does; --set unused_kv=drop leaves them out",
            unused.len()
        ));
    }
    (text.iter().collect(), Vec::new())
}

/// Chooses the type of every tensor of the checkpoint.
fn choose(
    model: &Model,
    shards: &Shards<'_>,
    request: &Request,
    preset: &'static Preset,
    mut found: Vec<&Found>,
    notes: &mut Vec<String>,
) -> Result<Vec<Chosen>> {
    let (config, recipe) = (&model.config, &request.recipe);
    // a calibration knows at least as much as importance does, and gets the same types
    let importance = request.importance.is_some() || recipe.calibration.is_some();
    let mut steering = Steering::new(request.importance.as_ref());
    let mut rules = Rules::new(recipe, preset, config)?;
    let mut lattice = OnLattice::new(recipe, preset, &shards.surveys);
    // the n-th value projection is counted in the order of the file
    found.sort_by(|a, b| (a.slot.layer, &a.slot.gguf).cmp(&(b.slot.layer, &b.slot.gguf)));
    let values = found.iter().filter(|f| f.slot.role == "attn_v").count();
    let mut value = 0;
    let mut chosen = Vec::with_capacity(found.len() + 1);
    for Found { slot, index } in found {
        let mut place = Place { index: slot.layer.unwrap_or(0), count: config.layers(), importance };
        if slot.role == "attn_v" {
            place = Place { index: value, count: values, ..place };
            value += 1;
        }
        let source = shards.tensors[*index].dtype;
        let Decision { dtype, mut why, free } =
            rules.choose(slot, place, source, lattice.keeps(*index), notes)?;
        let desc = TensorDesc::new(&slot.gguf, dtype, gguf::ggml_shape(&slot.shape))?;
        let mut stored = stored(shards, *index, via(shards, *index, dtype, recipe));
        if let Some(kept) = lattice.sees(*index, slot.role, dtype) {
            // what is compared is BF16
            (stored.lattice, stored.via) = (true, (source != DType::BF16).then_some(DType::BF16));
            why = kept;
        }
        if let Some(steering) = &mut steering {
            stored.steered = steering.steers(&desc, slot.role, stored.lattice)?;
        }
        chosen.push(Chosen {
            desc,
            role: slot.role,
            layer: slot.layer,
            why,
            free,
            from: Origin::Checkpoint(stored),
        });
    }
    rules.finish()?;
    lattice.finish(importance, notes)?;
    steering.map_or(Ok(()), |steering| steering.finish(notes))?;
    Ok(chosen)
}

/// Weights that are not BF16 are rounded to it before they are quantised, unless the recipe does without.
fn via(shards: &Shards<'_>, index: usize, target: DType, recipe: &Recipe) -> Option<DType> {
    let rounds =
        recipe.types.via == Via::Bf16 && target.is_quantized() && shards.tensors[index].dtype != DType::BF16;
    rounds.then_some(DType::BF16)
}

/// Where a tensor of the checkpoint is.
pub(crate) fn stored(shards: &Shards<'_>, index: usize, via: Option<DType>) -> Stored {
    let tensor = &shards.tensors[index];
    let dtype = shards.codes.get(&index).map_or(tensor.dtype, |code| code.dtype);
    let row_bytes = tensor.cols() * dtype.block_bytes() as u64;
    let piece = |piece: &Piece| StoredPiece {
        file: piece.location.shard,
        offset: piece.location.offset,
        bytes: piece.rows * row_bytes,
        scale: piece.scale.map(|scale| StoredScale {
            dtype: scale.dtype,
            file: scale.location.shard,
            offset: scale.location.offset,
            per_row: scale.per_row,
        }),
    };
    Stored {
        tensor: tensor.name.clone(),
        dtype,
        pieces: Pieces::new(shards.pieces[index].iter().map(piece).collect()),
        via,
        steered: false,
        lattice: false,
    }
}

/// The one tensor that is not in the checkpoint: how full-attention layers rotate.
fn rope_freqs(model: &Model) -> Result<Chosen> {
    let values = model.config.rope_freqs();
    Ok(Chosen {
        desc: TensorDesc::new("rope_freqs.weight", DType::F32, [values.len() as u64])?,
        role: "rope_freqs",
        layer: None,
        why: "generated from rope_parameters".to_owned(),
        free: false,
        from: Origin::Generated(values),
    })
}

fn parameters(model: &Model, found: &[&Found]) -> Parameters {
    let count = |found: &&Found| found.slot.shape.iter().product::<u64>();
    let (experts, shared): (Vec<_>, Vec<_>) = found.iter().partition(|f| f.slot.shape.len() >= 3);
    let number = model.config.experts.unwrap_or(0);
    Parameters {
        shared: shared.into_iter().map(count).sum::<u64>() + model.config.rope_freqs().len() as u64,
        one_expert: experts.into_iter().map(count).sum::<u64>() / number.max(1),
        experts: number,
    }
}

/// What of the files a token touches little of. A class that this model does not have is noted.
pub(crate) fn offloaded(
    model: &Model,
    recipe: &Recipe,
    files: &[OutputFile],
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

/// Gives every tensor its file and offset.
fn lay_out(
    model: &Model,
    metadata: &Metadata,
    chosen: Vec<Chosen>,
    request: &Request,
) -> Result<Vec<OutputFile>> {
    let Request { recipe, stem, .. } = request;
    let classes = recipe.output.offload_classes()?;
    let (last, first): (Vec<&Chosen>, Vec<&Chosen>) =
        chosen.iter().partition(|c| classes.iter().any(|class| class.holds(c.role)));
    let descs = |chosen: Vec<&Chosen>| chosen.into_iter().map(|c| c.desc.clone()).collect::<Vec<_>>();
    let max = recipe.output.split_max_bytes()?;
    let parts = if max.is_none() && last.is_empty() {
        vec![(format!("{stem}.gguf"), Layout::new(metadata, descs(first))?)]
    } else {
        // what is offloaded is in parts of its own, at the end
        let mut groups = Vec::new();
        for tensors in [first, last].into_iter().filter(|tensors| !tensors.is_empty()) {
            match max {
                Some(max) => groups.extend(gguf::group(descs(tensors), SplitBy::Bytes(max))?),
                None => groups.push(descs(tensors)),
            }
        }
        let parts = gguf::parts(metadata, groups)?;
        let count = parts.len();
        // parts of two conversions may have the same names and tensors
        let set = (count > 1).then(|| set_id(model, request));
        let layouts = parts.into_iter().enumerate().map(|(i, mut part)| {
            if let Some(set) = &set {
                part.metadata.append(gguf::SET, set.as_str());
            }
            Ok((gguf::part_name(stem, i + 1, count), Layout::new(&part.metadata, part.tensors)?))
        });
        layouts.collect::<Result<_>>()?
    };
    let mut by_name: HashMap<String, Chosen> = chosen.into_iter().map(|c| (c.desc.name.clone(), c)).collect();
    let files = parts.into_iter().map(|(name, layout)| OutputFile {
        name,
        bytes: layout.len,
        header: layout.header,
        copy: None,
        tensors: layout
            .tensors
            .into_iter()
            .filter_map(|placed| {
                let chosen = by_name.remove(&placed.desc.name)?;
                Some(OutputTensor {
                    bytes: placed.desc.byte_len(),
                    desc: placed.desc,
                    role: chosen.role,
                    layer: chosen.layer,
                    offset: placed.offset,
                    why: chosen.why,
                    free: chosen.free,
                    from: chosen.from,
                })
            })
            .collect(),
    });
    Ok(files.collect())
}
