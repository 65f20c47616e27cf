//! Mixed-precision bit allocation: types for all tensors without a named type, under a limit of size, bits per weight
//! or KL divergence.
//!
//! Each tensor has a few candidate types, with bytes and a cost ([`Sensitivity`]); a larger type has a smaller cost.
//! This is a multiple-choice knapsack, solved greedily by gain per byte: optimal at each size that the greedy order
//! reaches, which is the [curve](Allocation::curve). Only an oversized tensor, such as an embedding table, could make
//! it wrong; all types of those are tried. The result is a recipe with one rule per tensor, as a person could have
//! written it.

mod knapsack;

use std::collections::HashSet;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tensor::{DType, Error, Result};

use self::knapsack::{Choice, Item, Knapsack, Limit, Total};
use crate::artifact::{Artifact, OutputTensor};
use crate::byte_size::byte_size;
use crate::gguf::artifact;
use crate::recipe::TypeRule;
use crate::request::{Request, Shards};
use crate::sensitivity::{MEASURED_TYPES, Sensitivity};
use crate::serde_dtype;

/// The share of the round-to-nearest KL divergence that error feedback leaves in layers, approximately
/// (docs/BENCHMARKS.md). It weighs layers against the embeddings, which count in full: the per-layer table is
/// quantized round-to-nearest, and for the head, where feedback leaves more, a share below 1 chose types that
/// measured worse.
const FEEDBACK: f64 = 0.5;

/// `[budget]`: the candidate types and one of three limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Candidate types. A type whose blocks do not divide a tensor's rows is no candidate for it.
    #[serde(default = "types", with = "serde_dtype::several")]
    pub types: Vec<DType>,
    /// Maximum size of all files, such as `3.2GB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// Maximum bits per weight, over all tensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bpw: Option<f64>,
    /// Maximum KL divergence in nats per token, as predicted from the sensitivities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kld: Option<f64>,
}

/// The default types and no limit.
impl Default for Budget {
    fn default() -> Budget {
        Budget { types: types(), size: None, bpw: None, kld: None }
    }
}

/// The types of four bits and more that support error feedback and run on every backend of llama.cpp.
fn types() -> Vec<DType> {
    use DType::{IQ4_NL, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
    vec![Q4_0, IQ4_NL, Q4_K, Q4_1, Q5_0, Q5_K, Q5_1, Q6_K, Q8_0]
}

/// The result of bit allocation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Allocation {
    /// Size of all files, in bytes.
    pub bytes: u64,
    /// The KL divergence that the sensitivities predict, in nats per token.
    pub predicted_kld: f64,
    /// Number of tokens that the sensitivities were measured on.
    pub tokens: u64,
    /// The id of the sensitivities, see [`Sensitivity::id`].
    pub sensitivity: String,
    /// The optimal trade-off: pairs of size of all files in bytes and predicted KL divergence in nats per token.
    pub curve: Vec<(u64, f64)>,
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Allocation { bytes, predicted_kld, tokens, .. } = self;
        write!(f, "{bytes} bytes, a KL divergence of {predicted_kld:.2e} nats predicted from {tokens} tokens")
    }
}

/// Maximum number of points of a stored curve.
const POINTS: usize = 200;

impl Budget {
    pub(crate) fn check(&self) -> Result<()> {
        if self.types.is_empty() {
            return Err(Error::recipe("budget.types", "no type to choose")
                .expected("types such as q4_0 and q8_0", "an empty list"));
        }
        if let Some(dtype) = self.types.iter().find(|dtype| !MEASURED_TYPES.contains(dtype)) {
            let known: Vec<_> = MEASURED_TYPES.iter().map(|dtype| dtype.name()).collect();
            return Err(Error::recipe("budget.types", "not a type whose cost is measured")
                .expected(known.join(", "), dtype));
        }
        let bad = |key, value: f64| Error::recipe(key, "no limit").expected("a number above 0", value);
        for (key, value) in [("budget.bpw", self.bpw), ("budget.kld", self.kld)] {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value > 0.0)) {
                return Err(bad(key, value));
            }
        }
        if let Some(size) = &self.size {
            byte_size("budget.size", size)?;
        }
        let limits = [self.size.is_some(), self.bpw.is_some(), self.kld.is_some()];
        if limits.into_iter().filter(|set| *set).count() > 1 {
            return Err(Error::recipe("budget", "more than one limit")
                .expected("one of size, bpw and kld", "several"));
        }
        Ok(())
    }
}

