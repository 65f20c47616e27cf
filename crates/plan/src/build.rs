//! Making a plan: which tensors go into each artifact, in which type and where.

use std::collections::{HashMap, HashSet};

use gemma::{Attention, Found, KeySources, Model, Parameters};
use gguf::{Layout, Metadata, SplitBy};
use tensor::{DType, Error, Result, TensorDesc};

use crate::presets::{Place, Preset};
use crate::recipe::{Recipe, UnusedKv, Via};
use crate::rules::Rules;
use crate::types::{Artifact, Dropped, InputFile, Origin, OutputFile, OutputTensor, Plan, Stored};

/// One thing to make.
#[derive(Clone, Debug)]
pub struct Request {
    /// The recipe's name.
    pub name: String,
    /// The recipe.
    pub recipe: Recipe,
    /// The name of the file without `.gguf`.
    pub stem: String,
}

/// Where the checkpoint's tensors are.
#[derive(Clone, Debug)]
pub struct Shards<'a> {
    /// The files, in the order in which they are to be read.
    pub files: Vec<InputFile>,
    /// All tensors.
    pub tensors: &'a [TensorDesc],
    /// File and offset of each tensor.
    pub places: Vec<(usize, u64)>,
}

const UNUSED_KV: &str = "K/V of a layer that reads another layer's: never used (unused_kv = \"drop\")";

/// Plans all `requests` over one reading of the checkpoint.
///
/// # Errors
/// `Recipe` for a rule or a value that cannot take effect or two outputs of one name, and what the containers refuse.
pub fn plan(model: &Model, shards: &Shards<'_>, requests: &[Request]) -> Result<Plan> {
    let artifacts: Vec<_> = requests
        .iter()
        .map(|request| {
            artifact(model, shards, request).map_err(|e| e.within(format!("recipe {}", request.name)))
        })
        .collect::<Result<_>>()?;
    let mut names = HashSet::new();
    if let Some(twice) = artifacts.iter().flat_map(|a| &a.files).find(|file| !names.insert(&file.name)) {
        return Err(Error::recipe(&twice.name, "two outputs have this name")
            .help("Give each recipe once, or one of them another name."));
    }
    let dropped = model.inventory.dropped.iter().map(|d| dropped(shards, d.index, d.reason)).collect();
    Ok(Plan {
        variant: model.config.variant(),
        architecture: model.config.architecture.clone(),
        inputs: shards.files.clone(),
        artifacts,
        dropped,
    })
}

fn dropped(shards: &Shards<'_>, index: usize, reason: &'static str) -> Dropped {
    let tensor = &shards.tensors[index];
    Dropped { tensor: tensor.name.clone(), bytes: tensor.byte_len(), reason }
}

/// A tensor of an artifact, without its place.
struct Chosen {
    desc: TensorDesc,
    role: &'static str,
    layer: Option<usize>,
    why: String,
    from: Origin,
}

fn artifact(model: &Model, shards: &Shards<'_>, request: &Request) -> Result<Artifact> {
    let recipe = &request.recipe;
    let preset = Preset::named(&recipe.types.preset)?;
    let mut notes = Vec::new();
    let (found, dropped) = unused_kv(model, shards, recipe, &mut notes);
    let parameters = parameters(model, &found);
    let mut chosen = choose(model, shards, recipe, preset, found, &mut notes)?;
    if model.config.attention.contains(&Attention::Full) {
        chosen.push(rope_freqs(model)?);
    }
    // llama-quantize's order: the model's own first, then block by block, bytewise by name
    chosen.sort_by(|a, b| (a.layer, &a.desc.name).cmp(&(b.layer, &b.desc.name)));

    let metadata = gemma::metadata(
        &KeySources {
            config: &model.config,
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
    let files = lay_out(&metadata, chosen, recipe, &request.stem)?;
    notes.sort();
    notes.dedup();
    Ok(Artifact { recipe: request.name.clone(), preset: &preset.name, files, dropped, notes })
}

/// The tensors to write, and those that the recipe leaves out.
fn unused_kv<'m>(
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
    recipe: &Recipe,
    preset: &'static Preset,
    mut found: Vec<&Found>,
    notes: &mut Vec<String>,
) -> Result<Vec<Chosen>> {
    let config = &model.config;
    let mut rules = Rules::new(recipe, preset, config)?;
    // the n-th value projection is counted in the order of the file
    found.sort_by(|a, b| (a.slot.layer, &a.slot.gguf).cmp(&(b.slot.layer, &b.slot.gguf)));
    let values = found.iter().filter(|f| f.slot.role == "attn_v").count();
    let mut value = 0;
    let mut chosen = Vec::with_capacity(found.len() + 1);
    for Found { slot, index } in found {
        let mut place = Place { index: slot.layer.unwrap_or(0), count: config.layers(), importance: false };
        if slot.role == "attn_v" {
            place = Place { index: value, count: values, ..place };
            value += 1;
        }
        let (dtype, why) = rules.choose(slot, place, shards.tensors[*index].dtype, notes)?;
        chosen.push(Chosen {
            desc: TensorDesc::new(&slot.gguf, dtype, gguf::ggml_shape(&slot.shape))?,
            role: slot.role,
            layer: slot.layer,
            why,
            from: Origin::Checkpoint(stored(shards, *index, dtype, recipe)),
        });
    }
    rules.finish()?;
    Ok(chosen)
}

fn stored(shards: &Shards<'_>, index: usize, target: DType, recipe: &Recipe) -> Stored {
    let tensor = &shards.tensors[index];
    let (file, offset) = shards.places[index];
    let rounds = recipe.types.via == Via::Bf16 && target.is_quantized() && tensor.dtype != DType::BF16;
    Stored {
        tensor: tensor.name.clone(),
        dtype: tensor.dtype,
        file,
        offset,
        bytes: tensor.byte_len(),
        via: rounds.then_some(DType::BF16),
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

/// Gives every tensor its file and offset.
fn lay_out(metadata: &Metadata, chosen: Vec<Chosen>, recipe: &Recipe, stem: &str) -> Result<Vec<OutputFile>> {
    let descs = chosen.iter().map(|c| c.desc.clone()).collect();
    let parts = match recipe.output.split_max_bytes()? {
        None => vec![(format!("{stem}.gguf"), Layout::new(metadata, descs)?)],
        Some(max) => {
            let parts = gguf::split(metadata, descs, SplitBy::Bytes(max))?;
            let count = parts.len();
            let layouts = parts.into_iter().enumerate().map(|(i, part)| {
                Ok((gguf::part_name(stem, i + 1, count), Layout::new(&part.metadata, part.tensors)?))
            });
            layouts.collect::<Result<_>>()?
        }
    };
    let mut by_name: HashMap<String, Chosen> = chosen.into_iter().map(|c| (c.desc.name.clone(), c)).collect();
    let files = parts.into_iter().map(|(name, layout)| OutputFile {
        name,
        bytes: layout.len,
        header: layout.header,
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
                    from: chosen.from,
                })
            })
            .collect(),
    });
    Ok(files.collect())
}
