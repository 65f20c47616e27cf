//! Conversion into a bundle of LiteRT-LM: the weights of a fine-tune take the place of those of its base in a given bundle, or of the
//! zeros in a new one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use base::{OutputFile, Progress};
use checkpoint::{Adapter, Checkpoint};
use imatrix::Importance;
use litert::{
    Bundle, BundleScales, BundleTypes, EmptyBundle, FileSource, GraphTensorName, Mapped, Section,
    SectionType, Source, Transplant,
};
use plan::{
    AdapterEntry, ArtifactEntry, BundleRecipe, FileEntry, GivenImportance, HubSource, ImportanceSource,
    ScaleRule,
};
use rayon::prelude::*;
use serde_json::{Value, json};
use tensor::{Error, Result, TensorSource};

use crate::TOOL;
use crate::model::open_checkpoint;
use crate::requests::{self, recipe_file};

use super::bundle_skeleton::{embedded, empty_bundle};
use super::bundle_tensors::{GraphText, Text, used, wanted};

/// The name of a recipe in manifests where none was given.
const RECIPE: &str = "litertlm";

/// Files of a checkpoint whose content is in a bundle, too.
pub(super) const TOKENIZER: &str = "tokenizer.json";
const COMPANIONS: [&str; 2] = [TOKENIZER, "chat_template.jinja"];
/// The largest of them.
pub(super) const MAX_COMPANION: u64 = 256 << 20;
/// The largest graph skeleton.
const MAX_SKELETON: u64 = 16 << 20;

/// The bundle from which a conversion takes the graph.
#[derive(Clone, Debug)]
pub enum BundleGraph {
    /// A file. Its graph, tokenizer, metadata and other models stay as they are.
    File {
        /// The bundle.
        bundle: PathBuf,
        /// The checkpoint folder from which it was made.
        base: PathBuf,
        /// Types of the weights, without a recipe.
        types: BundleTypes,
    },
    /// An embedded graph skeleton, for a backend. Tokenizer and metadata come from the checkpoint, and the types from the recipe.
    Embedded(BundleBackend),
    /// A file with a graph skeleton, which `cargo xtask skeleton` makes; all else as with an embedded one.
    Skeleton(PathBuf),
}

/// The backend of LiteRT-LM for which the graph of a bundle was exported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BundleBackend {
    /// Processors.
    #[default]
    Cpu,
    /// Graphics processors: operators are fused (`apply_gpu_composites`), and the caches of sliding windows are ring buffers. The CPU
    /// backend runs it, too.
    Gpu,
}

impl fmt::Display for BundleBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            BundleBackend::Cpu => "cpu",
            BundleBackend::Gpu => "gpu",
        })
    }
}

/// Makes a bundle with the weights of a checkpoint.
#[derive(Clone, Debug)]
pub struct ConvertBundle {
    /// The checkpoint folder of the fine-tune.
    pub model: PathBuf,
    /// The repository of the hub from which it came, for the manifest.
    pub source: Option<HubSource>,
    /// Adapters (LoRA) that are merged into it, in order.
    pub adapters: Vec<Adapter>,
    /// Where the graph comes from.
    pub graph: BundleGraph,
    /// The file to write; its name ends in `.litertlm`.
    pub out: PathBuf,
    /// A recipe of a bundle, a name or a file, which gives the type of each matrix.
    pub recipe: Option<String>,
    /// A file with an importance matrix (imatrix), for recipes that search scales.
    pub importance: Option<PathBuf>,
    /// Replaces an existing file.
    pub force: bool,
}

/// The result.
#[derive(Clone, Debug)]
pub struct ConvertedBundle {
    /// The file.
    pub path: PathBuf,
    /// Its manifest.
    pub manifest: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
    /// Number of constants that were written.
    pub constants: usize,
    /// Number of constants with another type than in the given bundle.
    pub retyped: usize,
    /// Bytes by which these types make the file larger.
    pub growth: u64,
    /// Sections that were copied.
    pub copied: Vec<String>,
}

