//! Types by budget: of all tensors whose type nobody has named, which type each gets so that predictions suffer least.
//!
//! Each tensor has a few types to choose from, with bytes and a cost ([`Sensitivity`]); a larger type buys a smaller cost.
//! The best buy first, until the budget is spent: that is the best there is for every size that it passes, which is the
//! [curve](Allocation::curve). Only tensors of the size of a table of embeddings are lumps that this may get wrong; all
//! their choices are tried. The result is a recipe with a rule for each tensor, like one that a person could have written.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use tensor::{DType, Error, Result};

use crate::build::{Request, Shards, artifact};
use crate::recipe::{TypeRule, type_names};
use crate::rules::of_weights;
use crate::sensitivity::Sensitivity;
use crate::size::byte_size;
use crate::types::{Artifact, OutputTensor};

/// What error feedback leaves of the KL divergence of plain rounding: 0.41 to 0.69 where it was measured
/// (docs/BENCHMARKS.md). It counts when layers are weighed against embeddings, which are rounded plainly.
const FEEDBACK: f64 = 0.5;

/// `[budget]`: what types are chosen from, and how much they may take. One of the three limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// The types to choose from. Those whose blocks a tensor's rows do not fill are not for it.
    #[serde(default = "types", with = "type_names")]
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
            Item::new(tensor, &budget.types, sensitivity, share)
        })
        .collect::<Result<Vec<_>>>()?;
    let market = Market::new(&items);
    let goal = Goal::new(&budget, &free)?;
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

/// Bytes with the padding behind them.
fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(gguf::DEFAULT_ALIGNMENT)
}

/// What there is to reach.
#[derive(Clone, Copy)]
enum Goal {
    /// No more bytes for the free tensors.
    Bytes(u64),
    /// No more KL divergence.
    Kld(f64),
}

impl Goal {
    fn new(budget: &Budget, free: &Free) -> Result<Goal> {
        match (&budget.size, budget.bpw, budget.kld) {
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

/// A type for a tensor.
#[derive(Clone, Copy, Debug)]
struct Choice {
    dtype: DType,
    bytes: u64,
    kld: f64,
}

/// A tensor and what it may be, each larger and better than the one before, with ever less gain a byte.
struct Item<'a> {
    name: &'a str,
    lump: bool,
    choices: Vec<Choice>,
}

impl<'a> Item<'a> {
    fn new(tensor: &'a FreeTensor, types: &[DType], costs: &Sensitivity, share: f64) -> Result<Item<'a>> {
        let mut all = Vec::new();
        for &dtype in types {
            let Some(row) = dtype.row_bytes(tensor.cols) else { continue };
            let kld = if tensor.unused { 0.0 } else { share * costs.kld(&tensor.name, dtype)? };
            let bytes = padded(row * (tensor.elements / tensor.cols));
            all.push(Choice { dtype, bytes, kld });
        }
        if all.is_empty() {
            return Err(Error::recipe("budget.types", format!("{} cannot take any of them", tensor.name))
                .expected(
                    "a type for every width of row, such as q8_0",
                    format!("rows of {}", tensor.cols),
                ));
        }
        Ok(Item { name: &tensor.name, lump: tensor.layer.is_none(), choices: hull(all) })
    }

    /// Why it has a type.
    fn why(&self, at: usize) -> String {
        let Choice { kld, bytes, .. } = self.choices[at];
        let mut why = format!("budget: {kld:.1e} nats");
        if let Some(next) = self.choices.get(at + 1) {
            let (gain, price) = (kld - next.kld, next.bytes - bytes);
            why += &format!("; {} would save {gain:.1e} for {price} bytes", next.dtype);
        }
        why
    }
}

/// The lower convex hull: what some mixture of two others beats is left out.
fn hull(mut all: Vec<Choice>) -> Vec<Choice> {
    all.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.kld.total_cmp(&b.kld)));
    let gain = |from: &Choice, to: &Choice| (from.kld - to.kld) / (to.bytes - from.bytes) as f64;
    let mut hull: Vec<Choice> = Vec::new();
    for choice in all {
        if hull.last().is_some_and(|last| choice.kld >= last.kld) {
            continue;
        }
        while let [.., before, last] = hull.as_slice() {
            if gain(last, &choice) < gain(before, last) {
                break;
            }
            hull.pop();
        }
        hull.push(choice);
    }
    hull
}

/// What some choices take and cost together.
#[derive(Clone, Copy, Debug, Default)]
struct Total {
    bytes: u64,
    kld: f64,
}

/// From a choice of an item to its next.
struct Step {
    item: usize,
    from: usize,
    bytes: u64,
    gain: f64,
}

/// All items, and all steps, the best buy first.
struct Market<'a> {
    items: &'a [Item<'a>],
    steps: Vec<Step>,
}

