//! `recipes` and `types`: what there is to choose from, and of a model how large each would be.

use ::checkpoint::Checkpoint;
use ::gemma::Model;
use ::plan::{Preset, Recipe, Request, preset_names};
use serde_json::json;
use tensor::Result;

use crate::args;
use crate::commands::shards;
use crate::outcome::Output;
use report::{Table, grouped};

/// The recipes that are embedded.
pub(crate) fn recipes(args: &args::List) -> Result<Output> {
    let all = Recipe::embedded().into_iter().map(|(name, purpose)| {
        let text = Recipe::embedded_text(&name).unwrap_or_default().to_owned();
        Choice { name, about: purpose, text }
    });
    list("recipe", "purpose", &all.collect::<Vec<_>>(), args)
}

/// The presets of llama-quantize.
pub(crate) fn types(args: &args::List) -> Result<Output> {
    let all = preset_names().map(|name| {
        let about = Preset::named(name).map_or_else(
            |_| String::new(),
            |preset| {
                let dtype = preset.default_type();
                let bits = 8.0 * dtype.block_bytes() as f64 / dtype.block_len() as f64;
                format!("most tensors in {dtype}, {bits} bits a weight")
            },
        );
        Choice { name: name.to_owned(), about, text: Recipe::text_of_preset(name) }
    });
    list("type", "about", &all.collect::<Vec<_>>(), args)
}

/// A row of the list, with the text of its recipe.
struct Choice {
    name: String,
    about: String,
    text: String,
}

/// What a choice makes of a model.
struct Size {
    bytes: u64,
    bits: f64,
}

fn list(what: &str, about: &str, all: &[Choice], args: &args::List) -> Result<Output> {
    let opened = match &args.model {
        Some(path) => {
            let checkpoint = Checkpoint::open(path)?;
            let model = Model::open_any(&checkpoint)?;
            Some((checkpoint, model))
        }
        None => None,
    };
    let mut table = match opened {
        Some(_) => Table::new(&[what, "bytes", "bits a weight", about]),
        None => Table::new(&[what, about]),
    };
    let mut rows = Vec::new();
    for choice in all {
        let size = opened.as_ref().and_then(|(checkpoint, model)| size(choice, checkpoint, model).ok());
        let mut row = json!({ "name": choice.name, about: choice.about });
        let mut cells = vec![choice.name.clone()];
        if opened.is_some() {
            cells.push(size.as_ref().map_or("-".to_owned(), |size| grouped(size.bytes)));
            cells.push(size.as_ref().map_or("-".to_owned(), |size| format!("{:.2}", size.bits)));
            row["bytes"] = size.as_ref().map(|size| size.bytes).into();
            row["bits_a_weight"] = size.as_ref().map(|size| size.bits).into();
        }
        cells.push(choice.about.clone());
        table.row(cells);
        rows.push(row);
    }
    let mut json = json!({});
    json[format!("{what}s")] = rows.into();
    Ok(Output::new(table.render(), json))
}

/// The size of what a recipe plans; an error for one that needs more than the checkpoint, such as a limit.
fn size(choice: &Choice, checkpoint: &Checkpoint, model: &Model) -> Result<Size> {
    let recipe = Recipe::from_toml(&choice.text, &choice.name)?;
    let requests = [Request::new(&choice.name, recipe, "model")];
    let plan = ::plan::plan(model, &shards(checkpoint, model, &requests)?, &requests)?;
    let files = plan.artifacts.iter().flat_map(|artifact| &artifact.files);
    let bytes = files.clone().map(|file| file.bytes).sum();
    let tensors = files.flat_map(|file| &file.tensors);
    let (stored, weights) = tensors
        .fold((0, 0), |(stored, weights), tensor| (stored + tensor.bytes, weights + tensor.desc.elements()));
    Ok(Size { bytes, bits: 8.0 * stored as f64 / weights.max(1) as f64 })
}