impl ConvertBundle {
    /// Finds the place of each weight, and writes the bundle with those of the checkpoint.
    ///
    /// # Errors
    /// Those of [`litert::map`] and [`Transplant::plan`]; `Recipe` for a name with another ending, for a new bundle without a
    /// recipe, and for an importance matrix that the recipe does not use; `Target` for a file that exists; `Unsupported` for a fine-tune with another vocabulary than the bundle's, and for
    /// another architecture than the skeleton's.
    pub fn run(&self, progress: &dyn Progress) -> Result<ConvertedBundle> {
        self.check_out()?;
        let recipe = self.recipe()?;
        let importance = self.importance(recipe.as_ref())?;
        let tuned = Text::open(open_checkpoint(&self.model, &self.adapters)?)?;
        let planned = match &self.graph {
            BundleGraph::File { bundle, base, types } => {
                let planned = self.plan_of_file((bundle, base), *types, recipe.as_ref(), &tuned, progress);
                planned.map_err(|e| e.within(bundle.display()))?
            }
            BundleGraph::Embedded(backend) => new(&tuned, recipe.as_ref(), &embedded(*backend))?,
            BundleGraph::Skeleton(path) => {
                let packed = base::read_regular(path, MAX_SKELETON)?;
                new(&tuned, recipe.as_ref(), &[&packed]).map_err(|e| e.within(path.display()))?
            }
        };
        let Planned { source, plan, tensors, old_len, copied } = planned;
        let scales = match recipe.as_ref().map(|(_, recipe)| recipe.types.scales).unwrap_or_default() {
            ScaleRule::MinMax => BundleScales::MinMax,
            ScaleRule::Search => {
                let given = importance.as_ref().and_then(|GivenImportance { source, entries }| {
                    Some((entries.as_deref()?, source.keys.file.as_str()))
                });
                searched(&tensors, given)?
            }
        };
        let out = OutputFile::create(&self.out)?;
        let importance = importance.map(|given| given.source);
        // a file is hashed by one thread, while the others encode
        let (inputs, written) = rayon::join(
            || self.inputs(&tuned.checkpoint, importance.as_ref()),
            || plan.write(&*source, &tensors.tensors, &scales, &out, progress),
        );
        written?;
        let inputs = inputs?;
        tuned.checkpoint.check_unchanged()?;
        let mut entry = self.entry(&plan, recipe, &tuned.checkpoint, inputs);
        entry.importance = importance.map(|source| source.keys);
        let (entry, manifest) = convert::publish_named(out, entry)?;
        let FileEntry { bytes, sha256, .. } = entry.outputs[0].clone();
        let retyped = plan.replacements.iter().filter(|replacement| replacement.before != replacement.after);
        Ok(ConvertedBundle {
            path: self.out.clone(),
            manifest,
            bytes,
            sha256,
            constants: plan.replacements.len(),
            retyped: retyped.count(),
            growth: plan.file_len.saturating_sub(old_len),
            copied,
        })
    }

