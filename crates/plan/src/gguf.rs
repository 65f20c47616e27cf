//! Planning a GGUF: the tensors of an artifact, their types and offsets.

use std::collections::{BTreeMap, HashMap};

use gemma::{Attention, Found, KeySources, ModelSpec, Parameters};
use gguf::{Layout, Metadata, SplitBy};
use tensor::{DType, Error, Result, TensorDesc};

use crate::artifact::{Artifact, Origin, OutputTensor, PlannedFile};
use crate::digests::{self, TENSOR_DIGESTS};
use crate::grid::OnLattice;
use crate::imatrix::ImatrixMatcher;
use crate::masked_embedding::{self, Head};
use crate::offload::set_id;
use crate::output::Format;
use crate::presets::{Place, Preset};
use crate::recipe::{Recipe, Via};
use crate::request::{Request, Shards, offloaded, stored, unused_kv};
use crate::rules::{Decision, Rules};

/// The GGUF key that names the method of calibrated quantization.
pub const CALIBRATION: &str = "gemma-convert.calibration.method";

/// A tensor of an artifact before it has a file and an offset.
pub(crate) struct Chosen {
    pub(crate) desc: TensorDesc,
    pub(crate) role: &'static str,
    pub(crate) layer: Option<usize>,
    pub(crate) why: String,
    pub(crate) free: bool,
    pub(crate) from: Origin,
}

pub(crate) fn artifact(model: &ModelSpec, shards: &Shards<'_>, request: &Request) -> Result<Artifact> {
    let recipe = &request.recipe;
    if recipe.budget.is_some() {
        return Err(Error::recipe(
            "budget",
            "the choice of types needs sensitivities, and none are given",
        )
        .help(
            "Give ‹sensitivity›, or a ‹text› to measure it on. The types of an existing artifact are in its manifest.",
        ));
    }
    let preset = Preset::named(&recipe.types.preset)?;
    let mut notes = model.config.check_gguf()?;
    notes.extend(model.gguf_notes());
    let (found, mut dropped) = unused_kv(model, shards, recipe, &mut notes);
    let Head { config, found, kept } =
        masked_embedding::head(model, shards, recipe, found, &mut dropped, &mut notes);
    let parameters = parameters(model, &found);
    let found = found.into_iter().chain(kept).collect();
    let mut chosen = choose(model, shards, request, preset, found, &mut notes)?;
    notes.extend(requantised(chosen.iter().map(|chosen| (&chosen.from, chosen.desc.dtype))));
    if model.keys.is_none() && model.config.attention.contains(&Attention::Full) {
        chosen.push(rope_freqs(model)?);
    }
    // llama-quantize's order: the model's own tensors first, then block by block, bytewise by name
    chosen.sort_by(|a, b| (a.layer, &a.desc.name).cmp(&(b.layer, &b.desc.name)));

    let (names, kv, file_type) = (&recipe.metadata, &recipe.kv, preset.file_type);
    let mut metadata = match &model.keys {
        Some(keys) => gemma::metadata_of_gguf(keys, config.kind, names, kv, file_type)?,
        None => {
            let sources = KeySources { config: &config, ..KeySources::of(model, names, kv, parameters) };
            gemma::metadata(&sources, file_type)?
        }
    };
    if let Some(given) = &request.importance {
        given.source.keys.append(&mut metadata);
    }
    if let Some(calibration) = &recipe.calibration {
        calibration.check(config.layers())?;
        metadata.append(CALIBRATION, calibration.method.name());
        metadata.append(TENSOR_DIGESTS, digests::unknown(chosen.iter().map(|chosen| &chosen.desc)));
    }
    let files = lay_out(model, &metadata, chosen, request)?;
    notes.sort();
    notes.dedup();
    let offloaded = offloaded(model, recipe, &files, &mut notes)?;
    Ok(Artifact {
        recipe: request.name.clone(),
        format: Format::Gguf,
        preset: &preset.name,
        files,
        offloaded,
        importance: request.importance.as_ref().map(|given| given.source.clone()),
        allocation: request.allocation.clone(),
        calibration: recipe.calibration.clone(),
        dropped,
        notes,
    })
}

