//! Bundles without a bundle to take the graph from: the graph is that of a skeleton, tokenizer and metadata come from the checkpoint.

use std::cell::RefCell;
use std::collections::BTreeSet;

use checkpoint::Checkpoint;
use gemma::{Config, Found, Inventory};
use litert::{Bundle, EmptyBundle, Mapped, Skeleton, SkeletonSections, SkeletonWeight, Source};
use plan::BundleRecipe;
use serde_json::Value;
use tensor::{Error, Result, TensorSource};

use super::bundle::{MAX_COMPANION, TOKENIZER};
use super::bundle_metadata::metadata;
use super::bundle_tensors::{MODELS, Text, used};

/// The graph skeletons of the program, those of E2B and E4B, for CPUs: a prefill of 128 tokens and a cache of 4,096. docs/litertlm.md says how
/// they were made.
const EMBEDDED: [&[u8]; 2] = [
    include_bytes!("../../../../formats/litertlm-e2b.skeleton"),
    include_bytes!("../../../../formats/litertlm-e4b.skeleton"),
];

/// A graph skeleton, with what it says about itself.
struct Described {
    skeleton: Skeleton,
    /// The architecture at full width.
    config: Config,
    /// Tokens in the KV cache.
    cache_length: u64,
}

impl Described {
    /// Reads a skeleton.
    ///
    /// # Errors
    /// Those of [`Skeleton::read`]; `Malformed` for another description.
    fn read(packed: &[u8]) -> Result<Described> {
        let skeleton = Skeleton::read(packed)?;
        let wrong = || Error::malformed("skeleton", "its description is damaged");
        let description: Value = serde_json::from_slice(skeleton.description()).map_err(|_| wrong())?;
        let config = Config::from_json(&description["config"])?;
        let cache_length = description["cache_length"].as_u64().ok_or_else(wrong)?;
        Ok(Described { skeleton, config, cache_length })
    }

    /// Units of width of a model with the same graph.
    fn units(&self, config: &Config) -> Option<u64> {
        let full = self.skeleton.full_units();
        let units = (config.hidden * full).checked_div(self.config.hidden)?;
        let is_scaled = |(own, full_width): (u64, u64)| own * full == full_width * units;
        let same_widths = widths(config).into_iter().zip(widths(&self.config)).all(is_scaled);
        (units > 0 && full.is_multiple_of(units) && same_widths && graph(config) == graph(&self.config))
            .then_some(units)
    }
}

/// The sizes that are multiples of a unit.
fn widths(config: &Config) -> [u64; 7] {
    let Config { hidden, ffn, head_dim, full_head_dim, ple, vocab, vocab_ple, .. } = *config;
    [hidden, ffn, head_dim, full_head_dim, ple, vocab, vocab_ple]
}

/// All else that the graph depends on.
fn graph(config: &Config) -> String {
    let Config { attention, heads, kv_heads, full_kv_heads, shared_kv_layers, window, .. } = config;
    let Config { double_wide, k_eq_v, experts, tied, causal, image_blocks, norm_eps, rope, rope_swa, .. } =
        config;
    let kv = full_kv_heads.unwrap_or(*kv_heads);
    format!(
        "{attention:?} {heads} {kv_heads} {kv} {shared_kv_layers} {window} {double_wide} {k_eq_v} {experts:?} {tied} {causal} \
         {image_blocks} {norm_eps} {rope:?} {rope_swa:?}"
    )
}

/// The bundle of a checkpoint, with zeros as weights. Without a skeleton, the graph is that of an embedded one.
///
/// # Errors
/// `Unsupported` for a checkpoint of another architecture than the skeletons'; those of [`Skeleton`]; `Io` without a tokenizer.
pub(super) fn empty_bundle(
    tuned: &Text,
    recipe: &BundleRecipe,
    skeleton: Option<&[u8]>,
) -> Result<EmptyBundle> {
    let packed = skeleton.as_ref().map_or(&EMBEDDED[..], std::slice::from_ref);
    let known = packed.iter().map(|packed| Described::read(packed)).collect::<Result<Vec<_>>>()?;
    let mut fitting = known.iter().filter_map(|known| Some((known, known.units(&tuned.config)?)));
    let (described, units) = fitting.next().ok_or_else(|| {
        let titles: Vec<_> = known.iter().map(|known| title(&known.config)).collect();
        Error::unsupported("config.json", "another architecture than that of the graph skeleton")
            .expected(titles.join("; or "), title(&tuned.config))
            .help("Layers, heads and window must be the same, and all widths by the same factor.")
    })?;
    let bits = recipe.bits()?;
    let tensors = tuned.checkpoint.tensors();
    let asked = RefCell::new(BTreeSet::new());
    let weight = |name: &str| {
        let found = named(&tuned.inventory, name)?;
        asked.borrow_mut().insert(found.index);
        let bits = bits(&found.slot.gguf);
        Ok(SkeletonWeight { tensor: found.index, elements: tensors[found.index].elements(), bits })
    };
    let sections = SkeletonSections {
        metadata: metadata(&tuned.checkpoint, described.cache_length)?.to_bytes(),
        tokenizer: litert::pack_tokenizer(&base::read_regular(
            &tuned.checkpoint.dir().join(TOKENIZER),
            MAX_COMPANION,
        )?)?,
        id: tuned.checkpoint.fingerprint()?[..16].try_into().unwrap_or_default(),
    };
    let empty = described.skeleton.bundle(units, &weight, sections, &tuned.checkpoint)?;
    if let Some(left) = used(&tuned.inventory).find(|found| !asked.borrow().contains(&found.index)) {
        let place = format!("tensor {}", tensors[left.index].name);
        return Err(Error::unsupported(place, "the graph has no place for it"));
    }
    Ok(empty)
}

/// The tensor of a name without the prefix of the text model.
fn named<'a>(inventory: &'a Inventory, name: &str) -> Result<&'a Found> {
    let found = used(inventory).find(|found| found.slot.hf == name);
    found.ok_or_else(|| Error::missing(format!("tensor {name}")))
}

/// The weights of a bundle that an embedded skeleton made for a checkpoint, in the order of [`MODELS`]; `None` for another graph.
///
/// # Errors
/// Those of [`Skeleton::recognise`].
pub(super) fn recognised(
    (bundle, from): (&Bundle, &dyn Source),
    config: &Config,
    inventory: &Inventory,
    checkpoint: &Checkpoint,
) -> Result<Option<Vec<Mapped>>> {
    for packed in EMBEDDED {
        let known = Described::read(packed)?;
        let Some(units) = known.units(config) else { continue };
        let weight = |name: &str| {
            let found = named(inventory, name)?;
            Ok((found.index, checkpoint.tensors()[found.index].elements()))
        };
        let Some(mut mapped) = known.skeleton.recognise((bundle, from), units, &weight, checkpoint)? else {
            continue;
        };
        let order = |mapped: &Mapped| {
            let model_type = bundle.sections[mapped.section].model_type();
            MODELS.iter().position(|(model, _)| Some(*model) == model_type)
        };
        mapped.sort_by_key(order);
        return Ok(Some(mapped));
    }
    Ok(None)
}

/// An architecture in words.
fn title(config: &Config) -> String {
    let [hidden, ffn, head_dim, full_head_dim, ple, vocab, vocab_ple] = widths(config);
    format!(
        "{} layers of hidden size {hidden}, feed-forward {ffn}, {} heads of {head_dim} and {full_head_dim}, per-layer embeddings of {ple}, \
         vocabularies of {vocab} and {vocab_ple}",
        config.attention.len(),
        config.heads
    )
}
