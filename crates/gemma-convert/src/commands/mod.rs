//! One file a command, and what they share: the threads, and the way from arguments to a plan.

pub(crate) mod calibrate;
pub(crate) mod convert;
pub(crate) mod draft;
mod drafter;
mod extract;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod list;
mod measure;
pub(crate) mod opened;
pub(crate) mod packaging;
pub(crate) mod plan;
pub(crate) mod sensitivity;
pub(crate) mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::checkpoint::Checkpoint;
use ::convert::Options;
use ::gemma::Model;
use ::imatrix::Importance;
use ::plan::{
    FileEntry, Format, Given, ImportanceKeys, ImportanceSource, Plan, Preset, Recipe, Request, Shards,
    TypeRule,
};
use tensor::{Error, Result};

use crate::args::What;
use crate::budget::Costs;

/// The most threads: more than any machine has processors, and no more stacks than it has room for.
const MAX_THREADS: usize = 1024;

/// Sets up the threads of the process: once, before any work.
pub(crate) fn threads(count: usize) -> Result<()> {
    if count > MAX_THREADS {
        return Err(Error::recipe("--threads", "too many").expected(format!("at most {MAX_THREADS}"), count));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(count).build_global();
    pool.map_err(|e| Error::recipe(format!("--threads {count}"), e))
}

/// Where the outputs go.
pub(crate) struct Out {
    pub(crate) folder: PathBuf,
    /// The file that was asked for by name.
    pub(crate) named: Option<String>,
}

impl Out {
    /// A path that ends in `.gguf` and is no folder is the name of a file.
    pub(crate) fn new(path: &Path) -> Out {
        let is_file = path.extension().is_some_and(|e| e == "gguf") && !path.is_dir();
        match path.file_name().filter(|_| is_file) {
            Some(name) => {
                let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                Out { folder: parent.to_owned(), named: Some(name.to_string_lossy().into_owned()) }
            }
            None => Out { folder: path.to_owned(), named: None },
        }
    }
}

/// The recipes that the arguments ask for.
pub(crate) fn requests(what: &What, out: &Out) -> Result<Vec<Request>> {
    let settings = settings(what);
    let mut requests = Vec::new();
    let recipes = what.recipes.iter().map(|name| recipe_text(name));
    let types = what.types.iter().map(|name| preset_text(name));
    for found in recipes.chain(types) {
        let (name, text) = found?;
        requests.push(request(name.clone(), Recipe::from_toml_with(&text, &name, &settings)?, what)?);
    }
    if let Some(name) = &out.named {
        let [only] = requests.as_mut_slice() else {
            return Err(Error::recipe(format!("-o {name}"), "several outputs cannot go into one file")
                .expected("one recipe or type", requests.len())
                .help("Give a folder instead."));
        };
        if only.recipe.output.format == Format::Safetensors {
            return Err(Error::recipe(format!("-o {name}"), "safetensors go into a folder")
                .help("Give the name of a folder."));
        }
        only.stem = name.strip_suffix(".gguf").unwrap_or(name).to_owned();
    }
    if let Some(path) = &what.importance {
        let given = importance(path)?;
        requests.iter_mut().for_each(|request| request.importance = Some(given.clone()));
    }
    Ok(requests)
}

/// A file of importance, read and hashed.
fn importance(path: &Path) -> Result<Given> {
    let entries = Importance::read(path)?;
    let keys = ImportanceKeys::new(&path.display().to_string(), &entries);
    let source = ImportanceSource { keys, file: Some(::convert::file_entry(path)?) };
    Ok(Given { source, entries: Some(Arc::new(entries)) })
}

/// `--set` and the options that stand for keys of a recipe.
fn settings(what: &What) -> Vec<String> {
    let mut settings = what.settings.clone();
    settings.extend(what.budget.settings());
    if let Some(size) = &what.split_max_size {
        settings.push(format!("output.split_max_size={size:?}")); // a text, even if it is a number
    }
    if let Some(size) = &what.max_shard_size {
        settings.push(format!("output.max_shard_size={size:?}"));
    }
    if what.text_only {
        settings.push("text_only=true".to_owned());
    }
    settings
}

/// The most bytes of a recipe.
const MAX_RECIPE: u64 = 1 << 20;

/// The name and the text of the recipe of a preset; of a recipe, where no preset has this name.
fn preset_text(name: &str) -> Result<(String, String)> {
    match Preset::named(name) {
        Ok(preset) => Ok((preset.name.clone(), Recipe::text_of_preset(&preset.name))),
        Err(_) if Recipe::embedded_text(name).is_some() => recipe_text(name),
        Err(error) => Err(error),
    }
}

/// The name and the text of a recipe given by name or as a file, or of a preset that no recipe is named like.
fn recipe_text(name: &str) -> Result<(String, String)> {
    let path = Path::new(name);
    if path.extension().is_some_and(|e| e == "toml") || name.contains('/') {
        let text = base::read_bounded(path, MAX_RECIPE).map_err(|e| Error::recipe(name, e.problem()))?;
        let text = String::from_utf8(text).map_err(|_| Error::recipe(name, "not UTF-8 text"))?;
        return Ok((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), text));
    }
    if let (None, Ok(preset)) = (Recipe::embedded_text(name), Preset::named(name)) {
        return Ok((preset.name.clone(), Recipe::text_of_preset(&preset.name)));
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

/// Rules of the command line go before those of the recipe.
fn request(name: String, mut recipe: Recipe, what: &What) -> Result<Request> {
    let embedding = |role: &str, dtype: &Option<String>| {
        dtype.as_ref().map(|dtype| {
            Ok(TypeRule {
                tensors: format!(r"^{role}\.weight$"),
                dtype: dtype.parse()?,
                variants: Vec::new(),
                optional: false,
                why: None,
            })
        })
    };
    let rule = |text: &String| {
        let (tensors, dtype) = text.rsplit_once('=').ok_or_else(|| {
            Error::recipe(format!("--tensor-type {text}"), "not a rule").expected("REGEX=TYPE", text)
        })?;
        Ok(TypeRule {
            tensors: tensors.to_owned(),
            dtype: dtype.parse()?,
            variants: Vec::new(),
            optional: false,
            why: None,
        })
    };
    let rules = what.tensor_types.iter().map(rule);
    let embeddings =
        [("token_embd", &what.token_embd_type), ("per_layer_token_embd", &what.per_layer_token_embd_type)];
    let embeddings = embeddings.into_iter().filter_map(|(role, dtype)| embedding(role, dtype));
    let mut first = rules.chain(embeddings).collect::<Result<Vec<_>>>()?;
    first.append(&mut recipe.types.rules);
    recipe.types.rules = first;
    let stem = ::plan::stem("model", &name, &recipe);
    Ok(Request::new(name, recipe, stem))
}

/// A checkpoint with the plan for it.
pub(crate) struct Planned {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) model: Model,
    pub(crate) plan: Plan,
    /// What it was made of besides the checkpoint, for the manifest.
    pub(crate) given: Vec<FileEntry>,
}

/// Where the tensors of a checkpoint are, with what the requests ask of their values.
pub(crate) fn shards<'a>(
    checkpoint: &'a Checkpoint,
    model: &Model,
    requests: &[Request],
) -> Result<Shards<'a>> {
    let shards = Shards::of(checkpoint);
    let surveys = ::convert::survey_grid(checkpoint, &::plan::to_survey(model, &shards, requests))?;
    Ok(Shards { surveys, ..shards })
}

/// Opens a checkpoint and plans the requests, with types by budget for those that have one.
/// `target` is asked, before long work, whether it can take what is planned.
pub(crate) fn plan_for(
    path: &Path,
    requests: &mut [Request],
    costs: &Costs<'_>,
    target: &Options,
) -> Result<Planned> {
    let checkpoint = Checkpoint::open(path)?;
    let model = Model::open(&checkpoint)?;
    let shards = shards(&checkpoint, &model, requests)?;
    let check = |plan: &Plan| ::convert::check(&checkpoint, plan, target);
    costs.choose(requests, (&checkpoint, &model, &shards), check)?;
    let plan = ::plan::plan(&model, &shards, requests)?;
    Ok(Planned { checkpoint, model, plan, given: Vec::new() })
}
