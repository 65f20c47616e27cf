//! Which recipe an artifact is of: the manifest beside it says so, or at least its `general.file_type` names a preset, or
//! how its safetensors are stored a scheme.
//!
//! A manifest also knows size and SHA-256 of the files as they were written, so that later damage shows.

use std::io::Read;
use std::path::Path;

use checkpoint::{Checkpoint, Shard};
use gemma::{Config, Kind};
use gguf::GgufSet;
use plan::{
    ArtifactEntry, CALIBRATION, Calibration, CalibrationMethod, FileEntry, ImportanceKeys, MAX_MANIFEST,
    Manifest, Preset, Recipe, hex, preset_names,
};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tensor::{Error, Result};

use crate::artifact::{Artifact, Part, name};
use crate::{Finding, Severity, Step};

/// Bytes that are hashed at a time.
const PIECE: usize = 1 << 20;

/// Where an artifact comes from.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// What it was or must have been made with.
    pub recipe: Recipe,
    /// The importance that it was made with.
    pub importance: Option<ImportanceKeys>,
    /// How that is known: `manifest`, `general.file_type 2 (q4_0)`.
    pub plan: String,
    /// The recipe is the one that was used, not only one of its preset: see [`crate::Expected::binding`].
    pub binding: bool,
    /// The artifact's entry in the manifest.
    pub entry: Option<ArtifactEntry>,
    /// What is worth knowing about that.
    pub findings: Vec<Finding>,
}

impl Provenance {
    /// Looks for a manifest beside the artifact, then at its keys.
    ///
    /// # Errors
    /// `Io` for a manifest that cannot be read, `Recipe` for one whose recipe this version does not know,
    /// `Malformed` for a `general.file_type` that is no number.
    pub fn of<'a>(artifact: impl Into<Artifact<'a>>) -> Result<Provenance> {
        let artifact = artifact.into();
        let mut findings = Vec::new();
        let parts = artifact.parts();
        let beside = parts.first().and_then(|part| entry_beside(&part.path, &mut findings));
        if let Some((manifest, entry)) = beside {
            let recipe = serde_json::from_value(entry.settings.clone()).map_err(|e| {
                Error::recipe(manifest, format!("its recipe is of another version of gemma-convert: {e}"))
            })?;
            let plan = "manifest".to_owned();
            let importance = entry.importance.clone();
            return Ok(Provenance { recipe, importance, plan, binding: true, entry: Some(entry), findings });
        }
        let (recipe, plan, importance) = match artifact {
            Artifact::Gguf(set) => by_keys(set)?,
            Artifact::Folder(folder) => {
                let (recipe, plan) = by_storage(folder)?;
                (recipe, plan, None)
            }
        };
        Ok(Provenance { recipe, importance, plan, binding: false, entry: None, findings })
    }

    /// How many bytes [`Provenance::check_files`] will hash.
    pub fn bytes(&self) -> u64 {
        self.entry.iter().flat_map(|entry| &entry.outputs).map(|file| file.bytes).sum()
    }

    /// Holds the artifact's files against the manifest: names, sizes, SHA-256. Returns how many files were hashed.
    /// `progress` is told the bytes.
    ///
    /// # Errors
    /// `Io`.
    pub fn check_files<'a>(
        &self,
        artifact: impl Into<Artifact<'a>>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(u64, Vec<Finding>)> {
        let Some(entry) = &self.entry else { return Ok((0, Vec::new())) };
        let artifact = artifact.into();
        let mut parts = artifact.parts();
        let mut findings = Vec::new();
        if let Artifact::Folder(folder) = artifact {
            let others = entry.outputs.iter().filter(|file| parts.iter().all(|part| part.name != file.name));
            let others: Vec<_> = others.map(|file| &file.name).collect();
            for name in others {
                let path = folder.dir().join(name);
                match path.metadata() {
                    Ok(found) => parts.push(Part { name: name.clone(), path, len: found.len() }),
                    Err(_) => findings.push(failure(name, "missing: the manifest names it")),
                }
            }
        }
        let checked =
            parts.par_iter().map(|part| match entry.outputs.iter().find(|file| file.name == part.name) {
                Some(file) => changed(file, &part.path, part.len, progress),
                None => Ok(Some(failure(&part.name, "not one of the files that the manifest names"))),
            });
        let checked: Vec<Option<Finding>> = checked.collect::<Result<_>>()?;
        let count = checked.len() as u64;
        findings.extend(checked.into_iter().flatten());
        Ok((count, findings))
    }
}