/// Chooses the type of every tensor of the checkpoint.
fn choose(
    model: &ModelSpec,
    shards: &Shards<'_>,
    request: &Request,
    preset: &'static Preset,
    mut found: Vec<&Found>,
    notes: &mut Vec<String>,
) -> Result<Vec<Chosen>> {
    let (config, recipe) = (&model.config, &request.recipe);
    // calibration data imply an imatrix, so the preset chooses the same types as with one
    let importance = request.importance.is_some() || recipe.calibration.is_some();
    let mut matcher = ImatrixMatcher::new(request.importance.as_ref());
    let mut rules = Rules::new(recipe, preset, Some(config))?;
    let mut lattice = OnLattice::new(recipe, preset, shards);
    // presets count value projections in file order
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
            rules.choose(slot, place, source, lattice.keeps(*index, slot.role).is_some(), notes)?;
        let desc = TensorDesc::new(&slot.gguf, dtype, gguf::ggml_shape(&slot.shape))?;
        let mut stored = stored(shards, *index, via(model, source, dtype, recipe));
        if let Some((kept, reason)) = lattice.sees(*index, slot.role, dtype) {
            // the grid is compared with BF16 values
            (stored.lattice, stored.via) = (Some(kept), (source != DType::BF16).then_some(DType::BF16));
            why = reason;
        }
        if let Some(matcher) = &mut matcher {
            stored.uses_imatrix = matcher.applies_to(&desc, slot.role, stored.lattice.is_some())?;
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
    matcher.map_or(Ok(()), |matcher| matcher.finish(notes))?;
    Ok(chosen)
}

/// Weights that are not BF16 are rounded to it before quantization, unless the recipe sets `via = "none"`. A GGUF is already the
/// file between the two steps of llama.cpp.
fn via(model: &ModelSpec, source: DType, target: DType, recipe: &Recipe) -> Option<DType> {
    let rounds = model.keys.is_none()
        && recipe.types.via == Via::Bf16
        && target.is_quantized()
        && source != DType::BF16;
    rounds.then_some(DType::BF16)
}

/// A warning about weights that are rounded though they are quantized in the source, to fewer bits than Q8_0 has.
pub(crate) fn requantised<'a>(chosen: impl Iterator<Item = (&'a Origin, DType)>) -> Option<String> {
    let mut found: BTreeMap<DType, usize> = BTreeMap::new();
    for (from, dtype) in chosen {
        let Origin::Checkpoint(stored) = from else { continue };
        if is_below_q8_0(stored.dtype) && dtype != stored.dtype {
            *found.entry(stored.dtype).or_default() += 1;
        }
    }
    if found.is_empty() {
        return None;
    }
    let types: Vec<_> = found.iter().map(|(dtype, count)| format!("{count} in {dtype}")).collect();
    Some(format!(
        "tensors of the source are already quantized to fewer bits than Q8_0 has ({}): their rounding errors stay, and the errors of \
         this conversion add to them. Convert the checkpoint, or a BF16 or Q8_0 file of it",
        types.join(", ")
    ))
}

/// Whether a type has fewer bits a weight than Q8_0.
fn is_below_q8_0(dtype: DType) -> bool {
    let bits = |dtype: DType| dtype.block_bytes() * DType::Q8_0.block_len() / dtype.block_len();
    dtype.is_quantized() && bits(dtype) < DType::Q8_0.block_bytes()
}

/// The only tensor that is not in the checkpoint: the frequency factors of RoPE in full-attention layers.
fn rope_freqs(model: &ModelSpec) -> Result<Chosen> {
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

fn parameters(model: &ModelSpec, found: &[&Found]) -> Parameters {
    let rope_freqs = [model.config.rope_freqs().len() as u64];
    let shapes = found.iter().map(|found| &found.slot.shape[..]).chain([&rope_freqs[..]]);
    Parameters::of(shapes, model.config.experts.unwrap_or(0))
}

/// Assigns a file and an offset to every tensor.
fn lay_out(
    model: &ModelSpec,
    metadata: &Metadata,
    chosen: Vec<Chosen>,
    request: &Request,
) -> Result<Vec<PlannedFile>> {
    let Request { recipe, stem, .. } = request;
    let classes = recipe.output.offload_classes()?;
    let (last, first): (Vec<&Chosen>, Vec<&Chosen>) =
        chosen.iter().partition(|c| classes.iter().any(|class| class.holds(c.role)));
    let descs = |chosen: Vec<&Chosen>| chosen.into_iter().map(|c| c.desc.clone()).collect::<Vec<_>>();
    let max = recipe.output.split_max_bytes()?;
    let is_split = max.is_some() || !last.is_empty();
    // offloaded tensors have parts of their own, at the end
    let mut groups = Vec::new();
    for tensors in [first, last].into_iter().filter(|tensors| !tensors.is_empty()) {
        match max {
            Some(max) => groups.extend(gguf::group(descs(tensors), SplitBy::Bytes(max))?),
            None => groups.push(descs(tensors)),
        }
    }
    files(metadata, groups, is_split, stem, &|| set_id(model, request), chosen)
}

/// The files of a GGUF: one, or one part for each group of tensors. `set` is the id of the set, `chosen` has the tensors of all groups.
pub(crate) fn files(
    metadata: &Metadata,
    groups: Vec<Vec<TensorDesc>>,
    is_split: bool,
    stem: &str,
    set: &dyn Fn() -> String,
    chosen: Vec<Chosen>,
) -> Result<Vec<PlannedFile>> {
    let parts = layouts(metadata, groups, is_split, stem, set)?;
    let mut by_name: HashMap<String, Chosen> = chosen.into_iter().map(|c| (c.desc.name.clone(), c)).collect();
    let files = parts.into_iter().map(|(name, layout)| PlannedFile {
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

/// Names and contents of the files.
fn layouts(
    metadata: &Metadata,
    mut groups: Vec<Vec<TensorDesc>>,
    is_split: bool,
    stem: &str,
    set: &dyn Fn() -> String,
) -> Result<Vec<(String, Layout)>> {
    if !is_split {
        let tensors = groups.drain(..).flatten().collect();
        return Ok(vec![(format!("{stem}.gguf"), Layout::new(metadata, tensors)?)]);
    }
    let parts = gguf::parts(metadata, groups)?;
    let count = parts.len();
    // parts of two conversions may have the same names and tensors: the id tells them apart
    let set = (count > 1).then(set);
    let layouts = parts.into_iter().enumerate().map(|(i, mut part)| {
        if let Some(set) = &set {
            part.metadata.append(gguf::SET, set.as_str());
        }
        Ok((gguf::part_name(stem, i + 1, count), Layout::new(&part.metadata, part.tensors)?))
    });
    layouts.collect()
}
