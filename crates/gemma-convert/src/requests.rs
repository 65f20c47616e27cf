//! Requests for a plan, from recipe options.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkpoint::Checkpoint;
use imatrix::Importance;
use plan::{
    BundleRecipe, Format, GivenImportance, ImportanceKeys, ImportanceSource, Preset, Recipe, Request, Shards,
    TypeRule, byte_size,
};
use quant::Simd;
use tensor::{Error, Fault, Result};

use crate::options::RecipeOptions;

/// The destination of the outputs.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The folder.
    pub folder: PathBuf,
    /// The name of the GGUF file, if the path names a file.
    pub file_name: Option<String>,
}

impl Destination {
    /// A path that ends in `.gguf` and is not a folder names a file; any other path names a folder.
    pub fn new(path: &Path) -> Destination {
        let is_file = path.extension().is_some_and(|e| e == "gguf") && !path.is_dir();
        match path.file_name().filter(|_| is_file) {
            Some(name) => {
                let parent = base::folder_of(path);
                Destination {
                    folder: parent.to_owned(),
                    file_name: Some(name.to_string_lossy().into_owned()),
                }
            }
            None => Destination { folder: path.to_owned(), file_name: None },
        }
    }
}

/// Refuses an output file that exists, unless it may be replaced.
///
/// # Errors
/// `Target`.
pub(crate) fn refuse_existing(path: &Path, force: bool) -> Result<()> {
    if path.exists() && !force {
        return Err(
            Error::exists(path.display(), "the output exists already").help("Use ‹force› to replace it.")
        );
    }
    Ok(())
}

/// One request for each recipe and preset.
///
/// # Errors
/// `Recipe` for a name or a key that does not exist, and for outputs that do not fit the destination; `Malformed` for a
/// broken importance matrix.
pub(crate) fn requests(options: &RecipeOptions, destination: &Destination) -> Result<Vec<Request>> {
    let settings = settings(options)?;
    let recipes = options.recipes.iter().map(|name| recipe_text(name));
    let presets = options.presets.iter().map(|name| preset_text(name));
    let towers = options.mmproj.iter().map(|name| mmproj_text(name));
    let parsed = recipes.chain(presets).chain(towers).map(|found| {
        let (name, text) = found?;
        let format = Recipe::from_toml(&text, &name)?.output.format;
        Ok((name, text, format))
    });
    let parsed = parsed.collect::<Result<Vec<_>>>()?;
    let is_mmproj = |format: &Format| *format == Format::Mmproj;
    let mixed = parsed.iter().any(|(.., format)| is_mmproj(format))
        && parsed.iter().any(|(.., format)| !is_mmproj(format));
    let mut requests = Vec::new();
    for (name, text, format) in parsed {
        // with both kinds of outputs in a run, each gets the settings and rules that can be for it
        let meant = |setting: &&String| !mixed || is_for(setting, is_mmproj(&format));
        let settings: Vec<_> = settings.iter().filter(meant).cloned().collect();
        let recipe = Recipe::from_toml_with(&text, &name, &settings)?;
        let rules =
            options.tensor_types.iter().filter(|rule| !mixed || is_of_towers(rule) == is_mmproj(&format));
        let embeddings = !mixed || !is_mmproj(&format);
        requests.push(request(name, recipe, rules, embeddings.then_some(options))?);
    }
    if let Some(name) = &destination.file_name {
        let [only] = requests.as_mut_slice() else {
            return Err(Error::recipe(format!("‹out› {name}"), "several outputs cannot go into one file")
                .expected("one recipe or type", requests.len())
                .help("Give a folder instead."));
        };
        if only.recipe.output.format == Format::Safetensors {
            return Err(Error::recipe(format!("‹out› {name}"), "safetensors go into a folder")
                .help("Give the name of a folder."));
        }
        only.stem = name.strip_suffix(".gguf").unwrap_or(name).to_owned();
    }
    if let Some(path) = &options.importance {
        let given = importance(path)?;
        let of_text = |request: &&mut Request| !mixed || !is_mmproj(&request.recipe.output.format);
        requests.iter_mut().filter(of_text).for_each(|request| request.importance = Some(given.clone()));
    }
    Ok(requests)
}

/// An importance matrix with the SHA-256 of its file.
///
/// # Errors
/// Those of [`Importance::read`]; `Io`.
pub(crate) fn importance(path: &Path) -> Result<GivenImportance> {
    let entries = Importance::read(path)?;
    let keys = ImportanceKeys::new(path, &entries);
    let source = ImportanceSource { keys, file: Some(convert::file_entry(path)?) };
    Ok(GivenImportance { source, entries: Some(Arc::new(entries)) })
}

/// The settings, with the options that are keys of a recipe.
///
/// # Errors
/// `Recipe` for an invalid size.
fn settings(options: &RecipeOptions) -> Result<Vec<String>> {
    for (option, size) in [
        ("‹target_size›", &options.budget.target_size),
        ("‹split_max_size›", &options.split_max_size),
        ("‹max_shard_size›", &options.max_shard_size),
    ] {
        size.as_ref().map(|size| byte_size(option, size)).transpose()?;
    }

    let mut settings = options.settings.clone();
    settings.extend(options.budget.settings());
    if let Some(size) = &options.split_max_size {
        settings.push(format!("output.split_max_size={size:?}")); // a text, even if it is a number
    }
    if let Some(size) = &options.max_shard_size {
        settings.push(format!("output.max_shard_size={size:?}"));
    }
    if options.text_only {
        settings.push("text_only=true".to_owned());
    }
    Ok(settings)
}

