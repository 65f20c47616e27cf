//! The tensors of a checkpoint: roles, GGUF names, shapes, and which are left out.
//!
//! The tables are `formats/gemma4.tensors.toml` and, for draft models, `gemma4-assistant.tensors.toml`. This module
//! expands them over the layers of a config and compares them with a checkpoint. Every tensor is used or dropped with
//! a reason; any other tensor is an error.

use std::collections::HashMap;

use tensor::{DType, Error, Result, TensorDesc};

use crate::config::{Attention, Config, ModelKind};
use crate::formats::{self, TensorRow, TypePolicy};

/// A tensor that a text model with a given config has.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The role by llama.cpp's name: `attn_q`, `ffn_down`, …
    pub role: &'static str,
    /// The layer's index; `None` for a tensor outside the layers.
    pub layer: Option<usize>,
    /// Name in the checkpoint, without the prefix of the text model.
    pub hf: String,
    /// Name in a GGUF.
    pub gguf: String,
    /// Dimensions, slowest first.
    pub shape: Vec<u64>,
    /// The policy for its type.
    pub type_policy: TypePolicy,
    /// K/V of a KV-shared layer: it may be present, but no computation reads it.
    pub unused: bool,
    /// Whether llama.cpp applies adapters to it.
    pub(crate) lora: bool,
    pub(crate) unprefixed: bool,
}

impl Slot {
    /// Whether its name in a checkpoint has no prefix, because it is outside the text model, like the head.
    pub fn unprefixed(&self) -> bool {
        self.unprefixed
    }
}

/// A tensor of the text model, found in the checkpoint.
#[derive(Clone, Debug)]
pub struct Found {
    /// The tensor's description.
    pub slot: Slot,
    /// The tensor's index in the checkpoint.
    pub index: usize,
}

/// A tensor that is not part of the text model.
#[derive(Clone, Debug)]
pub struct Exclusion {
    /// The tensor's index in the checkpoint.
    pub index: usize,
    /// The reason.
    pub reason: &'static str,
}

/// All tensors of a checkpoint.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// The text model's tensors, in table order, layer by layer.
    pub text: Vec<Found>,
    /// All other tensors.
    pub dropped: Vec<Exclusion>,
}

/// All tensors that a text model with this config has or may have.
///
/// # Errors
/// `Malformed` if a size overflows.
pub(crate) fn slots(config: &Config) -> Result<Vec<Slot>> {
    let mut slots = Vec::new();
    let (of_layer, of_model): (Vec<_>, Vec<_>) =
        formats::tensors(config.kind).tensor.iter().partition(|row| row.hf.contains("{n}"));
    for row in of_model {
        slots.extend(slot(config, row, None)?);
    }
    for layer in 0..config.layers() {
        for row in &of_layer {
            slots.extend(slot(config, row, Some(layer))?);
        }
    }
    Ok(slots)
}

fn slot(config: &Config, row: &'static TensorRow, layer: Option<usize>) -> Result<Option<Slot>> {
    if !row.when.iter().all(|condition| holds(config, condition, layer)) {
        return Ok(None);
    }
    let named = |pattern: &str| layer.map_or(pattern.to_owned(), |n| pattern.replace("{n}", &n.to_string()));
    let shape = row.shape.iter().map(|dimension| size(config, dimension, layer)).collect::<Result<_>>()?;
    Ok(Some(Slot {
        role: &row.role,
        layer,
        hf: named(&row.hf),
        gguf: named(&row.gguf),
        shape,
        type_policy: row.store,
        unused: row.unused_when.as_deref().is_some_and(|condition| holds(config, condition, layer)),
        lora: row.lora,
        unprefixed: row.unprefixed,
    }))
}

/// Evaluates a condition of the table's `when` or `unused_when`.
fn holds(config: &Config, condition: &str, layer: Option<usize>) -> bool {
    match (condition, layer) {
        ("ple", _) => config.ple > 0,
        ("moe", _) => config.experts.is_some(),
        ("untied", _) => !config.tied,
        ("ordered", _) => config.ordered().is_some(),
        ("v", Some(n)) => !(config.k_eq_v && config.attention[n] == Attention::Full),
        ("shared_kv", Some(n)) => config.shares_kv(n),
        _ => unreachable!("formats/gemma4*.tensors.toml: condition {condition:?}; the table is tested"),
    }
}

