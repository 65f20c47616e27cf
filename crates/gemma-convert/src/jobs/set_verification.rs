//! Verification of several artifacts: the base reads the text once, and each artifact has the report that it has alone.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use base::Progress;
use eval::ModelInfo;
use gemma::{Config, ModelKind};
use gguf::GgufFile;
use imatrix::Importance;
use plan::{ImportanceKeys, Thresholds};
use tensor::{Error, Result, TensorSource};
use verify::{Artifact, Finding, Provenance, Report, SCHEMA, SetReport, Severity, Step, Unverified};

use super::Verify;
use super::against::Against;
use super::set_files::{SetFiles, is_set};
use super::verification_steps::{Verification, empty_report, run_all};
use crate::TOOL;
use crate::model::{Container, ModelFile};
use crate::towers::check_media;

/// Verifies a set of artifacts: files of any kind, or the folder of a release.
///
/// A text model is compared with the base, an mmproj file with the towers of the base, a draft model with `assistant`. What
/// has no base is checked alone, and a note says so. A limit applies to the artifacts that have its figure.
#[derive(Clone, Debug)]
pub struct VerifySet {
    /// GGUF files (any part of a split), folders of safetensors, and folders that hold these.
    pub artifacts: Vec<PathBuf>,
    /// The settings of each verification; their artifact is replaced by each of the set. A recipe is refused; the importance
    /// matrix is for the artifacts that name one.
    pub options: Verify,
    /// The checkpoint of the draft models in the set.
    pub assistant: Option<PathBuf>,
}

impl VerifySet {
    /// A verification without a base.
    pub fn new(artifacts: impl IntoIterator<Item = impl Into<PathBuf>>) -> VerifySet {
        let artifacts = artifacts.into_iter().map(Into::into).collect();
        VerifySet { artifacts, options: Verify::new(PathBuf::new()), assistant: None }
    }

    /// Whether these paths are a set: more than one path, or a folder of GGUFs. Otherwise they are for [`Verify`].
    pub fn is_set(artifacts: &[PathBuf]) -> bool {
        is_set(artifacts)
    }

    /// Compares the artifacts with this base.
    #[must_use]
    pub fn against(mut self, base: impl Into<PathBuf>) -> VerifySet {
        self.options = self.options.against(base);
        self
    }

    /// Adds a text to predict.
    #[must_use]
    pub fn text(mut self, file: impl Into<PathBuf>) -> VerifySet {
        self.options = self.options.text(file);
        self
    }

    /// Verifies the artifacts. Their faults are findings in their reports, also those of files that cannot be read.
    ///
    /// # Errors
    /// `Recipe` for options that do not fit; the errors of the base, the text and the images; `Io`.
    pub fn run(&self, progress: &dyn Progress) -> Result<SetReport> {
        if self.options.recipe.is_some() {
            return Err(Error::recipe("‹recipe›", "a set has artifacts of several recipes")
                .help("Verify the artifact alone."));
        }
        let files = SetFiles::of(&self.artifacts)?;
        check_media(&self.options.media)?;
        let logits = self.options.begin()?;
        let base = self.options.open_base()?;
        let assistant = self.open_assistant()?;
        if logits.is_some() && base.as_ref().and_then(Against::model).is_none() {
            return Err(Error::recipe("‹save_logits›", "a set has logits of one model, the base")
                .help("Give the checkpoint with ‹against›, or verify the artifact alone."));
        }

        let mut set = SetReport {
            schema: SCHEMA,
            tool: TOOL.to_owned(),
            compute: self.options.compute.to_string(),
            base: base.as_ref().zip(self.options.base.as_deref()).and_then(|(base, path)| base.info(path)),
            ..SetReport::default()
        };
        let mut all = Vec::new();
        for path in files.artifacts {
            let opened = match not_a_model(&path) {
                Ok(Some(why)) => {
                    set.unverified.push(Unverified { path: path.display().to_string(), why });
                    continue;
                }
                Ok(None) => self.open(&path, base.as_ref(), assistant.as_ref()),
                Err(error) => Err(error),
            };
            all.push((path, opened));
        }
        if all.is_empty() {
            let paths: Vec<_> = self.artifacts.iter().map(|path| path.display().to_string()).collect();
            return Err(Error::malformed(paths.join(", "), "no model to verify"));
        }
        let mut opened: Vec<_> = all.iter_mut().filter_map(|(_, opened)| opened.as_mut().ok()).collect();
        if !opened.is_empty() {
            run_all(&self.options, &mut opened, base.as_ref(), logits, progress)?;
        }

        // by folder: the GGUFs, and the names in the manifest of renamed ones
        let mut ggufs: HashMap<PathBuf, BTreeMap<String, Option<String>>> = HashMap::new();
        for (path, opened) in all {
            let ggufs = ggufs.entry(path.parent().unwrap_or(Path::new("")).to_owned()).or_default();
            if let Some(name) = path.file_name().filter(|_| path.is_file()) {
                ggufs.insert(name.to_string_lossy().into_owned(), None);
            }
            set.reports.push(match opened {
                Err(error) => self.unread(&path, &error),
                Ok(mut verification) => {
                    ggufs.extend(verification.renamed.drain().map(|(is, was)| (is, Some(was))));
                    if let Some(error) = verification.error.take() {
                        verification.report.findings.push(Finding::from(&error));
                    }
                    verification.finish()?
                }
            });
        }
        for folder in &files.folders {
            set.findings.extend(verify::contents(folder, ggufs.get(folder).unwrap_or(&BTreeMap::new())));
        }
        Ok(set.concluded())
    }

