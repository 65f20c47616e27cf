//! Bundles without a bundle to take the graph from: the graph is that of a skeleton, tokenizer and metadata come from the checkpoint.

use std::collections::BTreeMap;

use checkpoint::Checkpoint;
use gemma::{Config, Inventory};
use litert::{
    Bundle, EmptyBundle, GraphTensorName, Mapped, Skeleton, SkeletonSections, SkeletonWeight, Source,
};
use plan::BundleRecipe;
use quant::IntegerBits;
use serde_json::Value;
use tensor::{Error, Result, TensorSource};

use super::bundle::{BundleBackend, MAX_COMPANION, TOKENIZER};
use super::bundle_metadata::metadata;
use super::bundle_tensors::{GraphText, MODELS, Text, used};

/// The graph skeletons of the program. docs/litertlm.md says how they were made.
const EMBEDDED: [(BundleBackend, &[u8]); 5] = [
    (BundleBackend::Cpu, include_bytes!("../../../../formats/litertlm-e2b.skeleton")),
    (BundleBackend::Cpu, include_bytes!("../../../../formats/litertlm-e4b.skeleton")),
    (BundleBackend::Cpu, include_bytes!("../../../../formats/litertlm-12b.skeleton")),
    (BundleBackend::Gpu, include_bytes!("../../../../formats/litertlm-e2b-gpu.skeleton")),
    (BundleBackend::Gpu, include_bytes!("../../../../formats/litertlm-e4b-gpu.skeleton")),
];

/// The embedded skeletons for a backend.
pub(super) fn embedded(backend: BundleBackend) -> Vec<&'static [u8]> {
    EMBEDDED.iter().filter(|(of, _)| *of == backend).map(|(_, packed)| *packed).collect()
}

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

/// The bundle of a checkpoint, with zeros as weights, and the tensors that belong there. The graph is that of the skeleton that fits.
///
/// # Errors
/// `Unsupported` for a checkpoint of another architecture than the skeletons'; those of [`Skeleton`]; `Io` without a tokenizer.
pub(super) fn empty_bundle<'t>(
    tuned: &'t Text,
    recipe: &BundleRecipe,
    skeletons: &[&[u8]],
) -> Result<(EmptyBundle, GraphText<'t>)> {
    let known = skeletons.iter().map(|packed| Described::read(packed)).collect::<Result<Vec<_>>>()?;
    let mut fitting = known.iter().filter_map(|known| Some((known, known.units(&tuned.config)?)));
    let (described, units) = fitting.next().ok_or_else(|| {
        let titles: Vec<_> = known.iter().map(|known| title(&known.config)).collect();
        Error::unsupported("config.json", "another architecture than that of the graph skeleton")
            .expected(titles.join("; or "), title(&tuned.config))
            .help("Layers, heads and window must be the same, and all widths by the same factor.")
    })?;
    let bits = recipe.bits()?;
    let (graph, indices) = GraphText::of_skeleton(&described.skeleton, &tuned.checkpoint, &tuned.inventory)?;
    let names: BTreeMap<usize, &str> =
        used(&graph.inventory).map(|found| (found.index, found.slot.gguf.as_str())).collect();
    let weight = |name: &str| {
        let tensor = indices[name];
        let parts = GraphTensorName::parse(names[&tensor])?.parts;
        let bits = parts.into_iter().map(&bits).max().unwrap_or(IntegerBits::Eight);
        Ok(SkeletonWeight { tensor, elements: graph.tensors.tensors()[tensor].elements(), bits })
    };
    let sections = SkeletonSections {
        metadata: metadata(&tuned.checkpoint, described.cache_length)?.to_bytes(),
        tokenizer: litert::pack_tokenizer(&base::read_regular(
            &tuned.checkpoint.dir().join(TOKENIZER),
            MAX_COMPANION,
        )?)?,
        id: tuned.checkpoint.fingerprint()?[..16].try_into().unwrap_or_default(),
    };
    let empty = described.skeleton.bundle(units, &weight, sections, &graph.tensors)?;
    Ok((empty, graph))
}

/// The weights of a bundle that an embedded skeleton made for a checkpoint, in the order of [`MODELS`]; `None` for another graph.
///
/// # Errors
/// Those of [`Skeleton::recognise`].
pub(super) fn recognised<'c>(
    (bundle, from): (&Bundle, &dyn Source),
    config: &Config,
    inventory: &Inventory,
    checkpoint: &'c Checkpoint,
) -> Result<Option<(Vec<Mapped>, GraphText<'c>)>> {
    for (_, packed) in EMBEDDED {
        let known = Described::read(packed)?;
        let Some(units) = known.units(config) else { continue };
        let (graph, indices) = GraphText::of_skeleton(&known.skeleton, checkpoint, inventory)?;
        let tensors = &graph.tensors;
        let weight = |name: &str| Ok((indices[name], tensors.tensors()[indices[name]].elements()));
        let Some(mut mapped) = known.skeleton.recognise((bundle, from), units, &weight, tensors)? else {
            continue;
        };
        let order = |mapped: &Mapped| {
            let model_type = bundle.sections[mapped.section].model_type();
            MODELS.iter().position(|(model, _)| Some(*model) == model_type)
        };
        mapped.sort_by_key(order);
        return Ok(Some((mapped, graph)));
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
