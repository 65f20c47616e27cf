//! What fits into a memory: the artifact, the largest context, the recipes.

use gemma::ModelSpec;
use plan::{Artifact, GridPolicy, Recipe, Request, Shards, plan};
use quant::GridSurvey;
use serde::Serialize;
use tensor::Result;

use super::{Conditions, Engine, MAX_CONTEXT, Memory, memory};

/// Whether an artifact fits, and what would.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Verdict {
    /// The memory there is, in bytes.
    pub limit: u64,
    /// What the artifact needs with the engine that it is meant for.
    pub needed: u64,
    /// Whether that is there.
    pub fits: bool,
    /// The largest context with which the artifact fits.
    pub largest_context: Option<u64>,
    /// The embedded recipes under the same conditions, most bits a weight first.
    pub recipes: Vec<Candidate>,
    /// Where no recipe fits with any context: the recipe that needs least, and its bytes with a context of one token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub least: Option<(String, u64)>,
}

/// A recipe that a user might take.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Candidate {
    /// Its name.
    pub recipe: String,
    /// The engine that it is meant for.
    pub engine: Engine,
    /// Of the weights that text needs.
    pub bits_per_weight: f64,
    /// What it needs.
    pub needed: u64,
    /// Whether that is there.
    pub fits: bool,
    /// The largest context with which it fits.
    pub largest_context: Option<u64>,
}

/// Holds an artifact and the embedded recipes against a memory of `limit` bytes.
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
            continue; // it takes what it is given
        }
        if recipe.types.lattice == GridPolicy::Require && !shards.surveys.values().any(GridSurvey::is_on_grid)
        {
            continue; // it would refuse these weights
        }
        let request = Request::new(&name, recipe, "model");
        for artifact in plan(model, shards, &[request])?.artifacts {
            let (now, needed, largest_context) = need(model, &artifact, conditions, limit);
            let smallest = total(&memory(model, &artifact, conditions.at(1)));
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
    // of equal quality, what holds more in memory first: it is faster
    recipes.sort_by(|a, b| b.bits_per_weight.total_cmp(&a.bits_per_weight).then(b.needed.cmp(&a.needed)));
    let nothing_fits =
        largest_context.is_none() && recipes.iter().all(|candidate| candidate.largest_context.is_none());
    let least = least.filter(|_| nothing_fits).map(|(bytes, recipe)| (recipe, bytes));
    Ok(Verdict { limit, needed, fits: needed <= limit, largest_context, recipes, least })
}

/// What an artifact takes, in all, and the largest context with which that is within `limit`.
fn need(
    model: &ModelSpec,
    artifact: &Artifact,
    conditions: Conditions,
    limit: u64,
) -> (Memory, u64, Option<u64>) {
    let now = memory(model, artifact, conditions);
    let fits = |context| total(&memory(model, artifact, conditions.at(context))) <= limit;
    let largest = largest(model.config.context.clamp(1, MAX_CONTEXT), fits);
    let needed = total(&now);
    (now, needed, largest)
}

/// What the engine needs that the artifact is meant for.
fn total(memory: &Memory) -> u64 {
    memory.needs[0].total
}

/// The largest number from 1 to `most` that holds, where all below one that holds do.
fn largest(most: u64, holds: impl Fn(u64) -> bool) -> Option<u64> {
    if !holds(1) {
        return None;
    }
    let (mut good, mut bad) = (1, most + 1);
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
        for limit in 0..=20 {
            let expected = (limit > 0).then_some(limit.min(16));
            assert_eq!(largest(16, |n| n <= limit), expected, "{limit}");
        }
    }
}