    /// The plan for a given bundle.
    fn plan_of_file<'t>(
        &self,
        (bundle, base): (&Path, &Path),
        types: BundleTypes,
        recipe: Option<&(String, BundleRecipe)>,
        tuned: &'t Text,
        progress: &dyn Progress,
    ) -> Result<Planned<'t>> {
        let file = FileSource::open(bundle)?;
        let base_folder = base;
        let base = Text::open(open_checkpoint(base, &[])?)?;
        let bundle = Bundle::read(&file)?;
        if let Some(section) = other_vocabulary(&bundle, &file, tuned.checkpoint.dir())? {
            let error = Error::unsupported(section, OTHER_VOCABULARY);
            return Err(error.help("Use a bundle that was made with the tokenizer of the fine-tune."));
        }
        let mapped = litert::map(&bundle, &file, &base.checkpoint, &wanted(&base.inventory))?;
        let names: BTreeMap<usize, &str> =
            used(&base.inventory).map(|found| (found.index, found.slot.gguf.as_str())).collect();
        let bits = recipe.map(|(_, recipe)| recipe.bits()).transpose()?;
        let types = |index: usize| match &bits {
            Some(bits) => BundleTypes::Exactly(bits(names.get(&index).copied().unwrap_or_default())),
            None => types,
        };
        let counterparts = base.counterparts(tuned);
        let plan =
            Transplant::plan(&bundle, &mapped, &base.checkpoint, &tuned.checkpoint, &counterparts, &types)?;
        let copied: Vec<&Section> = copied(&bundle, &mapped).collect();
        for note in by_correlation(&mapped)
            .into_iter()
            .chain(self.companions(base_folder))
            .chain(towers(&copied, &base, tuned)?)
        {
            progress.note(&note);
        }
        let copied = copied.into_iter().map(Section::title).collect();
        let tensors = GraphText::new(&tuned.checkpoint, &tuned.inventory);
        Ok(Planned { old_len: bundle.file_len(), source: Box::new(file), plan, tensors, copied })
    }

    /// The recipe and its name.
    fn recipe(&self) -> Result<Option<(String, BundleRecipe)>> {
        let Some(name) = &self.recipe else { return Ok(None) };
        Ok(Some(match recipe_file(name)? {
            Some((name, text)) => {
                let recipe = BundleRecipe::from_toml(&text, &name)?;
                (name, recipe)
            }
            None => (name.to_ascii_lowercase(), BundleRecipe::named(name)?),
        }))
    }

    /// The importance matrix.
    fn importance(&self, recipe: Option<&(String, BundleRecipe)>) -> Result<Option<GivenImportance>> {
        let Some(path) = &self.importance else { return Ok(None) };
        if recipe.is_none_or(|(_, recipe)| recipe.types.scales != ScaleRule::Search) {
            let error = Error::recipe(
                "‹importance›",
                "the scales are those of the largest magnitudes, whatever the importance",
            );
            return Err(error.help(
                "Use the recipe litertlm-int4-search, or put `scales = \"search\"` under [types] of a recipe.",
            ));
        }
        requests::importance(path).map(Some)
    }

    /// The files of the checkpoint, by their names in its folder, that of the graph, and that of the importance.
    fn inputs(&self, tuned: &Checkpoint, importance: Option<&ImportanceSource>) -> Result<Vec<FileEntry>> {
        let shards = tuned
            .shards()
            .iter()
            .filter(|shard| !shard.is_adapter)
            .map(|shard| (&shard.name, shard.path.clone()));
        let others = tuned.companions().iter().map(|file| (&file.name, tuned.dir().join(&file.name)));
        let all: Vec<_> = shards.chain(others).collect();
        let named = all
            .into_par_iter()
            .map(|(name, path)| Ok(FileEntry { name: name.clone(), ..convert::file_entry(&path)? }));
        let mut inputs = named.collect::<Result<Vec<_>>>()?;
        let graph = match &self.graph {
            BundleGraph::File { bundle, .. } => Some(bundle),
            BundleGraph::Embedded(_) => None,
            BundleGraph::Skeleton(file) => Some(file),
        };
        inputs.extend(graph.map(|file| convert::file_entry(file)).transpose()?);
        inputs.extend(importance.and_then(|source| source.file.clone()));
        Ok(inputs)
    }

    /// The entry of the manifest.
    fn entry(
        &self,
        plan: &Transplant,
        recipe: Option<(String, BundleRecipe)>,
        tuned: &Checkpoint,
        inputs: Vec<FileEntry>,
    ) -> ArtifactEntry {
        let of_recipe = recipe.as_ref().map(|(_, recipe)| json!(recipe.types));
        let settings = match &self.graph {
            BundleGraph::File { bundle, base, types } => {
                let types = of_recipe.unwrap_or_else(|| json!(types.to_string()));
                json!({ "bundle": bundle, "bundle_base": base, "types": types })
            }
            BundleGraph::Embedded(backend) => json!({ "backend": backend.to_string(), "types": of_recipe }),
            BundleGraph::Skeleton(path) => json!({ "skeleton": path, "types": of_recipe }),
        };
        ArtifactEntry {
            recipe: recipe.map_or_else(|| RECIPE.to_owned(), |(name, _)| name),
            settings,
            tool: TOOL.to_owned(),
            plan_sha256: base::hex(&base::Sha256::of(format!("{plan:?}"))),
            source: self.source.clone(),
            adapters: tuned.adapters().iter().map(AdapterEntry::new).collect(),
            target: None,
            importance: None,
            allocation: None,
            calibration: None,
            repacked: Vec::new(),
            inputs,
            outputs: Vec::new(),
            parts: Vec::new(),
        }
    }

    fn check_out(&self) -> Result<()> {
        if self.out.extension().is_none_or(|extension| extension != "litertlm") {
            return Err(Error::recipe("‹out›", "not the name of a bundle")
                .expected("a name that ends in .litertlm", self.out.display()));
        }
        if !self.force && self.out.exists() {
            return Err(Error::exists(self.out.display(), "the file exists")
                .help("Choose another name, or use ‹force› to replace it."));
        }
        Ok(())
    }

    /// Notes about files that differ from those of the base, which the bundle keeps.
    fn companions(&self, base: &Path) -> Vec<String> {
        let differs = |name: &&&str| {
            let (base, tuned) = (read_companion(base, name), read_companion(&self.model, name));
            base.is_some() && tuned.is_some() && base != tuned
        };
        let note =
            |name| format!("{name} of the fine-tune differs from that of its base, which the bundle keeps");
        COMPANIONS.iter().filter(differs).map(note).collect()
    }
}

/// Searched scales, with the importance of columns that a file has.
///
/// # Errors
/// Those of [`plan::column_weights`].
pub(super) fn searched(
    text: &GraphText<'_>,
    importance: Option<(&Importance, &str)>,
) -> Result<BundleScales> {
    let tensors = text.tensors.tensors();
    let named = used(&text.inventory).map(|found| {
        // all parts of a fused matrix have the same inputs
        let name = GraphTensorName::parse(&found.slot.gguf)?.parts[0];
        Ok((name, found.index, &tensors[found.index]))
    });
    let named = named.collect::<Result<Vec<_>>>()?;
    let weights = importance.map(|given| plan::column_weights(given, named)).transpose()?;
    Ok(BundleScales::Search(weights.unwrap_or_default()))
}