/// Evaluates a dimension of the table's `shape`: a product of symbols and numbers.
fn size(config: &Config, expression: &str, layer: Option<usize>) -> Result<u64> {
    let symbol = |name: &str| match (name, layer) {
        ("vocab", _) => config.vocab,
        ("vocab_ple", _) => config.vocab_ple,
        ("hidden", _) => config.hidden,
        ("ple", _) => config.ple,
        ("layers", _) => config.layers() as u64,
        ("heads", _) => config.heads,
        ("experts", _) => config.experts.unwrap_or(0),
        ("expert_ffn", _) => config.expert_ffn.unwrap_or(0),
        ("backbone", _) => config.draft.as_ref().map_or(0, |draft| draft.backbone),
        ("centroids", _) => config.ordered().map_or(0, |ordered| ordered.centroids),
        ("kv_heads", Some(n)) => config.kv_heads_of(n),
        ("head_dim", Some(n)) => config.head_dim_of(n),
        ("ffn", Some(n)) => config.ffn_of(n),
        (number, _) => match number.parse() {
            Ok(number) => number,
            Err(_) => unreachable!("formats/gemma4*.tensors.toml: symbol {name:?}; the table is tested"),
        },
    };
    expression.split('*').map(symbol).try_fold(1u64, u64::checked_mul).ok_or_else(|| {
        Error::malformed("config.json", format!("the size {expression} does not fit into 64 bits"))
    })
}

/// Finds every tensor of the text model and accounts for the others. `file_of` returns the file of a tensor, by
/// index.
///
/// # Errors
/// `Malformed` for a missing tensor or a wrong shape, `Unsupported` for a tensor without a use or with elements other
/// than F32, F16 or BF16.
pub fn inventory(
    config: &Config,
    tensors: &[TensorDesc],
    file_of: &dyn Fn(usize) -> String,
) -> Result<Inventory> {
    let by_name: HashMap<&str, usize> =
        tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
    let slots = slots(config)?;
    let prefix = prefix(config, &slots, &by_name);

    let mut owner = vec![false; tensors.len()];
    let mut text = Vec::with_capacity(slots.len());
    let mut missing = Vec::new();
    for slot in slots {
        let name = if slot.unprefixed { slot.hf.clone() } else { format!("{prefix}{}", slot.hf) };
        let found = by_name.get(name.as_str()).copied();
        let found = found.or_else(|| (slot.role == "output").then(|| heads(tensors).next())?);
        match found {
            Some(index) => {
                check(&slot, &tensors[index]).map_err(|e| e.within(file_of(index)))?;
                owner[index] = true;
                text.push(Found { slot, index });
            }
            None if slot.unused => {}
            None => missing.push(name),
        }
    }
    complete(config, &missing).map_err(|e| {
        let unused =
            tensors.iter().zip(&owner).filter(|(tensor, owned)| !**owned && reason(config, tensor).is_err());
        let unused: Vec<_> = unused.map(|(tensor, _)| tensor.name.as_str()).collect();
        let all = tensors.iter().map(|tensor| tensor.name.as_str());
        let there = match missing.first() {
            Some(first) if unused.is_empty() => {
                format!(" The closest names in the checkpoint: {}.", closest(first, all))
            }
            Some(first) => {
                format!(" Unknown tensors in the checkpoint: {}.", closest(first, unused.into_iter()))
            }
            None => String::new(),
        };
        e.help(format!("Is config.json the one of this checkpoint, and is every shard there?{there}"))
    })?;

    let mut dropped = Vec::new();
    for (index, tensor) in tensors.iter().enumerate().filter(|&(index, _)| !owner[index]) {
        let reason = reason(config, tensor).map_err(|e| e.within(file_of(index)))?;
        dropped.push(Exclusion { index, reason });
    }
    Ok(Inventory { text, dropped })
}

/// The names under which checkpoints store a head.
const HEADS: [&str; 4] = [
    "lm_head.weight",
    "language_model.lm_head.weight",
    "model.lm_head.weight",
    "model.language_model.lm_head.weight",
];

/// The indices of the stored heads, the usual name first.
pub(crate) fn heads(tensors: &[TensorDesc]) -> impl Iterator<Item = usize> {
    HEADS.iter().filter_map(|name| tensors.iter().position(|tensor| tensor.name == *name))
}

/// The index of the embedding.
pub(crate) fn embedding(config: &Config, tensors: &[TensorDesc]) -> Option<usize> {
    let table = formats::tensors(config.kind);
    let slot = table.tensor.iter().find(|row| row.role == "token_embd")?;
    let names = table.prefixes.iter().map(|prefix| format!("{prefix}{}", slot.hf));
    names.into_iter().find_map(|name| tensors.iter().position(|tensor| tensor.name == name))
}

