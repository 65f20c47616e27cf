//! Types by budget: of all tensors whose type nobody has named, which type each gets so that predictions suffer least.
//!
//! Each tensor has a few types to choose from, with bytes and a cost ([`Sensitivity`]); a larger type buys a smaller cost.
//! The best buy first, until the budget is spent: that is the best there is for every size that it passes, which is the
//! [curve](Allocation::curve). Only tensors of the size of a table of embeddings are lumps that this may get wrong; all
//! their choices are tried. The result is a recipe with a rule for each tensor, like one that a person could have written.

mod market;

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use tensor::{DType, Error, Result};

use self::market::{Choice, Goal, Item, Market};
use crate::build::{Request, Shards, artifact};
use crate::recipe::TypeRule;
use crate::rules::of_weights;
use crate::sensitivity::Sensitivity;
use crate::size::byte_size;
use crate::type_names;
use crate::types::{Artifact, OutputTensor};

/// What error feedback leaves of the KL divergence of plain rounding in layers, about (docs/BENCHMARKS.md). It counts when
/// they are weighed against the embeddings, where it leaves more, or is not used.
const FEEDBACK: f64 = 0.5;

/// `[budget]`: what types are chosen from, and how much they may take. One of the three limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// The types to choose from. Those whose blocks a tensor's rows do not fill are not for it.
    #[serde(default = "types", with = "type_names::several")]
    pub types: Vec<DType>,
    /// The most bytes of all files: `3.2GB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// The most bits a weight, over all tensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpw: Option<f64>,
    /// The most KL divergence in nats a token, as predicted from the sensitivities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kld: Option<f64>,
}

/// Those of four bits and more that error feedback rounds, and that llama.cpp runs everywhere.
fn types() -> Vec<DType> {
    use DType::{IQ4_NL, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
    vec![Q4_0, IQ4_NL, Q4_K, Q4_1, Q5_0, Q5_K, Q5_1, Q6_K, Q8_0]
}

/// What a budget has bought.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Allocation {
    /// Bytes of all files.
    pub bytes: u64,
    /// The KL divergence in nats a token that the sensitivities predict.
    pub predicted_kld: f64,
    /// Tokens that the sensitivities were measured on.
    pub tokens: u64,
    /// The best that there is: bytes of all files, and the KL divergence that is predicted.
    pub curve: Vec<(u64, f64)>,
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Allocation { bytes, predicted_kld, tokens, .. } = self;
        write!(f, "{bytes} bytes, a KL divergence of {predicted_kld:.2e} nats predicted from {tokens} tokens")
    }
}

/// The most points of a curve that are kept.
const POINTS: usize = 200;

impl Budget {
    pub(crate) fn check(&self) -> Result<()> {
        if self.types.is_empty() {
            return Err(Error::recipe("budget.types", "no type to choose"));
        }
        self.types.iter().try_for_each(|dtype| of_weights("budget.types", *dtype))?;
        let bad = |key, value: f64| Error::recipe(key, "no limit").expected("a number above 0", value);
        for (key, value) in [("budget.bpw", self.bpw), ("budget.kld", self.kld)] {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value > 0.0)) {
                return Err(bad(key, value));
            }
        }
        if let Some(size) = &self.size {
            byte_size("budget.size", size)?;
        }
        if [self.size.is_some(), self.bpw.is_some(), self.kld.is_some()]
            .into_iter()
            .filter(|set| *set)
            .count()
            > 1
        {
            return Err(Error::recipe("budget", "more than one limit")
                .expected("one of size, bpw and kld", "several"));
        }
        Ok(())
    }
}

/// Chooses the types of a request with a budget: the request as it is then, with a rule for each tensor.
///
/// # Errors
/// `Recipe` for a budget without a limit or one that nothing meets; what planning and the sensitivities say.
pub fn allocate(
    model: &gemma::Model,
    shards: &Shards<'_>,
    request: &Request,
    sensitivity: &Sensitivity,
) -> Result<Request> {
    let mut resolved = request.clone();
    let Some(budget) = resolved.recipe.budget.take() else { return Ok(resolved) };
    let fingerprint = crate::hex(&model.fingerprint);
    if sensitivity.model != fingerprint {
        return Err(Error::malformed("sensitivities", "measured on another model")
            .expected(fingerprint, &sensitivity.model)
            .help("Measure them for this checkpoint, with `gemma-convert sensitivity`."));
    }
    let free = Free::of(model, &artifact(model, shards, &resolved)?);
    let fed = resolved.recipe.calibration.is_some();
    let items = free
        .tensors
        .iter()
        .map(|tensor| {
            let share = if fed && tensor.layer.is_some() { FEEDBACK } else { 1.0 };
            item(tensor, &budget.types, sensitivity, share)
        })
        .collect::<Result<Vec<_>>>()?;
    let market = Market::new(&items);
    let goal = budget.goal(&free)?;
    let Some(chosen) = market.best(goal) else { return Err(unmet(&market, &free, goal)) };

    let total = market.total(&chosen);
    let rule = |(number, &at): (usize, &usize)| {
        let item = &items[number];
        TypeRule {
            tensors: format!("^{}$", regex::escape(item.name)),
            dtype: item.choices[at].dtype,
            variants: Vec::new(),
            optional: false,
            why: Some(item.why(at)),
        }
    };
    resolved.recipe.types.rules.extend(chosen.iter().enumerate().map(rule));
    if let Some(kld) = budget.kld {
        resolved.recipe.verify.max_kld.get_or_insert(kld);
    }
    resolved.allocation = Some(Allocation {
        bytes: free.other_bytes + total.bytes,
        predicted_kld: total.kld,
        tokens: sensitivity.tokens,
        curve: thinned(market.curve().into_iter().map(|t| (free.other_bytes + t.bytes, t.kld)).collect()),
    });
    Ok(resolved)
}

