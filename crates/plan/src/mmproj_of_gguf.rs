//! Planning an mmproj file of another type, from an mmproj file: the same tensors in the same order, whose values were changed when the
//! source was made.

use gemma::towers::{GELU_KEY, TowerTensor, Towers};
use gguf::Metadata;
use tensor::{Error, Result};

use crate::artifact::{Artifact, Plan};
use crate::gguf::requantised;
use crate::mmproj::{QUICK_GELU, check, laid_out, tensor};
use crate::output::Format;
use crate::presets::Preset;
use crate::recipe::Gelu;
use crate::request::{Request, Shards, distinct};
use crate::rules::Rules;

/// Plans all `requests` for one pass over an mmproj file with the keys `keys`.
///
/// # Errors
/// `Recipe` for a request of another output than an mmproj file, for a rule or a value without effect, and for two outputs with the same
/// name; `Unsupported` or `Malformed` for keys and tensors that are not of the towers of a Gemma 4.
pub fn plan_mmproj(keys: &Metadata, shards: &Shards<'_>, requests: &[Request]) -> Result<Plan> {
    let towers = Towers::from_metadata(keys, shards.tensors)?;
    let found = towers.find_in_mmproj(shards.tensors)?;
    let artifacts = requests.iter().map(|request| {
        artifact(keys, &towers, shards, &found, request)
            .map_err(|e| e.within(format!("recipe {}", request.name)))
    });
    let artifacts: Vec<_> = artifacts.collect::<Result<_>>()?;
    distinct(&artifacts)?;
    Ok(Plan {
        variant: None,
        architecture: keys.required::<&str>("general.architecture")?.to_owned(),
        inputs: shards.files.clone(),
        adapters: Vec::new(),
        notes: Vec::new(),
        artifacts,
        dropped: Vec::new(),
        target: None,
    })
}

fn artifact(
    keys: &Metadata,
    towers: &Towers,
    shards: &Shards<'_>,
    found: &[TowerTensor],
    request: &Request,
) -> Result<Artifact> {
    let recipe = &request.recipe;
    if recipe.output.format != Format::Mmproj {
        return Err(Error::recipe("output.format", "the source is an mmproj file, which has no text model")
            .expected("mmproj", "another format")
            .help("‹mmproj› makes other types of an mmproj file: ‹mmproj› q8_0."));
    }
    check(request)?;
    let preset = Preset::named(&recipe.types.preset)?;
    let mut rules = Rules::new(recipe, preset, None)?;
    let mut notes = Vec::new();
    let tensors = found.iter().map(|found| tensor(shards, found.index, &found.slot, &mut rules, &mut notes));
    let tensors = tensors.collect::<Result<Vec<_>>>()?;
    rules.finish()?;
    notes.extend(requantised(tensors.iter().map(|tensor| (&tensor.from, tensor.desc.dtype))));
    let exact = recipe.mmproj.gelu == Gelu::Exact;
    let metadata =
        gemma::mmproj_metadata_of_gguf(keys, &recipe.metadata, &recipe.kv, preset.file_type, exact)?;
    if towers.vision.is_some() && metadata.typed(GELU_KEY)? != Some(true) {
        notes.push(QUICK_GELU.to_owned());
    }
    laid_out(request, preset, &metadata, tensors, notes)
}
