//! The tensors of a PEFT adapter, grouped into parts by their names.
//!
//! Source: huggingface/peft 0.21 `utils/save_and_load.py`, `tuners/lora/layer.py`.

use std::collections::BTreeMap;

use tensor::{Error, Result};

use crate::adapter::part::{Dropped, Factor, Kind, LowRank, Order, Part, PartChange, Stored};
use crate::adapter::peft_config::PeftConfig;
use crate::names::canonical;

const PREFIX: &str = "base_model.model.";
/// A copy of a base's weight, saved where an embedding is adapted.
const BASE: &str = ".base_layer.weight";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Half {
    A,
    B,
    EmbeddingA,
    EmbeddingB,
    Magnitude,
}

const ENDINGS: [(&str, Half); 8] = [
    (".lora_A.weight", Half::A),
    (".lora_B.weight", Half::B),
    // with the adapter's name, as in a state dict that was not saved by PEFT
    (".lora_A.default.weight", Half::A),
    (".lora_B.default.weight", Half::B),
    (".lora_embedding_A", Half::EmbeddingA),
    (".lora_embedding_B", Half::EmbeddingB),
    (".lora_magnitude_vector", Half::Magnitude),
    // PEFT before 0.10
    (".lora_magnitude_vector.weight", Half::Magnitude),
];

/// Names that are refused, with the reason.
const REFUSED: [(&str, &str); 3] = [
    ("trainable_tokens", "it replaces single rows of the embedding (trainable tokens)"),
    (".bias", "a bias, which Gemma's linears lack"),
    (".lora_", "a tensor of LoRA that this version does not know"),
];

/// Groups the tensors of an adapter. The second value has the names of tensors without effect, with the reason.
///
/// # Errors
/// `Malformed` for half a pair or a rank that differs from the config, `Unsupported` for tensors that cannot be merged.
pub(crate) fn parts(tensors: &[Stored], config: &PeftConfig) -> Result<(Vec<Part>, Vec<Dropped>)> {
    let mut modules: BTreeMap<&str, BTreeMap<Half, &Stored>> = BTreeMap::new();
    let (mut parts, mut dropped) = (Vec::new(), Vec::new());
    for stored in tensors {
        let name = stored.desc.name.as_str();
        let half = ENDINGS.iter().find_map(|(ending, half)| Some((name.strip_suffix(ending)?, *half)));
        if let Some((module, half)) = half {
            if modules.entry(module).or_default().insert(half, stored).is_some() {
                return Err(Error::malformed(format!("tensor {name}"), "two tensors have this function"));
            }
        } else if name.ends_with(BASE) {
            dropped.push((name.to_owned(), "a copy of the base's weight"));
        } else if let Some((_, reason)) = REFUSED.iter().find(|(part, _)| name.contains(part)) {
            return Err(Error::unsupported(format!("tensor {name}"), reason).help(
                "Merge it with peft (merge_and_unload, save_pretrained), and give the merged folder.",
            ));
        } else {
            parts.push(Part { target: canonical(name), change: PartChange::Replace(stored.clone()) });
        }
    }
    for (module, halves) in &modules {
        parts.push(part(module, halves, config, &modules)?);
    }
    Ok((parts, dropped))
}

fn part(
    module: &str,
    halves: &BTreeMap<Half, &Stored>,
    config: &PeftConfig,
    modules: &BTreeMap<&str, BTreeMap<Half, &Stored>>,
) -> Result<Part> {
    let path = module.strip_prefix(PREFIX).unwrap_or(module);
    let place = || format!("module {path}");
    let get = |half| halves.get(&half).map(|stored| (*stored).clone());
    let magnitude = get(Half::Magnitude);
    let factor = |stored: Stored, order| Factor { stored, order };
    let pair = (get(Half::A), get(Half::B), get(Half::EmbeddingA), get(Half::EmbeddingB));
    let (kind, target, left, right) = match pair {
        (Some(a), Some(b), None, None) => match experts(path, config, modules)? {
            Some(target) => (Kind::Experts, target, factor(b, Order::MatrixFast), factor(a, Order::Rows)),
            None => {
                let target = format!("{path}.weight");
                (Kind::Linear, target, factor(b, Order::Rows), factor(a, Order::Rows))
            }
        },
        (None, None, Some(a), Some(b)) => {
            let target = format!("{path}.weight");
            (Kind::Embedding, target, factor(a, Order::Columns), factor(b, Order::Columns))
        }
        _ => {
            let there: Vec<_> = halves.values().map(|stored| stored.desc.name.as_str()).collect();
            return Err(Error::malformed(place(), "half a pair: A and B belong together")
                .expected("lora_A and lora_B, or lora_embedding_A and lora_embedding_B", there.join(", "))
                .help("The file is incomplete: save the adapter again."));
        }
    };
    if kind != Kind::Linear && (config.dora || magnitude.is_some()) {
        return Err(Error::unsupported(place(), "DoRA of a table or of experts").help(
            "Its norms run over whole columns. Merge it with peft (merge_and_unload, save_pretrained).",
        ));
    }
    if config.dora != magnitude.is_some() {
        let found = if config.dora { "use_dora, but no lora_magnitude_vector" } else { "no use_dora" };
        return Err(Error::malformed(place(), "config and tensors disagree about DoRA")
            .expected("use_dora with a lora_magnitude_vector, or neither", found));
    }
    let named = target.strip_suffix(".weight").unwrap_or(&target);
    let (rank, scale) = config.rank_and_factor(named);
    Ok(Part {
        target: canonical(&target),
        change: PartChange::LowRank(LowRank { kind, rank, scale, left, right, magnitude }),
    })
}

/// The parameter that a pair below `experts` adapts. PEFT wraps one parameter after the other in the order of their
/// declaration, so that gate_up_proj is inside, as `base_layer`, if both are adapted.
fn experts(
    path: &str,
    config: &PeftConfig,
    modules: &BTreeMap<&str, BTreeMap<Half, &Stored>>,
) -> Result<Option<String>> {
    let inner = path.strip_suffix(".base_layer");
    let module = inner.unwrap_or(path);
    if !module.ends_with(".experts") {
        return match inner {
            None => Ok(None),
            Some(_) => Err(Error::unsupported(format!("module {path}"), "an adapter inside an adapter")),
        };
    }
    let is_targeted = |parameter: &str| {
        let full = format!("{module}.{parameter}");
        let named = |target: &String| full == *target || full.ends_with(&format!(".{target}"));
        config.target_parameters.iter().any(named)
    };
    let has_inner = modules.contains_key(format!("{PREFIX}{module}.base_layer").as_str());
    let parameter = match (is_targeted("gate_up_proj"), is_targeted("down_proj"), inner.is_some(), has_inner)
    {
        (true, true, true, _) => "gate_up_proj",
        (true, true, false, true) | (false, true, false, false) => "down_proj",
        (true, false, false, false) => "gate_up_proj",
        _ => {
            return Err(Error::malformed(format!("module {path}"), "target_parameters and tensors disagree")
                .expected(
                    "experts.gate_up_proj or experts.down_proj with one pair, or both with two",
                    format!("{:?}", config.target_parameters),
                ));
        }
    };
    Ok(Some(format!("{module}.{parameter}")))
}