/// Checks that a request's budget, if any, can be met, as far as that is known without sensitivities.
///
/// # Errors
/// `Recipe` for a budget without a limit or a size below the smallest possible one; errors of planning.
pub fn check_budget(model: &gemma::ModelSpec, shards: &Shards<'_>, request: &Request) -> Result<()> {
    let mut plain = request.clone();
    let Some(budget) = plain.recipe.budget.take() else { return Ok(()) };
    terms(model, shards, &plain, &budget).map(drop)
}

/// Chooses the types of a request with a budget. Returns the request with a rule for each tensor in place of the
/// budget.
///
/// # Errors
/// `Recipe` for a budget without a limit or one that no choice meets; errors of planning and of the sensitivities.
pub fn allocate(
    model: &gemma::ModelSpec,
    shards: &Shards<'_>,
    request: &Request,
    sensitivity: &Sensitivity,
) -> Result<Request> {
    let mut plain = request.clone();
    let Some(budget) = plain.recipe.budget.take() else { return Ok(plain) };
    let fingerprint = base::hex(&model.fingerprint);
    if sensitivity.model != fingerprint {
        return Err(Error::malformed("sensitivities", "measured on another model")
            .expected(fingerprint, &sensitivity.model)
            .help("Measure them for this checkpoint, with `gemma-convert sensitivity`."));
    }
    let (free, mut limit) = terms(model, shards, &plain, &budget)?;
    let fed = plain.recipe.calibration.is_some();
    let items: Vec<Item<'_>> =
        free.tensors.iter().map(|tensor| tensor.item(&budget, sensitivity, fed)).collect::<Result<_>>()?;
    let knapsack = Knapsack::new(&items);
    loop {
        let chosen = knapsack.solve(limit).ok_or_else(|| unmet(&knapsack, limit))?;
        let mut resolved = plain.clone();
        resolved.recipe.types.rules.extend(items.iter().zip(&chosen).map(|(item, &at)| rule(item, at)));
        if let Some(kld) = budget.kld {
            resolved.recipe.verify.max_kld.get_or_insert(kld);
        }
        let bytes = artifact(model, shards, &resolved)?.bytes();
        // other types may lead to other parts of a split, with headers of other lengths
        if let (Limit::Bytes(most), Some(size)) = (limit, &budget.size) {
            let excess = bytes.saturating_sub(byte_size("budget.size", size)?);
            if excess > 0 {
                limit = Limit::Bytes(most.checked_sub(excess).ok_or_else(|| unmet(&knapsack, limit))?);
                continue;
            }
        }
        let all = |total: Total| (free.other_bytes + total.bytes, total.kld);
        resolved.allocation = Some(Allocation {
            bytes,
            predicted_kld: knapsack.total(&chosen).kld,
            tokens: sensitivity.tokens,
            sensitivity: sensitivity.id.clone(),
            curve: thinned(knapsack.curve().into_iter().map(all).collect()),
        });
        return Ok(resolved);
    }
}

/// The type rule for an item's chosen type.
fn rule(item: &Item<'_>, at: usize) -> TypeRule {
    TypeRule {
        tensors: format!("^{}$", regex::escape(item.name)),
        dtype: item.choices[at].dtype,
        variants: Vec::new(),
        optional: false,
        why: Some(item.why(at)),
    }
}

/// The tensors to choose types for, and their limit. A limit in bytes is checked to be reachable.
fn terms(
    model: &gemma::ModelSpec,
    shards: &Shards<'_>,
    plain: &Request,
    budget: &Budget,
) -> Result<(Free, Limit)> {
    let free = Free::of(model, &artifact(model, shards, plain)?, budget);
    let least: u64 = free.tensors.iter().map(|tensor| tensor.least(budget)).sum();
    let unmet = |expected: String, found: &dyn fmt::Display| {
        Error::recipe("budget", "no choice of types meets it")
            .expected(expected, found)
            .help("Raise the limit, or allow smaller types in budget.types.")
    };
    match (&budget.size, budget.bpw, budget.kld) {
        (Some(text), _, _) => {
            let size = byte_size("budget.size", text)?;
            let limit = size.checked_sub(free.other_bytes).filter(|limit| *limit >= least);
            let limit = limit.ok_or_else(|| {
                unmet(
                    format!("at least {} bytes for this model and these types", free.other_bytes + least),
                    text,
                )
            })?;
            Ok((free, Limit::Bytes(limit)))
        }
        (_, Some(bpw), _) => {
            let bytes = (bpw * free.weights as f64 / 8.0) as u64;
            let limit = bytes.checked_sub(free.other_tensors).filter(|limit| *limit >= least);
            let limit = limit.ok_or_else(|| {
                let bits = 8.0 * (free.other_tensors + least) as f64 / free.weights.max(1) as f64;
                // rounded up, so that the user can pass it
                let bits = (bits * 1000.0).ceil() / 1000.0;
                unmet(format!("at least {bits} bits a weight for this model and these types"), &bpw)
            })?;
            Ok((free, Limit::Bytes(limit)))
        }
        (_, _, Some(kld)) => Ok((free, Limit::Kld(kld))),
        _ => Err(Error::recipe("budget", "no limit is given")
            .expected("one of size, bpw and kld", "none")
            .help("Give ‹target_size› 3.2GB, ‹target_bpw› 4.5 or ‹target_kld› 0.02.")),
    }
}

