//! The available recipes and presets, and the size of each for a model.

use std::path::Path;

use checkpoint::Checkpoint;
use plan::{BundleRecipe, Preset, Recipe, ReleaseRecipe, Request, preset_names};
use quant::Simd;
use tensor::{Error, Result};

use crate::model::open_checkpoint;
use crate::requests::shards;

/// A recipe or a preset.
#[derive(Clone, Debug)]
pub struct CatalogueEntry {
    /// Name of the recipe or preset.
    pub name: String,
    /// Purpose in one line.
    pub about: String,
    /// Size of all files in bytes, and bits per weight, for a model. `None` without a model, and for an entry that
    /// needs more than the checkpoint, such as a limit.
    pub size: Option<(u64, f64)>,
}

/// The embedded recipes. With a checkpoint folder, the size of each for that model.
///
/// # Errors
/// `Malformed` or `Unsupported` for the checkpoint, `Io`.
pub fn recipes(model: Option<&Path>) -> Result<Vec<CatalogueEntry>> {
    let all = Recipe::embedded().into_iter().map(|(name, about)| {
        let text = Recipe::embedded_text(&name).unwrap_or_default().to_owned();
        (CatalogueEntry { name, about, size: None }, text)
    });
    with_sizes(all.collect(), model)
}

/// The embedded release recipes. A release has no size of its own: it depends on what the model has.
pub fn release_recipes() -> Vec<CatalogueEntry> {
    let entry = |(name, about)| CatalogueEntry { name, about, size: None };
    ReleaseRecipe::embedded().into_iter().map(entry).collect()
}

/// The embedded recipes of bundles of LiteRT-LM, whose size depends on the bundle or the skeleton.
pub fn bundle_recipes() -> Vec<CatalogueEntry> {
    let entry = |(name, about)| CatalogueEntry { name, about, size: None };
    BundleRecipe::embedded().into_iter().map(entry).collect()
}

/// The presets of llama-quantize. With a checkpoint folder, the size of each for that model.
///
/// # Errors
/// `Malformed` or `Unsupported` for the checkpoint, `Io`.
pub fn presets(model: Option<&Path>) -> Result<Vec<CatalogueEntry>> {
    let all = preset_names().map(|name| {
        let about = Preset::named(name).map_or_else(
            |_| String::new(),
            |preset| {
                let dtype = preset.default_type();
                let bits = 8.0 * dtype.block_bytes() as f64 / dtype.block_len() as f64;
                format!("most tensors in {dtype}, {bits} bits per weight")
            },
        );
        (CatalogueEntry { name: name.to_owned(), about, size: None }, Recipe::text_of_preset(name))
    });
    with_sizes(all.collect(), model)
}

fn with_sizes(mut all: Vec<(CatalogueEntry, String)>, model: Option<&Path>) -> Result<Vec<CatalogueEntry>> {
    if let Some(path) = model {
        let checkpoint = open_checkpoint(path, &[])?;
        let model = gemma::ModelSpec::open_any(&checkpoint)?;
        for (entry, text) in &mut all {
            entry.size = size(&entry.name, text, &checkpoint, &model).ok();
        }
    }
    Ok(all.into_iter().map(|(entry, _)| entry).collect())
}

/// Size in bytes and bits per weight of a recipe's plan.
fn size(name: &str, text: &str, checkpoint: &Checkpoint, model: &gemma::ModelSpec) -> Result<(u64, f64)> {
    let requests = [Request::new(name, Recipe::from_toml(text, name)?, "model")];
    let plan = plan::plan(model, &shards(Simd::detect(), checkpoint, model, &requests)?, &requests)?;
    let artifact = plan.artifacts.first().ok_or_else(|| Error::recipe(name, "makes no artifact"))?;
    Ok((artifact.bytes(), artifact.bits_per_weight()))
}