fn unmet(market: &Market<'_>, free: &Free, goal: Goal) -> Error {
    let ends = market.curve();
    let (smallest, best) =
        (ends.first().copied().unwrap_or_default(), ends.last().copied().unwrap_or_default());
    let error = Error::recipe("budget", "nothing meets it");
    match goal {
        Goal::Bytes(limit) => error
            .expected(
                format!(
                    "at least {} bytes for this model and these types",
                    free.other_bytes + smallest.bytes
                ),
                free.other_bytes.saturating_add(limit),
            )
            .help("Give more, or smaller types in budget.types."),
        Goal::Kld(kld) => error
            .expected(
                format!("a KL divergence of at least {:.2e} with these types", best.kld),
                format!("{kld:.2e}"),
            )
            .help("Allow more, or larger types in budget.types."),
    }
}

/// Every so many points of a curve, and both ends.
fn thinned(points: Vec<(u64, f64)>) -> Vec<(u64, f64)> {
    let (step, last) = (points.len().div_ceil(POINTS).max(1), points.len().saturating_sub(1));
    points
        .into_iter()
        .enumerate()
        .filter(|(n, _)| n % step == 0 || *n == last)
        .map(|(_, point)| point)
        .collect()
}

/// The tensors of an artifact whose type nobody has named.
struct Free {
    tensors: Vec<FreeTensor>,
    /// Bytes of all else that is in the files, and of the other tensors among it.
    other_bytes: u64,
    other_tensors: u64,
    /// Weights of all tensors.
    weights: u64,
}

/// One of them.
struct FreeTensor {
    name: String,
    layer: Option<usize>,
    elements: u64,
    cols: u64,
    /// No layer reads it.
    unused: bool,
}

impl Free {
    fn of(model: &gemma::Model, artifact: &Artifact) -> Free {
        let unused = model.inventory.text.iter().filter(|found| found.slot.unused);
        let unused: HashSet<&str> = unused.map(|found| found.slot.gguf.as_str()).collect();
        let (free, other): (Vec<&OutputTensor>, Vec<_>) = artifact.tensors().partition(|tensor| tensor.free);
        let taken: u64 = free.iter().map(|tensor| padded(tensor.bytes)).sum();
        let tensor = |tensor: &&OutputTensor| FreeTensor {
            name: tensor.desc.name.clone(),
            layer: tensor.layer,
            elements: tensor.desc.elements(),
            cols: tensor.desc.cols(),
            unused: unused.contains(tensor.desc.name.as_str()),
        };
        Free {
            tensors: free.iter().map(tensor).collect(),
            other_bytes: artifact.bytes().saturating_sub(taken),
            other_tensors: other.iter().map(|tensor| tensor.bytes).sum(),
            weights: artifact.tensors().map(|tensor| tensor.desc.elements()).sum(),
        }
    }
}

/// A tensor with what it takes and costs in each type, times `share`.
fn item<'a>(tensor: &'a FreeTensor, types: &[DType], costs: &Sensitivity, share: f64) -> Result<Item<'a>> {
    let mut choices = Vec::new();
    for &dtype in types {
        let Some(row) = dtype.row_bytes(tensor.cols) else { continue };
        let kld = if tensor.unused { 0.0 } else { share * costs.kld(&tensor.name, dtype)? };
        let bytes = padded(row * (tensor.elements / tensor.cols));
        choices.push(Choice { dtype, bytes, kld });
    }
    if choices.is_empty() {
        return Err(Error::recipe("budget.types", format!("{} cannot take any of them", tensor.name))
            .expected("a type for every width of row, such as q8_0", format!("rows of {}", tensor.cols)));
    }
    Ok(Item::new(&tensor.name, tensor.layer.is_none(), choices))
}

/// Bytes with the padding behind them.
fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(gguf::DEFAULT_ALIGNMENT)
}

impl Budget {
    fn goal(&self, free: &Free) -> Result<Goal> {
        match (&self.size, self.bpw, self.kld) {
            (Some(size), _, _) => {
                Ok(Goal::Bytes(byte_size("budget.size", size)?.saturating_sub(free.other_bytes)))
            }
            (_, Some(bpw), _) => {
                Ok(Goal::Bytes(((bpw * free.weights as f64 / 8.0) as u64).saturating_sub(free.other_tensors)))
            }
            (_, _, Some(kld)) => Ok(Goal::Kld(kld)),
            _ => Err(Error::recipe("budget", "no limit is given")
                .expected("one of size, bpw and kld", "none")
                .help("Give --target-size 3.2GB, --target-bpw 4.5 or --target-kld 0.02.")),
        }
    }
}
