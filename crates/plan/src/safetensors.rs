//! Planning a folder of safetensors: the checkpoint's tensors under their own names, some of them encoded.
//!
//! Shards are filled in checkpoint order, as in transformers, a weight and its scale together. Within a shard wide
//! types come first, as in the reference implementation of the format, so that every tensor is aligned.

use std::collections::BTreeMap;

use checkpoint::SafetensorsLayout;
use gemma::{ModelKind, ModelSpec, Slot};
use serde_json::{Map, Value as Json};
use tensor::{DType, Error, Result, TensorDesc};

use crate::artifact::{Artifact, Origin, OutputTensor, PlannedFile};
use crate::companions;
use crate::device_map::device_map;
use crate::offload::set_id;
use crate::output::Format;
use crate::request::{Request, Shards, dropped, offloaded, stored, unused_kv};
use crate::schemes::{Per, Rest, Scheme};

/// The role of tensors outside the text model. Their values are not examined.
pub const OTHER: &str = "other";

/// The prefix of the names of offloaded shards, before a dash.
pub const OFFLOAD: &str = "offload";

/// The file name of weights in a single file.
const SINGLE: &str = "model.safetensors";

const TEXT_ONLY: &str = "not of the text model (text_only)";

/// A tensor and its scale, before they have offsets.
struct Unit {
    tensor: OutputTensor,
    scale: Option<OutputTensor>,
}

/// Plans the files of one recipe.
///
/// # Errors
/// `Recipe` for a value without effect, and errors of the container.
pub(crate) fn artifact(model: &ModelSpec, shards: &Shards<'_>, request: &Request) -> Result<Artifact> {
    let recipe = &request.recipe;
    if let Some(given) = &request.importance {
        return Err(Error::recipe(
            format!("importance {}", given.source.keys.file),
            "has no effect on safetensors",
        )
        .expected("a GGUF output", "safetensors")
        .help(
            "An imatrix weights the quantization to GGUF's block types only. Make the two outputs in separate runs.",
        ));
    }
    let scheme = Scheme::named(recipe.types.scheme.as_deref().unwrap_or_default())?;
    let mut notes = Vec::new();
    let (found, mut left_out) = unused_kv(model, shards, recipe, &mut notes);

    let mut units = Vec::with_capacity(shards.tensors.len());
    for found in found {
        let name = match (recipe.text_only, found.slot.unprefixed()) {
            (true, true) => found.slot.hf.clone(),
            (true, false) => format!("model.{}", found.slot.hf),
            (false, _) => shards.tensors[found.index].name.clone(),
        };
        units.push((found.index, unit(shards, scheme, found.index, name, Some(&found.slot))?));
    }
    for other in &model.inventory.dropped {
        if recipe.text_only {
            left_out.push(dropped(shards, other.index, TEXT_ONLY));
        } else {
            let name = shards.tensors[other.index].name.clone();
            units.push((other.index, unit(shards, scheme, other.index, name, None)?));
        }
    }
    units.sort_by_key(|(index, _)| *index);
    note_experts(scheme, &units, &mut notes);

    let rounded = units.iter().any(|(index, unit)| unit.tensor.desc.dtype != shards.tensors[*index].dtype);
    let change = companions::Change {
        text_only: recipe.text_only && model.config.kind != ModelKind::Text,
        quantization: scheme.quantization_config.as_ref(),
        rounded: scheme.rest == Rest::Bf16 && rounded,
    };
    let mut files = companions::files(model, &change)?;
    let classes = recipe.output.offload_classes()?;
    let offload = |unit: &Unit| classes.iter().any(|class| class.holds(unit.tensor.role));
    let places: Vec<_> =
        units.iter().map(|(_, unit)| (unit.tensor.desc.name.as_str(), offload(unit))).collect();
    let map = device_map(&places);
    let (last, first): (Vec<_>, Vec<_>) = units.into_iter().map(|(_, unit)| unit).partition(offload);
    let max = recipe.output.max_shard_bytes()?;
    let mut metadata: Vec<_> = scheme.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let id = set_id(model, request);
    let sets = if last.is_empty() {
        vec![("model", fill(first, max))]
    } else {
        files.push(companions::json("device_map.json", &map));
        vec![("resident", fill(first, max)), (OFFLOAD, fill(last, max))]
    };
    if sets.iter().map(|(_, shards)| shards.len()).sum::<usize>() > 1 {
        metadata.push((checkpoint::SET, &id));
    }
    files.splice(0..0, weights(&metadata, sets)?);
    let offloaded = offloaded(model, recipe, &files, &mut notes)?;
    Ok(Artifact {
        recipe: request.name.clone(),
        format: Format::Safetensors,
        preset: &scheme.name,
        files,
        offloaded,
        importance: None,
        allocation: None,
        calibration: None,
        dropped: left_out,
        notes,
    })
}