/// The prefix with the most matches among the tensors of the text model.
fn prefix(config: &Config, slots: &[Slot], by_name: &HashMap<&str, usize>) -> &'static str {
    let hits = |prefix: &&String| {
        slots.iter().filter(|slot| by_name.contains_key(format!("{prefix}{}", slot.hf).as_str())).count()
    };
    let prefixes = &formats::tensors(config.kind).prefixes;
    // `rev`: `max_by_key` returns the last maximum, and the first prefix is the usual one
    prefixes.iter().rev().max_by_key(hits).map_or("", String::as_str)
}

/// The names most similar to a missing one, as a list, with the number of the others.
fn closest<'a>(missing: &str, there: impl Iterator<Item = &'a str>) -> String {
    const MOST: usize = 3;
    let wanted: Vec<_> = missing.split('.').collect();
    // common segments from both ends, then common leading letters
    let likeness = |name: &str| {
        let own: Vec<_> = name.split('.').collect();
        let ends = own.iter().rev().zip(wanted.iter().rev()).take_while(|(a, b)| a == b).count();
        let starts = own.iter().zip(&wanted).take_while(|(a, b)| a == b).count();
        let letters = name.bytes().zip(missing.bytes()).take_while(|(a, b)| a == b).count();
        (ends + starts, letters)
    };
    let mut names: Vec<&str> = there.collect();
    let all = names.len();
    names.sort_by_cached_key(|name| (std::cmp::Reverse(likeness(name)), *name));
    names.truncate(MOST);
    let more = if all > MOST { format!(" and {} more", all - MOST) } else { String::new() };
    format!("{}{more}", names.join(", "))
}

fn check(slot: &Slot, tensor: &TensorDesc) -> Result<()> {
    check_shape(&slot.shape, tensor)?;
    if slot.type_policy == TypePolicy::Copy {
        return match tensor.dtype {
            DType::I64 => Ok(()),
            other => Err(Error::unsupported(format!("tensor {}", tensor.name), "not the type of token ids")
                .expected("i64", other)),
        };
    }
    check_floats(tensor)
}

/// Checks that the elements are floats that can be converted.
pub(crate) fn check_floats(tensor: &TensorDesc) -> Result<()> {
    if matches!(tensor.dtype, DType::BF16 | DType::F16 | DType::F32) {
        return Ok(());
    }
    let place = format!("tensor {}", tensor.name);
    Err(Error::unsupported(place, "not a type of weights that can be converted")
        .expected("bf16, f16 or f32", tensor.dtype))
}

/// Checks that the tensor has the shape that the config gives it.
pub(crate) fn check_shape(shape: &[u64], tensor: &TensorDesc) -> Result<()> {
    // one value may be a vector of length 1 or a scalar
    if tensor.shape == shape || shape == [1] && tensor.shape.is_empty() {
        return Ok(());
    }
    Err(Error::malformed(format!("tensor {}", tensor.name), "wrong shape for the config")
        .expected(format!("{shape:?}"), format!("{:?}", tensor.shape)))
}

/// Returns an error if `missing` has names.
pub(crate) fn complete(config: &Config, missing: &[String]) -> Result<()> {
    let Some((first, more)) = missing.split_first() else { return Ok(()) };
    let more = if more.is_empty() { String::new() } else { format!(", and {} more", more.len()) };
    let problem =
        format!("missing: a {} model of {} layers has it{more}", config.architecture, config.layers());
    Err(Error::malformed(format!("tensor {first}"), problem))
}

fn reason(config: &Config, tensor: &TensorDesc) -> Result<&'static str> {
    if config.tied && HEADS.contains(&tensor.name.as_str()) {
        return Ok("tied: the same bytes as the embedding, which is the head");
    }
    let table = &formats::tensors(config.kind).dropped;
    let name = tensor.name.as_str();
    let drops = |row: &&formats::DroppedRow| {
        row.prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()))
            || row.suffixes.iter().any(|suffix| name.ends_with(suffix.as_str()))
    };
    let row = table.iter().find(drops);
    row.map(|row| row.reason.as_str()).ok_or_else(|| {
        Error::unsupported(
            format!("tensor {}", tensor.name),
            format!("no {} model of this config uses it", config.architecture),
        )
        .expected(
            "only tensors of the text model and of the towers",
            format!("{:?} {}", tensor.shape, tensor.dtype),
        )
        .help("Nothing is dropped without a reason: check that config.json belongs to this checkpoint.")
    })
}

/// Whether a model kind has tensors of this role, for rules that name roles.
pub fn is_role(name: &str) -> bool {
    [ModelKind::Text, ModelKind::Draft]
        .into_iter()
        .flat_map(|kind| &formats::tensors(kind).tensor)
        .any(|row| row.role == name)
}