/// A bundle that is to be written.
struct Planned<'t> {
    /// What is copied.
    source: Box<dyn Source>,
    plan: Transplant,
    /// What is written.
    tensors: GraphText<'t>,
    /// Size of the given bundle.
    old_len: u64,
    /// Its sections that stay.
    copied: Vec<String>,
}

/// The plan for a new bundle.
fn new<'t>(
    tuned: &'t Text,
    recipe: Option<&(String, BundleRecipe)>,
    skeletons: &[&[u8]],
) -> Result<Planned<'t>> {
    let Some((_, recipe)) = recipe else {
        return Err(Error::recipe("‹recipe›", "a new bundle has no types without a recipe"));
    };
    let (EmptyBundle { bundle, source, mapped }, tensors) = empty_bundle(tuned, recipe, skeletons)?;
    let written = &tensors.tensors;
    let same = (0..written.tensors().len()).map(|index| (index, index)).collect();
    let plan = Transplant::plan(&bundle, &mapped, written, written, &same, &|_| BundleTypes::Keep)?;
    Ok(Planned { old_len: bundle.file_len(), source: Box::new(source), plan, tensors, copied: Vec::new() })
}

/// A file of a checkpoint folder, if there is one that can be read.
fn read_companion(folder: &Path, name: &str) -> Option<Vec<u8>> {
    let path = folder.join(name);
    fs::metadata(&path).is_ok().then(|| base::read_regular(&path, MAX_COMPANION).ok()).flatten()
}

pub(super) const OTHER_VOCABULARY: &str =
    "its vocabulary is not that of the checkpoint: the model would read other tokens";

/// The section with a tokenizer, if its vocabulary is not that of `tokenizer.json` in the folder. A tokenizer in SentencePiece's format is
/// not compared.
///
/// # Errors
/// `Malformed` for a damaged section; `Limit`.
pub(super) fn other_vocabulary(bundle: &Bundle, from: &dyn Source, folder: &Path) -> Result<Option<String>> {
    let section = bundle.sections.iter().find(|section| section.content == SectionType::TOKENIZER);
    let (Some(section), Some(own)) = (section, read_companion(folder, TOKENIZER)) else { return Ok(None) };
    let part = bundle.part(from, section)?;
    if part.len() > MAX_COMPANION {
        return Err(Error::limit(section.title(), "implausibly large")
            .expected(format!("at most {MAX_COMPANION} bytes"), part.len()));
    }
    let mut packed = vec![0; part.len() as usize];
    part.read_at(0, &mut packed)?;
    let found = litert::unpack_tokenizer(&packed)?;
    let vocabulary = |json: &[u8]| {
        let json: Value = serde_json::from_slice(json).ok()?;
        json.pointer("/model/vocab").cloned()
    };
    Ok((vocabulary(&own) != vocabulary(&found)).then(|| section.title()))
}

/// Sections that stay as they are.
fn copied<'a>(bundle: &'a Bundle, mapped: &[Mapped]) -> impl Iterator<Item = &'a Section> {
    let replaced: Vec<usize> = mapped.iter().map(|mapped| mapped.section).collect();
    bundle.sections.iter().enumerate().filter(move |(number, _)| !replaced.contains(number)).map(|(_, s)| s)
}

/// A note if constants of the bundle do not have the bytes of the rounded base.
fn by_correlation(mapped: &[Mapped]) -> Option<String> {
    let all = mapped.iter().flat_map(|mapped| &mapped.assignments);
    let count = all.filter(|assignment| !assignment.is_equal).count();
    (count > 0).then(|| {
        format!(
            "{count} constants are not the min-max rounding of the base, and were found by correlation with its tensors: the bundle is of \
             quantization-aware training, or of another version of the base"
        )
    })
}

/// A note if the bundle keeps models and the fine-tune has other weights than its base outside of the text model.
fn towers(copied: &[&Section], base: &Text, tuned: &Text) -> Result<Option<String>> {
    let models: Vec<_> = copied.iter().filter(|section| section.content == SectionType::MODEL).collect();
    if models.is_empty() {
        return Ok(None);
    }
    let tensors = tuned.checkpoint.tensors();
    for dropped in &base.inventory.dropped {
        let desc = &base.checkpoint.tensors()[dropped.index];
        let Some(index) = tensors.iter().position(|other| other.name == desc.name) else { continue };
        if !tensor::are_equal((&base.checkpoint, dropped.index), (&tuned.checkpoint, index))? {
            let models: Vec<_> = models.iter().map(|section| section.title()).collect();
            return Ok(Some(format!(
                "{} of the fine-tune differs from its base, to which these models of the bundle belong: {}",
                desc.name,
                models.join(", ")
            )));
        }
    }
    Ok(None)
}