/// The largest size of a recipe file in bytes.
const MAX_RECIPE: u64 = 1 << 20;

/// Name and TOML text of the recipe of a preset; if no preset has this name, of an embedded recipe.
fn preset_text(name: &str) -> Result<(String, String)> {
    match Preset::named(name) {
        Ok(preset) => Ok((preset.name.clone(), Recipe::text_of_preset(&preset.name))),
        Err(_) if Recipe::embedded_text(name).is_some() => recipe_text(name),
        Err(error) => Err(error),
    }
}

/// Name and TOML text of the recipe of an mmproj file.
fn mmproj_text(preset: &str) -> Result<(String, String)> {
    let preset = Preset::named(preset)?;
    Ok((format!("mmproj-{}", preset.name), Recipe::text_of_mmproj(&preset.name)))
}

/// Whether a setting is for an mmproj file (or else for the text model), in a run that makes both.
fn is_for(setting: &str, mmproj: bool) -> bool {
    let of_towers = ["mmproj.", "kv.clip."].iter().any(|start| setting.starts_with(start));
    let of_both = ["metadata.", "kv.general."].iter().any(|start| setting.starts_with(start));
    of_both || of_towers == mmproj
}

/// Whether a type rule is for tensors of an mmproj file: its expression begins like their names.
fn is_of_towers(rule: &str) -> bool {
    gemma::towers::names_tower(&rule.trim_start_matches('^').replace('\\', ""))
}

/// Name and TOML text of a recipe file, if this is the path of one and not the name of an embedded recipe.
pub(crate) fn recipe_file(name: &str) -> Result<Option<(String, String)>> {
    let path = Path::new(name);
    if path.extension().is_none_or(|e| e != "toml") && !name.contains('/') {
        return Ok(None);
    }
    let text = base::read_bounded(path, MAX_RECIPE).map_err(|e| e.moved(Fault::Recipe, name))?;
    let text = String::from_utf8(text).map_err(|_| Error::recipe(name, "not UTF-8 text"))?;
    Ok(Some((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), text)))
}

/// Name and TOML text of an embedded recipe or of a file; if no recipe has this name, of a preset.
pub(crate) fn recipe_text(name: &str) -> Result<(String, String)> {
    if let Some(found) = recipe_file(name)? {
        return Ok(found);
    }
    if let (None, Ok(preset)) = (Recipe::embedded_text(name), Preset::named(name)) {
        return Ok((preset.name.clone(), Recipe::text_of_preset(&preset.name)));
    }
    if BundleRecipe::named(name).is_ok() {
        return Err(Error::recipe(format!("recipe {name:?}"), "a recipe of a bundle of LiteRT-LM").help(
            "Name the output .litertlm. For another graph than those of E2B and E4B give a bundle with ‹bundle›, and the checkpoint from which it was made \
             with ‹bundle_base›; or a graph with ‹skeleton›.",
        ));
    }
    match Recipe::embedded_text(name) {
        Some(text) => Ok((name.to_ascii_lowercase(), text.to_owned())),
        None => {
            let known: Vec<_> = Recipe::embedded().into_iter().map(|(name, _)| name).collect();
            let help = match Recipe::similar_name(name) {
                Some(similar) => format!("Did you mean {similar}?"),
                None => "Give a recipe, a preset of llama-quantize, or the path of a .toml file.".to_owned(),
            };
            let error = Error::recipe(format!("recipe {name:?}"), "no such recipe");
            Err(error.expected(known.join(", "), name).help(help))
        }
    }
}

/// A request. The given rules, and the types of the embeddings in `options`, precede the rules of the recipe.
fn request<'a>(
    name: String,
    mut recipe: Recipe,
    rules: impl Iterator<Item = &'a String>,
    options: Option<&RecipeOptions>,
) -> Result<Request> {
    let rule = |tensors: String, dtype: &str| {
        Ok(TypeRule { tensors, dtype: dtype.parse()?, variants: Vec::new(), optional: false, why: None })
    };
    let rules = rules.map(|text| {
        let (tensors, dtype) = text.rsplit_once('=').ok_or_else(|| {
            Error::recipe(format!("‹tensor_type› {text}"), "not a rule").expected("REGEX=TYPE", text)
        })?;
        rule(tensors.to_owned(), dtype)
    });
    let embeddings = [
        ("token_embd", options.and_then(|options| options.token_embd_type.as_ref())),
        ("per_layer_token_embd", options.and_then(|options| options.per_layer_token_embd_type.as_ref())),
    ];
    let embeddings = embeddings
        .into_iter()
        .filter_map(|(role, dtype)| dtype.map(|dtype| rule(format!(r"^{role}\.weight$"), dtype)));
    let mut first = rules.chain(embeddings).collect::<Result<Vec<_>>>()?;
    first.append(&mut recipe.types.rules);
    recipe.types.rules = first;
    let kind = if recipe.output.format == Format::Mmproj { "mmproj" } else { "model" };
    let stem = plan::stem(kind, &name, &recipe);
    Ok(Request::new(name, recipe, stem))
}

/// The shards of a checkpoint, with the grid surveys that the requests need.
pub(crate) fn shards<'a>(
    simd: Simd,
    checkpoint: &'a Checkpoint,
    model: &gemma::ModelSpec,
    requests: &[Request],
) -> Result<Shards<'a>> {
    let shards = Shards::of(checkpoint);
    let surveys = convert::survey_grid(simd, checkpoint, &plan::to_survey(model, &shards, requests))?;
    Ok(Shards { surveys, ..shards })
}