/// The recipe of the preset that a GGUF names, and the importance.
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
    let mut recipe = Recipe::from_toml(&Recipe::text_of_preset(name), name)?;
    let method = artifact.metadata().typed::<&str>(CALIBRATION).map_err(|e| e.within(path.display()))?;
    recipe.calibration = method.and_then(CalibrationMethod::named).map(Calibration::by);
    let importance = ImportanceKeys::of(artifact.metadata()).map_err(|e| e.within(path.display()))?;
    Ok((recipe, plan, importance))
}

/// The recipe of the scheme by which a folder's weights are stored.
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
    let config = Config::of_checkpoint(artifact).map_err(within)?;
    let text = format!(
        "text_only = {}\ntypes.scheme = {scheme:?}\noutput.format = \"safetensors\"\n",
        config.kind == Kind::Text
    );
    Ok((Recipe::from_toml(&text, scheme)?, plan.to_owned()))
}

/// The manifest's path and entry for a file, from the manifest of that file or from that of its folder.
fn entry_beside(path: &Path, findings: &mut Vec<Finding>) -> Option<(String, ArtifactEntry)> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = name(path);
    // a split that was asked for by name has the manifest of that name
    let whole = name.rsplit_once("-of-").and_then(|(stem, _)| stem.rsplit_once('-'));
    let whole = whole.map(|(stem, _)| format!("{stem}.gguf"));
    let places = [Some(name.as_str()), whole.as_deref()].into_iter().flatten().map(Some).chain([None]);
    for place in places {
        let manifest = Manifest::path(folder, place);
        // without a manifest there is nothing to say
        if !manifest.exists() {
            continue;
        }
        match base::read_regular(&manifest, MAX_MANIFEST).and_then(|bytes| Manifest::parse(&bytes)) {
            Ok(read) => {
                if let Some(entry) = read.entry_of(&name) {
                    return Some((manifest.display().to_string(), entry.clone()));
                }
            }
            Err(error) => findings.push(Finding::new(
                Severity::Note,
                Step::Structure,
                manifest.display(),
                format!("ignored: {}", error.problem()),
            )),
        }
    }
    None
}

/// How a file differs from what the manifest says of it.
fn changed(
    file: &FileEntry,
    path: &Path,
    len: u64,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Option<Finding>> {
    let problem = "not the file that the manifest describes: it was changed after it was written";
    if len != file.bytes {
        let sizes = (format!("{} bytes", file.bytes), format!("{len} bytes"));
        return Ok(Some(failure(&file.name, problem).expected(sizes.0, sizes.1)));
    }
    let found = sha256(path, progress)?;
    Ok((found != file.sha256).then(|| {
        failure(&file.name, problem).expected(format!("SHA-256 {}", file.sha256), format!("SHA-256 {found}"))
    }))
}

fn failure(file: &str, problem: &str) -> Finding {
    Finding::new(Severity::Failure, Step::Structure, file, problem)
}

fn sha256(path: &Path, progress: &(dyn Fn(u64) + Sync)) -> Result<String> {
    let io = |e| Error::io(path.display(), &e);
    let mut file = base::open_regular(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; PIECE];
    loop {
        match file.read(&mut buffer).map_err(io)? {
            0 => return Ok(hex(&hash.finalize())),
            count => {
                hash.update(&buffer[..count]);
                progress(count as u64);
            }
        }
    }
}
