//! Planning an mmproj file: the towers of a checkpoint in a GGUF of its own, as `convert_hf_to_gguf.py --mmproj` writes it.
//!
//! Tensors stand in the order of the checkpoint's files, within a file by name. Norms, convolutions, position tables and bounds are F32
//! in every file; the recipe's preset gives the type of matrices.

use std::collections::HashSet;

use gemma::towers::{TowerSlot, TowerTensor, Towers};
use gemma::{KeySources, MmprojSources, ModelSpec, Parameters};
use gguf::{Layout, Metadata};
use tensor::{Error, Result, TensorDesc};

use crate::artifact::{Artifact, Origin, OutputTensor, PlannedFile, StoredChange};
use crate::output::Format;
use crate::presets::Preset;
use crate::recipe::Gelu;
use crate::request::{Request, Shards, dropped, stored};
use crate::rules::Rules;

const OTHER_MODEL: &str = "of the text model, which has a file of its own";
pub(crate) const QUICK_GELU: &str = "llama.cpp computes quick-GELU in the image tower, as for every file of its converter; the model was trained \
     with tanh-GELU (‹set› mmproj.gelu=exact)";
const NO_TOWER: &str = "of no image or audio tower";

/// Plans the file of one recipe.
///
/// # Errors
/// `Recipe` for a rule without effect; `Unsupported` for a model without an image tower; `Malformed` for missing or unknown tensors of
/// towers and for a missing processor config.
pub(crate) fn artifact(model: &ModelSpec, shards: &Shards<'_>, request: &Request) -> Result<Artifact> {
    let recipe = &request.recipe;
    check(request)?;
    let towers = towers(model)?;
    model.check_processor(&towers)?;
    let found = in_order(&towers, shards)?;
    let preset = Preset::named(&recipe.types.preset)?;
    let mut rules = Rules::new(recipe, preset, Some(&model.config))?;
    let mut notes = Vec::new();
    let mut tensors = Vec::with_capacity(found.len());
    for TowerTensor { slot, index } in &found {
        let mut tensor = tensor(shards, *index, slot, &mut rules, &mut notes)?;
        if let (Some(kind), Origin::Checkpoint(stored)) = (slot.change, &mut tensor.from) {
            stored.change = kind.moves_values().then(|| StoredChange { kind, shape: slot.shape.clone() });
        }
        tensors.push(tensor);
    }
    rules.finish()?;
    notes.extend(model.config.image_note());
    if towers.vision.is_some() && recipe.mmproj.gelu == Gelu::Stock {
        notes.push(QUICK_GELU.to_owned());
    }

    let elements = tensors.iter().map(|tensor| tensor.desc.elements());
    let parameters = Parameters { shared: elements.sum(), ..Parameters::default() };
    let metadata = gemma::mmproj_metadata(
        &MmprojSources {
            general: &KeySources::of(model, &recipe.metadata, &recipe.kv, parameters),
            towers: &towers,
            json: &model.json,
            image_processor: model.image_processor(),
            exact_gelu: recipe.mmproj.gelu == Gelu::Exact,
        },
        preset.file_type,
    )?;
    Ok(Artifact {
        dropped: left_out(model, shards, &found),
        ..laid_out(request, preset, &metadata, tensors, notes)?
    })
}

/// Refuses an imatrix.
pub(crate) fn check(request: &Request) -> Result<()> {
    let Some(given) = &request.importance else { return Ok(()) };
    Err(Error::recipe(format!("importance {}", given.source.keys.file), "has no effect on an mmproj file")
        .help("An imatrix has entries for the text model only."))
}

/// The artifact with these tensors, in this order.
pub(crate) fn laid_out(
    request: &Request,
    preset: &'static Preset,
    metadata: &Metadata,
    mut tensors: Vec<OutputTensor>,
    mut notes: Vec<String>,
) -> Result<Artifact> {
    let layout = Layout::new(metadata, tensors.iter().map(|tensor| tensor.desc.clone()).collect())?;
    for (tensor, placed) in tensors.iter_mut().zip(&layout.tensors) {
        tensor.offset = placed.offset;
    }
    notes.sort();
    notes.dedup();
    Ok(Artifact {
        recipe: request.name.clone(),
        format: Format::Mmproj,
        preset: &preset.name,
        files: vec![PlannedFile {
            name: format!("{}.gguf", request.stem),
            bytes: layout.len,
            header: layout.header,
            copy: None,
            tensors,
        }],
        offloaded: Vec::new(),
        importance: None,
        allocation: None,
        calibration: None,
        dropped: Vec::new(),
        notes,
    })
}

/// The tensors of the image and audio parts of a checkpoint, in the order of the mmproj file.
///
/// # Errors
/// `Unsupported` for a model without an image tower and for a tensor that no tower has; `Malformed` for a missing tensor or a wrong shape.
pub fn tower_tensors(model: &ModelSpec, shards: &Shards<'_>) -> Result<Vec<TowerTensor>> {
    in_order(&towers(model)?, shards)
}

fn in_order(towers: &Towers, shards: &Shards<'_>) -> Result<Vec<TowerTensor>> {
    let mut found = towers.find(shards.tensors)?;
    // the order within a file is that of `find`
    found.sort_by_key(|tensor| shards.pieces[tensor.index].first().map(|piece| piece.location.shard));
    Ok(found)
}

/// The image and audio parts of the model.
fn towers(model: &ModelSpec) -> Result<Towers> {
    let towers = Towers::from_json(&model.json, &model.config)?;
    let towers = towers.filter(Towers::reads_images).ok_or_else(|| {
        Error::unsupported("mmproj", "this checkpoint has no image tower")
            .expected("a vision_config in config.json", "none")
            .help("A text-only fine-tune needs none: use the mmproj file of the original model with it.")
    })?;
    towers.check_mmproj()?;
    Ok(towers)
}

/// The planned output of a tensor whose values stay, without an offset.
pub(crate) fn tensor(
    shards: &Shards<'_>,
    index: usize,
    slot: &TowerSlot,
    rules: &mut Rules<'_>,
    notes: &mut Vec<String>,
) -> Result<OutputTensor> {
    let shape = slot.mmproj_shape();
    let decision = rules.choose_tower(&slot.gguf, slot.store, &shape, notes)?;
    let desc = TensorDesc::new(&slot.gguf, decision.dtype, shape)?;
    Ok(OutputTensor {
        bytes: desc.byte_len(),
        desc,
        role: slot.role,
        layer: slot.layer,
        offset: 0,
        why: decision.why,
        free: decision.free,
        from: Origin::Checkpoint(stored(shards, index, None)),
    })
}

/// The tensors of the checkpoint that the file does not hold.
fn left_out(model: &ModelSpec, shards: &Shards<'_>, found: &[TowerTensor]) -> Vec<crate::Dropped> {
    let used: HashSet<usize> = found.iter().map(|tensor| tensor.index).collect();
    let text = model.inventory.text.iter().map(|tensor| (tensor.index, OTHER_MODEL));
    let others = model.inventory.dropped.iter().filter(|other| !used.contains(&other.index));
    text.chain(others.map(|other| (other.index, NO_TOWER)))
        .map(|(index, reason)| dropped(shards, index, reason))
        .collect()
}