    fn open_assistant(&self) -> Result<Option<Against>> {
        let Some(path) = &self.assistant else { return Ok(None) };
        let opened = Against::open(path, &[], self.options.compute)?;
        match opened.model() {
            Some(model) if model.config().kind == ModelKind::Draft => Ok(Some(opened)),
            _ => Err(Error::recipe("‹assistant›", "not a draft model")
                .expected("the checkpoint of a draft model", path.display())),
        }
    }

    /// Begins the verification of an artifact, against the base that fits it.
    fn open<'b>(
        &self,
        path: &Path,
        base: Option<&'b Against>,
        assistant: Option<&'b Against>,
    ) -> Result<Verification<'b>> {
        let file = ModelFile::open(path)?.with_simd(self.options.compute.simd);
        let mut settings = Verify { artifact: path.to_owned(), ..self.options.clone() };
        let limits = std::mem::take(&mut settings.thresholds);
        settings.importance.take_if(|_| !names_importance(&file));
        let base_model = base.and_then(Against::model);
        let mut why_alone = None;
        let mut against = base;
        if file.is_mmproj() {
            settings.thresholds.max_feature_error = limits.max_feature_error;
            let has_towers = |base: &Against| match base {
                Against::Model(model) => matches!(model.container, Container::Checkpoint(..)),
                Against::Mmproj(_) => true,
                Against::Logits(_) => false,
            };
            if base.is_some_and(|base| !has_towers(base)) {
                let why =
                    "an mmproj file is compared with a checkpoint or an mmproj file, which ‹against› names";
                (against, why_alone) = (None, Some(why.to_owned()));
            }
        } else {
            settings.media.clear();
            if verify::is_draft(file.artifact()) {
                if base_model.is_none_or(|model| model.config().kind != ModelKind::Draft) {
                    against = assistant;
                    settings.base.clone_from(&self.assistant);
                    let why = "a draft model is compared with its own checkpoint, which ‹assistant› names";
                    why_alone = against.is_none().then(|| why.to_owned());
                }
            } else if let Some(layers) = base_model.and_then(|model| extracted(&file, model.config())) {
                let why =
                    format!("a draft model of layers {layers:?} of its target has no checkpoint of its own");
                (against, why_alone) = (None, Some(why));
            } else if matches!(base, Some(Against::Mmproj(_))) {
                let why = "an mmproj file, which ‹against› names, is the base of mmproj files only";
                (against, why_alone) = (None, Some(why.to_owned()));
            } else {
                settings.thresholds = Thresholds { max_feature_error: None, ..limits };
            }
        }
        if against.is_none() {
            settings.base = None;
            settings.media.clear();
        }
        let mut verification = Verification::new(settings, file, against);
        verification.report.findings.extend(why_alone.map(|why| {
            Finding::new(Severity::Note, Step::Structure, path.display(), format!("checked alone: {why}"))
        }));
        Ok(verification)
    }

    /// The report of a file that cannot be read.
    fn unread(&self, path: &Path, error: &Error) -> Report {
        let artifact = ModelInfo {
            path: path.display().to_string(),
            file_bytes: path.metadata().map_or(0, |found| if found.is_file() { found.len() } else { 0 }),
            ..ModelInfo::default()
        };
        let compute = self.options.compute.to_string();
        Report { artifact, compute, findings: vec![Finding::from(error)], ..empty_report() }
    }
}

/// The reason why a file of a set is not verified, if it is no model.
fn not_a_model(path: &Path) -> Result<Option<String>> {
    if path.is_dir() {
        return Ok(None);
    }
    if Importance::is_one(path) {
        let importance = Importance::read(path)?;
        let why = format!("an importance matrix of {} tensors, which can be read", importance.len());
        return Ok(Some(why));
    }
    let Ok(file) = GgufFile::open(path) else { return Ok(None) };
    let metadata = file.metadata();
    Ok(match metadata.typed::<&str>("general.type") {
        Ok(Some("adapter")) => Some("an adapter (LoRA), and not a model".to_owned()),
        _ if metadata.get(base::STORE_KEY).is_some() => {
            Some("calibrated weights between two runs".to_owned())
        }
        _ => None,
    })
}

/// Whether a file says that it was made with an importance matrix.
fn names_importance(file: &ModelFile) -> bool {
    match file.artifact() {
        Artifact::Gguf(set) => ImportanceKeys::of(set.metadata()).is_ok_and(|keys| keys.is_some()),
        Artifact::Folder(_) => false,
    }
}

/// The layers of the target in an extracted draft model, as its manifest lists them.
fn extracted(file: &ModelFile, target: &Config) -> Option<Vec<usize>> {
    let config = match file.artifact() {
        Artifact::Gguf(set) => Config::any_from_metadata(set.metadata(), set.tensors()).ok()?,
        Artifact::Folder(folder) => Config::any_of_checkpoint(folder).ok()?,
    };
    // a file of the same depth needs no search for its manifest
    if config.layers() == target.layers() {
        return None;
    }
    Provenance::of(file.artifact()).ok()?.entry?.target?.layers
}