fn unmet(knapsack: &Knapsack<'_>, limit: Limit) -> Error {
    let error = Error::recipe("budget", "no choice of types meets it");
    match limit {
        Limit::Bytes(_) => error.help("Raise the limit: the headers of so many parts do not fit."),
        Limit::Kld(kld) => {
            let best = knapsack.curve().last().copied().unwrap_or_default();
            error
                .expected(
                    format!("a KL divergence of at least {:.2e} with these types", best.kld),
                    format!("{kld:.2e}"),
                )
                .help("Raise the limit, or allow larger types in budget.types.")
        }
    }
}

/// Every n-th point of a curve, for at most about [`POINTS`], and both ends.
fn thinned(points: Vec<(u64, f64)>) -> Vec<(u64, f64)> {
    let (step, last) = (points.len().div_ceil(POINTS).max(1), points.len().saturating_sub(1));
    points
        .into_iter()
        .enumerate()
        .filter(|(n, _)| n % step == 0 || *n == last)
        .map(|(_, point)| point)
        .collect()
}

/// The tensors of an artifact whose type neither a rule nor another setting names.
struct Free {
    tensors: Vec<FreeTensor>,
    /// Bytes of everything else in the files, and of the other tensors among it.
    other_bytes: u64,
    other_tensors: u64,
    /// Number of weights of all tensors.
    weights: u64,
}

/// A tensor without a named type.
struct FreeTensor {
    name: String,
    layer: Option<usize>,
    elements: u64,
    cols: u64,
    /// No layer reads it (unused K/V).
    unused: bool,
}

impl Free {
    /// Collects the tensors. Those that no candidate type fits keep the preset's type.
    fn of(model: &gemma::ModelSpec, artifact: &Artifact, budget: &Budget) -> Free {
        let unused = model.inventory.text.iter().filter(|found| found.slot.unused);
        let unused: HashSet<&str> = unused.map(|found| found.slot.gguf.as_str()).collect();
        let fits = |tensor: &OutputTensor| {
            let fits = |dtype: &DType| dtype.row_bytes(tensor.desc.cols()).is_some();
            // sensitivities are measured with Q4_0
            fits(&DType::Q4_0) && budget.types.iter().any(fits)
        };
        let (free, other): (Vec<&OutputTensor>, Vec<_>) =
            artifact.tensors().partition(|tensor| tensor.free && fits(tensor));
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

impl FreeTensor {
    /// The candidate types that fit, with the tensor's size in bytes, padding included.
    fn sizes(&self, budget: &Budget) -> impl Iterator<Item = (DType, u64)> {
        let size =
            |dtype: &DType| Some((*dtype, padded(dtype.row_bytes(self.cols)? * (self.elements / self.cols))));
        budget.types.iter().filter_map(size)
    }

    /// The smallest size, in bytes.
    fn least(&self, budget: &Budget) -> u64 {
        self.sizes(budget).map(|(_, bytes)| bytes).min().unwrap_or(0)
    }

    /// The knapsack item with the size and cost of each type; `fed` says that layers are quantized with error
    /// feedback.
    fn item(&self, budget: &Budget, costs: &Sensitivity, fed: bool) -> Result<Item<'_>> {
        let choice = |(dtype, bytes): (DType, u64)| {
            let share = if fed && self.layer.is_some() && quant::feeds_back(dtype) { FEEDBACK } else { 1.0 };
            let kld = if self.unused { 0.0 } else { share * costs.kld(&self.name, dtype)? };
            Ok(Choice { dtype, bytes, kld })
        };
        let choices = self.sizes(budget).map(choice).collect::<Result<_>>()?;
        Ok(Item::new(&self.name, self.layer.is_none(), choices))
    }
}

/// Bytes including the padding after them.
fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(gguf::DEFAULT_ALIGNMENT)
}