/// The planned output of a checkpoint tensor. `slot` describes it if it belongs to the text model.
fn unit(
    shards: &Shards<'_>,
    scheme: &Scheme,
    index: usize,
    name: String,
    slot: Option<&Slot>,
) -> Result<Unit> {
    let source = &shards.tensors[index];
    let float = matches!(source.dtype, DType::F32 | DType::F16 | DType::BF16);
    // to keep an encoded tensor is to keep its values, and those were BF16
    let rounds = float && (scheme.rest == Rest::Bf16 || shards.encodings.contains_key(&index));
    let encoded = slot
        .and_then(|slot| scheme.encodes(slot))
        .filter(|_| source.shape.len() > 1 && source.elements() > 0);
    let (dtype, why) = match encoded {
        Some(dtype) => (dtype, "scheme"),
        None if rounds => (DType::BF16, "every float"),
        None => (source.dtype, "as it is"),
    };
    let (role, layer) = match slot {
        Some(slot) => (slot.role, slot.layer),
        None => (OTHER, None),
    };
    let output = |name: String, dtype, shape: &[u64], why: &str, from| {
        let desc = TensorDesc::new(name, dtype, shape)?;
        Result::Ok(OutputTensor {
            bytes: desc.byte_len(),
            desc,
            role,
            layer,
            offset: 0,
            why: why.to_owned(),
            free: false,
            from,
        })
    };
    let scale = match (encoded, &scheme.scale) {
        (Some(_), Some(rule)) => {
            let shape: &[u64] = match rule.per {
                Per::Tensor => &[],
                Per::Row => &[source.rows(), 1],
            };
            let from = Origin::Scales(name.clone());
            Some(output(format!("{name}{}", rule.suffix), rule.dtype, shape, "scale", from)?)
        }
        _ => None,
    };
    // scales per row are computed from BF16 weights: see crates/convert/src/fp8_scales.rs
    let rounded_first = scale.as_ref().is_some_and(|scale| scale.desc.dtype == DType::BF16);
    let via = (rounded_first && source.dtype != DType::BF16).then_some(DType::BF16);
    let from = Origin::Checkpoint(stored(shards, index, via));
    Ok(Unit { tensor: output(name, dtype, &source.shape, why, from)?, scale })
}

/// Notes that experts stay unquantized: they are most of a model.
fn note_experts(scheme: &Scheme, units: &[(usize, Unit)], notes: &mut Vec<String>) {
    let experts = units.iter().map(|(_, unit)| &unit.tensor);
    let experts = experts.filter(|t| t.role.ends_with("_exps") && t.why != "scheme");
    let bytes: u64 = experts.map(|t| t.bytes).sum();
    if scheme.scale.is_some() && bytes > 0 {
        notes.push(format!(
            "the experts ({bytes} bytes) stay as they are: transformers holds those of a layer in one tensor, which has \
             no place for scales in this scheme"
        ));
    }
}

/// Distributes tensors to shards, in order: a new shard begins where the next tensor would make the current one
/// larger than `max`.
fn fill(units: Vec<Unit>, max: u64) -> Vec<Vec<OutputTensor>> {
    let mut shards = vec![Vec::new()];
    let mut bytes = 0u64;
    for Unit { tensor, scale } in units {
        let size = tensor.bytes + scale.as_ref().map_or(0, |scale| scale.bytes);
        if bytes > 0 && bytes.saturating_add(size) > max {
            shards.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        let last = shards.len() - 1;
        shards[last].extend([Some(tensor), scale].into_iter().flatten());
    }
    shards
}

/// Lays out sets of shards. An index is added unless all tensors are in one file with the name that readers look for.
fn weights(metadata: &[(&str, &str)], sets: Vec<(&str, Vec<Vec<OutputTensor>>)>) -> Result<Vec<PlannedFile>> {
    let mut files = Vec::new();
    let mut map = BTreeMap::new();
    let (mut parameters, mut bytes) = (0u64, 0u64);
    for (set, shards) in sets {
        let count = shards.len();
        for (number, mut tensors) in shards.into_iter().enumerate() {
            let name = match (set, count) {
                ("model", 1) => SINGLE.to_owned(),
                _ => format!("{set}-{:05}-of-{count:05}.safetensors", number + 1),
            };
            tensors.sort_by_key(|t| std::cmp::Reverse(t.desc.dtype.block_bytes()));
            let descs: Vec<_> = tensors.iter().map(|t| t.desc.clone()).collect();
            let layout = SafetensorsLayout::new(&descs, metadata)?;
            for (tensor, offset) in tensors.iter_mut().zip(layout.offsets) {
                tensor.offset = offset;
                map.insert(tensor.desc.name.clone(), Json::from(name.as_str()));
                bytes += tensor.bytes;
                if !matches!(tensor.from, Origin::Scales(_)) {
                    parameters += tensor.desc.elements();
                }
            }
            files.push(PlannedFile { name, bytes: layout.len, header: layout.header, tensors, copy: None });
        }
    }
    if files.iter().any(|file| file.name != SINGLE) {
        let sizes = [("total_parameters", parameters), ("total_size", bytes)];
        let sizes: Map<_, _> = sizes.into_iter().map(|(key, n)| (key.to_owned(), Json::from(n))).collect();
        let index = Map::from_iter([
            ("metadata".to_owned(), Json::Object(sizes)),
            ("weight_map".to_owned(), Json::Object(map.into_iter().collect())),
        ]);
        files.push(companions::json("model.safetensors.index.json", &Json::Object(index)));
    }
    Ok(files)
}
