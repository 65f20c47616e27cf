//! Fit into a memory limit: of an artifact, the largest context, and the embedded recipes.

use gemma::ModelSpec;
use plan::{Artifact, Format, Recipe, Request, Shards, plan};
use schemars::JsonSchema;
use serde::Serialize;
use tensor::Result;

use super::{Conditions, Engine, MAX_CONTEXT, Memory, memory};

/// Whether an artifact fits into a memory limit, and which alternatives do.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Verdict {
    /// The memory limit in bytes.
    pub limit: u64,
    /// Bytes that the artifact needs, with the engine that it is meant for.
    pub needed: u64,
    /// Whether it fits.
    pub fits: bool,
    /// The largest context in tokens with which the artifact fits, if any.
    pub largest_context: Option<u64>,
    /// The embedded recipes under the same conditions, by descending bits per weight.
    pub recipes: Vec<Candidate>,
    /// If no recipe fits with any context: the smallest recipe, and its bytes with the shortest context, which is one
    /// token without an image and a sound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub least: Option<(String, u64)>,
}

/// A recipe as an alternative.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Candidate {
    /// The recipe's name.
    pub recipe: String,
    /// The engine that it is meant for.
    pub engine: Engine,
    /// Bits per weight, of the weights that text needs.
    pub bits_per_weight: f64,
    /// Bytes that it needs.
    pub needed: u64,
    /// Whether it fits.
    pub fits: bool,
    /// The largest context in tokens with which it fits, if any.
    pub largest_context: Option<u64>,
}

/// Compares the needs of an artifact and of the embedded recipes with a memory of `limit` bytes.
///
/// # Errors
/// Those of [`plan()`] for a recipe.
pub fn verdict(
    model: &ModelSpec,
    shards: &Shards<'_>,
    artifact: &Artifact,
    conditions: Conditions,
    limit: u64,
) -> Result<Verdict> {
    let (_, needed, largest_context) = need(model, artifact, conditions, limit);
    let mut least: Option<(u64, String)> = None;
    let mut recipes = Vec::new();
    for (name, _) in Recipe::embedded() {
        let recipe = Recipe::from_toml(Recipe::embedded_text(&name).unwrap_or_default(), &name)?;
        if recipe.budget.is_some() {
            continue; // its size is a setting
        }
        if recipe.output.format == Format::Mmproj {
            continue; // no text model
        }
        if !recipe.types.lattice.accepts(shards) {
            continue; // it refuses these weights
        }
        let request = Request::new(&name, recipe, "model");
        for artifact in plan(model, shards, &[request])?.artifacts {
            let (now, needed, largest_context) = need(model, &artifact, conditions, limit);
            let smallest = total(&memory(model, &artifact, conditions.at(conditions.least_context())));
            if least.as_ref().is_none_or(|(bytes, _)| smallest < *bytes) {
                least = Some((smallest, name.clone()));
            }
            recipes.push(Candidate {
                recipe: name.clone(),
                engine: now.needs[0].engine,
                bits_per_weight: now.weights.bits_per_weight,
                needed,
                fits: needed <= limit,
                largest_context,
            });
        }
    }
    // at equal quality, the recipe with more in memory first: it is faster
    recipes.sort_by(|a, b| b.bits_per_weight.total_cmp(&a.bits_per_weight).then(b.needed.cmp(&a.needed)));
    let nothing_fits =
        largest_context.is_none() && recipes.iter().all(|candidate| candidate.largest_context.is_none());
    let least = least.filter(|_| nothing_fits).map(|(bytes, recipe)| (recipe, bytes));
    Ok(Verdict { limit, needed, fits: needed <= limit, largest_context, recipes, least })
}

/// The needs of an artifact, its total, and the largest context with which the total is within `limit`.
fn need(
    model: &ModelSpec,
    artifact: &Artifact,
    conditions: Conditions,
    limit: u64,
) -> (Memory, u64, Option<u64>) {
    let now = memory(model, artifact, conditions);
    let fits = |context| total(&memory(model, artifact, conditions.at(context))) <= limit;
    let most = model.config.context.clamp(1, MAX_CONTEXT);
    let largest = largest(conditions.least_context(), most, fits);
    let needed = total(&now);
    (now, needed, largest)
}

/// The total for the engine that the artifact is meant for.
fn total(memory: &Memory) -> u64 {
    memory.needs[0].total
}

/// The largest number from `least` to `most` for which `holds`, which must be monotonic; found by bisection.
fn largest(least: u64, most: u64, holds: impl Fn(u64) -> bool) -> Option<u64> {
    if !holds(least) {
        return None;
    }
    let (mut good, mut bad) = (least, most + 1);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if holds(middle) { good = middle } else { bad = middle }
    }
    Some(good)
}

#[cfg(test)]
mod tests {
    use super::largest;

    #[test]
    fn the_largest_is_found_at_both_ends_and_between() {
        for least in [1, 5, 16] {
            for limit in 0..=20 {
                let expected = (limit >= least).then_some(limit.min(16));
                assert_eq!(largest(least, 16, |n| n <= limit), expected, "{least} {limit}");
            }
        }
    }
}
