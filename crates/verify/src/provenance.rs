//! The recipe of an artifact: from the manifest beside it, or else the preset that `general.file_type` names, or the
//! scheme by which its safetensors are stored.
//!
//! A manifest also has the size and SHA-256 of the files as written, which detects later damage.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use checkpoint::{Checkpoint, Shard};
use eval::HashedFile;
use gemma::{Config, ModelKind};
use gguf::GgufSet;
use imatrix::Importance;
use plan::{
    ArtifactEntry, CALIBRATION, Calibration, CalibrationMethod, FileEntry, Gelu, ImportanceKeys,
    MaskedEmbedding, Preset, Recipe, preset_names,
};
use rayon::prelude::*;
use tensor::{Error, Result, TensorSource};

use crate::artifact::{Artifact, Part, is_mmproj};
use crate::digests::tensor_digests;
use crate::manifest::{describing, inside};
use crate::{Finding, Severity, Step};

/// Prefix of the tensors of a draft model's ordered embedding.
pub(crate) const ORDERED: &str = "masked_embd";

/// The origin of an artifact.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// The recipe, recorded or inferred.
    pub recipe: Recipe,
    /// The imatrix that it was made with, by its keys.
    pub importance: Option<ImportanceKeys>,
    /// The entries of that imatrix, if it [was found](Provenance::find_importance).
    pub entries: Option<Arc<Importance>>,
    /// The source of the recipe: `manifest`, `general.file_type 2 (q4_0)`.
    pub plan: String,
    /// Whether this is the recipe that was used, and not only one of the same preset: see [`crate::Expected::binding`].
    pub binding: bool,
    /// The artifact's entry in the manifest.
    pub entry: Option<ArtifactEntry>,
    /// Findings about the manifest.
    pub findings: Vec<Finding>,
    /// The names in the manifest by the names of renamed files.
    renamed: HashMap<String, String>,
    /// SHA-256 of the files that were hashed to find the entry.
    hashes: HashMap<PathBuf, String>,
}

impl Provenance {
    /// Looks for a manifest beside the artifact, then at the artifact's keys.
    ///
    /// # Errors
    /// `Io` for an artifact that cannot be read, `Malformed` for a `general.file_type` that is not a number.
    pub fn of<'a>(artifact: impl Into<Artifact<'a>>) -> Result<Provenance> {
        let artifact = artifact.into();
        let (mut findings, mut hashes) = (Vec::new(), HashMap::new());
        let described = describing(&artifact.parts(), &mut hashes, &mut findings)?;
        let (mut entry, mut renamed) = (None, HashMap::new());
        if let Some(found) = described {
            let recipe = serde_json::from_value(found.entry.settings.clone());
            let importance = found.entry.importance.clone();
            (entry, renamed) = (Some(found.entry), found.renamed);
            for (is, was) in &renamed {
                let problem = format!("renamed: {} calls it {was}", found.path.display());
                findings.push(Finding::new(Severity::Note, Step::Structure, is, problem));
            }
            match recipe {
                Ok(recipe) => {
                    // a checkpoint does not have the values that a GGUF was quantized from
                    let binding = !entry.as_ref().is_some_and(is_from_gguf);
                    let plan =
                        if binding { "manifest" } else { "manifest, of a conversion of a GGUF" }.to_owned();
                    let found = Provenance {
                        recipe,
                        importance,
                        entries: None,
                        plan,
                        binding,
                        entry,
                        findings,
                        renamed,
                        hashes,
                    };
                    return Ok(found);
                }
                // of `edit`, which copies tensors
                Err(_) if entry.as_ref().is_some_and(|entry| entry.settings.is_null()) => {}
                // its hashes are still valid
                Err(error) => findings.push(Finding::new(
                    Severity::Warning,
                    Step::Structure,
                    found.path.display(),
                    format!("its recipe is of another version of gemma-convert: {error}"),
                )),
            }
        }
        let (recipe, plan, importance) = match artifact {
            Artifact::Gguf(set) => by_keys(set)?,
            Artifact::Folder(folder) => {
                let (recipe, plan) = by_storage(folder)?;
                (recipe, plan, None)
            }
        };
        Ok(Provenance {
            recipe,
            importance,
            entries: None,
            plan,
            binding: false,
            entry,
            findings,
            renamed,
            hashes,
        })
    }

    /// The names in the manifest by the names of renamed files.
    pub fn renamed(&self) -> &HashMap<String, String> {
        &self.renamed
    }

    /// The number of bytes that [`Provenance::check_files`] hashes.
    pub fn bytes<'a>(&self, artifact: impl Into<Artifact<'a>>) -> u64 {
        match &self.entry {
            Some(entry) => entry.outputs.iter().fold(0, |sum, file| sum.saturating_add(file.bytes)),
            None => artifact.into().parts().iter().map(|part| part.len).sum(),
        }
    }

    /// Compares names, sizes and SHA-256 of the artifact's files with the manifest; without one, compares the tensors
    /// of a GGUF with the digests in its keys. Returns the files with their hashes. `progress` gets byte counts.
    ///
    /// # Errors
    /// `Io`.
    pub fn check_files<'a>(
        &self,
        artifact: impl Into<Artifact<'a>>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(Vec<HashedFile>, Vec<Finding>)> {
        let artifact = artifact.into();
        let mut parts = artifact.parts();
        let hashed = |part: &Part| self.hashed(part, progress);
        let Some(entry) = &self.entry else {
            let files = parts.par_iter().map(hashed).collect::<Result<_>>()?;
            return match artifact {
                Artifact::Gguf(set) => Ok((files, tensor_digests(set)?)),
                Artifact::Folder(_) => Ok((files, Vec::new())),
            };
        };
        let mut findings = Vec::new();
        if let Artifact::Folder(folder) = artifact {
            let is = |part: &Part, name: &str| part.name == name || self.named(part) == name;
            let others = entry.outputs.iter().filter(|file| !parts.iter().any(|part| is(part, &file.name)));
            let others: Vec<_> = others.map(|file| &file.name).collect();
            for name in others {
                match inside(folder.dir(), name) {
                    Ok(Some(path)) => {
                        let len = path.metadata().map_err(|e| Error::io(path.display(), &e))?.len();
                        parts.push(Part { name: name.clone(), path, len });
                    }
                    Ok(None) => findings.push(failure(name, "missing: the manifest names it")),
                    Err(problem) => {
                        let problem = format!("the manifest names it, and it was not read: {problem}");
                        findings.push(failure(name, &problem));
                    }
                }
            }
        }
        let files: Vec<HashedFile> = parts.par_iter().map(hashed).collect::<Result<_>>()?;
        findings.extend(parts.iter().zip(&files).filter_map(|(part, found)| {
            let called = self.named(part);
            match entry.outputs.iter().find(|file| file.name == called) {
                Some(file) => changed(file, &part.name, found),
                None => Some(failure(&part.name, "not one of the files that the manifest names")),
            }
        }));
        Ok((files, findings))
    }

    /// The name of a part in the manifest.
    fn named<'p>(&'p self, part: &'p Part) -> &'p str {
        self.renamed.get(&part.name).unwrap_or(&part.name)
    }

    /// A part with its SHA-256, which finding the manifest may have needed already.
    fn hashed(&self, part: &Part, progress: &(dyn Fn(u64) + Sync)) -> Result<HashedFile> {
        match self.hashes.get(&part.path) {
            Some(known) => {
                progress(part.len);
                let path = part.path.display().to_string();
                Ok(HashedFile { path, bytes: part.len, sha256: known.clone() })
            }
            None => HashedFile::read(&part.path, progress),
        }
    }
}

