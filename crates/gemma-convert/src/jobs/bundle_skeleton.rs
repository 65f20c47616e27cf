//! Bundles without a bundle to take the graph from: the graph is a skeleton of this program, tokenizer and metadata come from the
//! checkpoint.

use std::cell::RefCell;
use std::collections::BTreeSet;

use gemma::Config;
use litert::{EmptyBundle, Skeleton, SkeletonSections, SkeletonWeight};
use plan::BundleRecipe;
use serde_json::Value;
use tensor::{Error, Result, TensorSource};

use super::bundle::{MAX_COMPANION, TOKENIZER, Text, used};
use super::bundle_metadata::metadata;

/// The skeletons, by the architecture that they are for.
const SKELETONS: [(&str, &[u8]); 1] =
    [("E2B", include_bytes!("../../../../formats/gemma-4-E2B.skeleton"))];

/// A graph skeleton, with what it says about itself.
pub(super) struct Described {
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
    pub(super) fn read(packed: &[u8]) -> Result<Described> {
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

/// The bundle of a checkpoint, with zeros as weights. The graph is that of `skeleton`, or of one of this program.
pub(super) fn empty_bundle(
    tuned: &Text,
    recipe: &BundleRecipe,
    skeleton: Option<&[u8]>,
) -> Result<EmptyBundle> {
    let known = SKELETONS.iter().map(|(_, packed)| *packed);
    let mut found = None;
    for packed in skeleton.map_or_else(|| known.collect(), |given| vec![given]) {
        let described = Described::read(packed)?;
        found = found.or(described.units(&tuned.config).map(|units| (described, units)));
    }
    let (described, units) = found.ok_or_else(|| unknown(&tuned.config))?;
    let bits = recipe.bits()?;
    let tensors = tuned.checkpoint.tensors();
    let asked = RefCell::new(BTreeSet::new());
    let weight = |name: &str| {
        let found = used(&tuned.inventory).find(|found| found.slot.hf == name);
        let found = found.ok_or_else(|| Error::missing(format!("tensor {name}")))?;
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

fn unknown(config: &Config) -> Error {
    let known: Vec<_> = SKELETONS.iter().map(|(name, _)| *name).collect();
    let found = match config.departures() {
        _ if config.variant().is_some_and(|name| !known.contains(&name)) => {
            config.variant().unwrap_or_default().to_owned()
        }
        Some((name, departures)) if !departures.is_empty() => format!("{name} with other sizes"),
        _ => format!("{} layers of hidden size {}", config.attention.len(), config.hidden),
    };
    Error::unsupported("config.json", "no graph of this architecture is part of this program")
        .expected(format!("{} with its layers, heads and vocabulary", known.join(", ")), found)
        .help("Give a bundle of this architecture with ‹bundle›, and the checkpoint from which it was made with ‹bundle_base›.")
}