impl<'a> Market<'a> {
    fn new(items: &'a [Item<'a>]) -> Market<'a> {
        let of = |(number, item): (usize, &'a Item<'a>)| {
            item.choices.windows(2).enumerate().map(move |(from, pair)| Step {
                item: number,
                from,
                bytes: pair[1].bytes - pair[0].bytes,
                gain: pair[0].kld - pair[1].kld,
            })
        };
        let mut steps: Vec<Step> = items.iter().enumerate().flat_map(of).collect();
        let rate = |step: &Step| step.gain / step.bytes as f64;
        // stable: of an item, its steps stay in order
        steps.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
        Market { items, steps }
    }

    fn total(&self, chosen: &[usize]) -> Total {
        let choices = self.items.iter().zip(chosen).map(|(item, &at)| item.choices[at]);
        choices.fold(Total::default(), |sum, c| Total { bytes: sum.bytes + c.bytes, kld: sum.kld + c.kld })
    }

    /// From the smallest file to the best, one buy after the other.
    fn curve(&self) -> Vec<Total> {
        let smallest = self.total(&vec![0; self.items.len()]);
        let bought = self.steps.iter().scan(smallest, |total, step| {
            *total = Total { bytes: total.bytes + step.bytes, kld: total.kld - step.gain };
            Some(*total)
        });
        std::iter::once(smallest).chain(bought).collect()
    }

    /// The best choices that reach the goal, if any do.
    fn best(&self, goal: Goal) -> Option<Vec<usize>> {
        let lumps: Vec<usize> = (0..self.items.len()).filter(|&n| self.items[n].lump).collect();
        let mut best: Option<(Total, Vec<usize>)> = None;
        let mut at = vec![0; self.items.len()];
        loop {
            if let Some((total, chosen)) = self.buy(at.clone(), goal) {
                let better = best.as_ref().is_none_or(|(known, _)| match goal {
                    Goal::Bytes(_) => total.kld < known.kld,
                    Goal::Kld(_) => total.bytes < known.bytes,
                });
                if better {
                    best = Some((total, chosen));
                }
            }
            // the next combination of the lumps
            let Some(&lump) = lumps.iter().find(|&&lump| at[lump] + 1 < self.items[lump].choices.len())
            else {
                return best.map(|(_, chosen)| chosen);
            };
            at[lump] += 1;
            lumps.iter().take_while(|&&lower| lower != lump).for_each(|&lower| at[lower] = 0);
        }
    }

    /// Buys for all but the lumps.
    fn buy(&self, mut at: Vec<usize>, goal: Goal) -> Option<(Total, Vec<usize>)> {
        let mut total = self.total(&at);
        let reached = |total: &Total| match goal {
            Goal::Bytes(limit) => total.bytes <= limit,
            Goal::Kld(limit) => total.kld <= limit,
        };
        for step in self.steps.iter().filter(|step| !self.items[step.item].lump) {
            let after = Total { bytes: total.bytes + step.bytes, kld: total.kld - step.gain };
            let wanted = match goal {
                Goal::Bytes(_) => reached(&after),
                Goal::Kld(_) => !reached(&total),
            };
            // a step behind one that did not fit is out of reach
            if wanted && at[step.item] == step.from {
                (at[step.item], total) = (step.from + 1, after);
            }
        }
        reached(&total).then_some((total, at))
    }
}