/// Whether the weights of an artifact come from a GGUF: they are the first inputs.
fn is_from_gguf(entry: &ArtifactEntry) -> bool {
    entry.inputs.first().is_some_and(|file| file.name.ends_with(".gguf"))
}

/// The finding about a file that differs from its entry in the manifest.
pub(crate) fn changed(file: &FileEntry, name: &str, found: &HashedFile) -> Option<Finding> {
    let finding = |expected: String, found: String| {
        let problem = "not the file that the manifest describes: it was changed after it was written";
        failure(name, problem).expected(expected, found)
    };
    if found.bytes != file.bytes {
        return Some(finding(format!("{} bytes", file.bytes), format!("{} bytes", found.bytes)));
    }
    (found.sha256 != file.sha256)
        .then(|| finding(format!("SHA-256 {}", file.sha256), format!("SHA-256 {}", found.sha256)))
}

/// The recipe of the preset that a GGUF names, its description, and the imatrix.
fn by_keys(artifact: &GgufSet) -> Result<(Recipe, String, Option<ImportanceKeys>)> {
    let path = artifact.parts()[0].path();
    let number: Option<u32> =
        artifact.metadata().typed("general.file_type").map_err(|e| e.within(path.display()))?;
    let preset = preset_names().filter_map(|name| Preset::named(name).ok());
    let preset = preset.into_iter().find(|preset| Some(preset.file_type) == number);
    let plan = match (number, preset) {
        (Some(number), Some(preset)) => format!("general.file_type {number} ({})", preset.name),
        (Some(number), None) => format!("general.file_type {number}, which is no preset of this version"),
        (None, _) => "no manifest and no general.file_type".to_owned(),
    };
    let name = preset.map_or("bf16", |preset| preset.name.as_str());
    let is_mmproj = is_mmproj(artifact);
    let text = if is_mmproj { Recipe::text_of_mmproj(name) } else { Recipe::text_of_preset(name) };
    let mut recipe = Recipe::from_toml(&text, name)?;
    if is_mmproj && artifact.metadata().typed("clip.use_gelu").ok().flatten() == Some(true) {
        recipe.mmproj.gelu = Gelu::Exact;
    }
    let method = artifact.metadata().typed::<&str>(CALIBRATION).map_err(|e| e.within(path.display()))?;
    recipe.calibration = method.and_then(CalibrationMethod::named).map(Calibration::by);
    if artifact.tensors().iter().any(|desc| desc.name.starts_with(ORDERED)) {
        recipe.masked_embedding = MaskedEmbedding::Keep;
    }
    let importance = ImportanceKeys::of(artifact.metadata()).map_err(|e| e.within(path.display()))?;
    Ok((recipe, plan, importance))
}

/// The recipe of the scheme by which a folder's weights are stored, and its description.
fn by_storage(artifact: &Checkpoint) -> Result<(Recipe, String)> {
    let within = |e: Error| e.within(artifact.dir().display());
    let says = |shard: &Shard| shard.metadata.get("format").is_some_and(|format| format == "sfp8");
    let (scheme, plan) = if artifact.shards().iter().any(says) {
        ("sfp8", "__metadata__ format = sfp8")
    } else if checkpoint::is_fp8(artifact.config()).map_err(within)? {
        ("fp8", "quantization_config (fp8)")
    } else {
        ("bf16", "no manifest and no quantization_config")
    };
    let config = Config::any_of_checkpoint(artifact).map_err(within)?;
    let text = format!(
        "text_only = {}\ntypes.scheme = {scheme:?}\noutput.format = \"safetensors\"\n",
        config.kind == ModelKind::Text
    );
    Ok((Recipe::from_toml(&text, scheme)?, plan.to_owned()))
}

fn failure(file: &str, problem: &str) -> Finding {
    Finding::new(Severity::Failure, Step::Structure, file, problem)
}
