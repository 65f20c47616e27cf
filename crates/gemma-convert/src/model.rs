//! A model from either container, with its tokenizer, chat template and suppressed tokens.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkpoint::{Adapter, Checkpoint};
use eval::ModelInfo;
use gemma::{Config, Inventory};
use generate::Sampling;
use gguf::{GgufSet, Metadata, Value};
use quant::Simd;
use runtime::{Compute, Weights};
use tensor::{Error, Result, TensorDesc, TensorSource};
use text::{Reader, Tokenizer};
use verify::Artifact;

use crate::jobs::model_info;

/// A model that can run.
pub struct Model {
    path: PathBuf,
    pub(crate) container: Container,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) template: Option<String>,
    pub(crate) suppressed: Vec<u32>,
    /// Weights in place of those of the container.
    pub(crate) weights: Option<Box<dyn TensorSource>>,
    compute: Compute,
}

/// The container of the weights.
pub enum Container {
    /// A Hugging Face folder.
    Checkpoint(Box<Checkpoint>, Box<gemma::ModelSpec>),
    /// A GGUF file or all parts of a split.
    Gguf(Box<GgufSet>, Box<(Config, Inventory)>),
}

/// A model of which only the headers have been read; its content may be broken.
pub enum ModelFile {
    /// A GGUF file or all parts of a split.
    Gguf(GgufSet),
    /// A folder of safetensors.
    Folder(Box<Checkpoint>),
}

impl ModelFile {
    /// A folder of safetensors.
    pub(crate) fn folder(checkpoint: Checkpoint) -> ModelFile {
        ModelFile::Folder(Box::new(checkpoint))
    }

    /// Opens a GGUF file (any part of a split) or a folder of safetensors.
    ///
    /// # Errors
    /// `Malformed` for a damaged file, `Unsupported` for another kind of model, `Io`.
    pub fn open(path: &Path) -> Result<ModelFile> {
        if !path.is_dir() {
            path.metadata().map_err(|e| checkpoint::absent(path, &e))?;
            refuse_part_of_a_folder(path)?;
            return GgufSet::open(path).map(ModelFile::Gguf);
        }
        Checkpoint::open(path).map(ModelFile::folder).map_err(|error| match ggufs_in(path).first() {
            Some(file) => Error::malformed(path.display(), "not a folder of safetensors")
                .expected("config.json and weights beside it", file.file_name().unwrap_or_default().display())
                .help(format!("Name the file: {}", file.display())),
            None => error,
        })
    }

    /// The same model with adapters merged into it as it is read.
    ///
    /// # Errors
    /// Those of [`Checkpoint::with_adapters`]; `Unsupported` for a GGUF.
    pub fn with_adapters(self, adapters: &[Adapter]) -> Result<ModelFile> {
        match self {
            ModelFile::Folder(folder) => folder.with_adapters(adapters).map(ModelFile::folder),
            ModelFile::Gguf(set) if !adapters.is_empty() => {
                Err(checkpoint::adapter_into_gguf(set.parts()[0].path()))
            }
            gguf => Ok(gguf),
        }
    }

    /// The same file, read with these vector instructions.
    #[must_use]
    pub fn with_simd(self, simd: Simd) -> ModelFile {
        match self {
            ModelFile::Folder(folder) => ModelFile::folder(folder.with_simd(simd)),
            gguf => gguf,
        }
    }

    /// Whether it holds image and audio towers instead of a text model.
    pub fn is_mmproj(&self) -> bool {
        matches!(self, ModelFile::Gguf(set) if verify::is_mmproj(set))
    }

    /// The file in the form for `verify`.
    pub fn artifact(&self) -> Artifact<'_> {
        match self {
            ModelFile::Gguf(set) => set.into(),
            ModelFile::Folder(folder) => (&**folder).into(),
        }
    }

    /// Opens the model for running.
    ///
    /// # Errors
    /// `Malformed` or `Unsupported` for a config, a tokenizer or tensors that are not Gemma 4's.
    pub fn model(self) -> Result<Model> {
        match self {
            ModelFile::Gguf(set) => Model::gguf(set),
            ModelFile::Folder(folder) => Model::checkpoint(*folder),
        }
    }

    /// [`model`](Self::model) for draft models too, which can be compared, but not run alone.
    ///
    /// # Errors
    /// The errors of [`model`](Self::model).
    pub fn model_of_any_kind(self) -> Result<Model> {
        match self {
            ModelFile::Gguf(set) => Model::gguf_by(set, Config::any_from_metadata),
            ModelFile::Folder(folder) => Model::checkpoint_by(*folder, gemma::ModelSpec::open_any),
        }
    }
}

/// Opens a checkpoint folder with adapters merged into it, or a GGUF in its place.
pub(crate) fn open_checkpoint(path: &Path, adapters: &[Adapter]) -> Result<Checkpoint> {
    let is_named_so = || path.is_file() && path.extension().is_some_and(|extension| extension == "gguf");
    let is_gguf = gguf::is_gguf(path) || is_named_so();
    let opened = if is_gguf { Checkpoint::open_gguf(path)? } else { Checkpoint::open(path)? };
    opened.with_adapters(adapters)
}

/// The reader of texts for a model of a checkpoint.
pub(crate) fn reader<'a>(tokenizer: &'a Tokenizer, model: &'a gemma::ModelSpec) -> Reader<'a> {
    let template = model.templates.default.as_deref();
    Reader { tokenizer, template, context: model.config.context }
}

/// Refuses one file of a Hugging Face folder.
///
/// # Errors
/// `Malformed`, with the folder to give instead.
pub fn refuse_part_of_a_folder(path: &Path) -> Result<()> {
    const PARTS: [&str; 5] = ["safetensors", "json", "jinja", "bin", "model"];
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    if !path.is_file() || !PARTS.contains(&extension) {
        return Ok(());
    }
    let folder = base::folder_of(path);
    Err(Error::malformed(path.display(), "one file of a checkpoint, and not a model by itself")
        .expected("a checkpoint folder or a GGUF file", format!("a .{extension} file"))
        .help(format!("Give the folder: {}", folder.display())))
}

/// The GGUF files in a folder that is not a checkpoint, sorted.
pub(crate) fn ggufs_in(folder: &Path) -> Vec<PathBuf> {
    if folder.join("config.json").exists() { Vec::new() } else { gguf::files_in(folder).unwrap_or_default() }
}

impl Model {
    /// Opens a checkpoint folder or a GGUF file (any part of a split).
    ///
    /// # Errors
    /// `Malformed` for a damaged file, `Unsupported` for another kind of model, `Io`.
    pub fn open(path: impl AsRef<Path>) -> Result<Model> {
        Model::open_with(path, &[])
    }

    /// Like [`open`](Self::open), with adapters merged into the checkpoint.
    ///
    /// # Errors
    /// Those of [`open`](Self::open) and [`ModelFile::with_adapters`].
    pub fn open_with(path: impl AsRef<Path>, adapters: &[Adapter]) -> Result<Model> {
        ModelFile::open(path.as_ref())?.with_adapters(adapters)?.model()
    }

    /// The same model with other arithmetic than the fastest of this machine.
    #[must_use]
    pub fn with_compute(mut self, compute: Compute) -> Model {
        self.compute = compute;
        if let Container::Checkpoint(checkpoint, model) = self.container {
            self.container = Container::Checkpoint(Box::new(checkpoint.with_simd(compute.simd)), model);
        }
        self
    }

    /// A checkpoint whose headers have been read.
    fn checkpoint(checkpoint: Checkpoint) -> Result<Model> {
        Model::checkpoint_by(checkpoint, gemma::ModelSpec::open)
    }

    fn checkpoint_by(
        checkpoint: Checkpoint,
        open: fn(&Checkpoint) -> Result<gemma::ModelSpec>,
    ) -> Result<Model> {
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?;
        let model = open(&checkpoint)?;
        let suppressed = model.generation.as_ref().and_then(|g| g.get("suppress_tokens")?.as_array());
        let suppressed = suppressed.into_iter().flatten().filter_map(serde_json::Value::as_u64);
        Ok(Model {
            path: checkpoint.dir().to_owned(),
            tokenizer: Arc::new(tokenizer),
            template: model.templates.default.clone(),
            suppressed: suppressed.filter_map(|id| u32::try_from(id).ok()).collect(),
            container: Container::Checkpoint(Box::new(checkpoint), Box::new(model)),
            weights: None,
            compute: Compute::detect(),
        })
    }

    /// A GGUF whose header has been read.
    fn gguf(set: GgufSet) -> Result<Model> {
        Model::gguf_by(set, Config::from_metadata)
    }

    fn gguf_by(set: GgufSet, config: fn(&Metadata, &[TensorDesc]) -> Result<Config>) -> Result<Model> {
        let path = set.parts()[0].path().to_owned();
        let within = |e: Error| e.within(path.display());
        let metadata = set.metadata();
        let config = config(metadata, set.tensors()).map_err(within)?;
        let inventory = gemma::gguf_inventory(&config, set.tensors()).map_err(within)?;
        let tokenizer = Arc::new(Tokenizer::from_metadata(metadata).map_err(within)?);
        let template = metadata.typed::<&str>("tokenizer.chat_template").map_err(within)?.map(str::to_owned);
        let suppressed = metadata.typed::<&[i32]>("tokenizer.ggml.suppress_tokens").map_err(within)?;
        let suppressed =
            suppressed.unwrap_or_default().iter().filter_map(|&id| u32::try_from(id).ok()).collect();
        let container = Container::Gguf(Box::new(set.mapped()), Box::new((config, inventory)));
        let compute = Compute::detect();
        Ok(Model { path, container, tokenizer, template, suppressed, weights: None, compute })
    }

    /// The text config.
    pub fn config(&self) -> &Config {
        match &self.container {
            Container::Checkpoint(_, model) => &model.config,
            Container::Gguf(_, parts) => &parts.0,
        }
    }

    /// The tensors by role.
    pub fn inventory(&self) -> &Inventory {
        match &self.container {
            Container::Checkpoint(_, model) => &model.inventory,
            Container::Gguf(_, parts) => &parts.1,
        }
    }

    /// The weights.
    pub fn source(&self) -> &dyn TensorSource {
        self.weights.as_deref().unwrap_or_else(|| self.artifact().source())
    }

    /// The file or folder in the form for `verify`.
    pub fn artifact(&self) -> Artifact<'_> {
        match &self.container {
            Container::Checkpoint(checkpoint, _) => Artifact::Folder(checkpoint),
            Container::Gguf(set, _) => Artifact::Gguf(set),
        }
    }

    /// Differences from a checkpoint saved by transformers, in words.
    pub fn notes(&self) -> &[String] {
        match &self.container {
            Container::Checkpoint(_, model) => &model.notes,
            Container::Gguf(..) => &[],
        }
    }

    /// The model's entry in a report. `path` is the path given by the user.
    pub(crate) fn info(&self, path: &Path) -> ModelInfo {
        model_info(path, Some(self.config()), self.artifact(), Some(self.inventory()))
    }

    /// The reader of texts.
    pub fn reader(&self) -> Reader<'_> {
        let context = self.config().context;
        Reader { tokenizer: &self.tokenizer, template: self.template.as_deref(), context }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The sampling settings that the model's publisher recommends, from `generation_config.json` or
    /// `general.sampling.*` of a GGUF. `None` if there are none.
    pub fn recommended_sampling(&self) -> Option<Sampling> {
        let number = |name: [&str; 2]| match &self.container {
            Container::Checkpoint(_, model) => model.generation.as_ref()?.get(name[0])?.as_f64(),
            Container::Gguf(set, _) => match set.metadata().get(&format!("general.sampling.{}", name[1]))? {
                Value::F32(value) => Some(f64::from(*value)),
                Value::U32(value) => Some(f64::from(*value)),
                Value::I32(value) => Some(f64::from(*value)),
                _ => None,
            },
        };
        let temperature = number(["temperature", "temp"]);
        let (top_k, top_p) = (number(["top_k", "top_k"]), number(["top_p", "top_p"]));
        let min_p = number(["min_p", "min_p"]);
        [temperature, top_k, top_p, min_p].iter().any(Option::is_some).then(|| Sampling {
            temperature: temperature.unwrap_or(1.0),
            top_k: top_k.unwrap_or(0.0) as usize,
            top_p: top_p.unwrap_or(1.0),
            min_p: min_p.unwrap_or(0.0),
            seed: 0,
        })
    }

    /// Its fingerprint, see [`Checkpoint::fingerprint`].
    ///
    /// # Errors
    /// Those of [`Checkpoint::fingerprint`].
    pub(crate) fn fingerprint(&self) -> Result<[u8; 32]> {
        match &self.container {
            Container::Checkpoint(_, model) => Ok(model.fingerprint),
            Container::Gguf(..) => Checkpoint::open_gguf(&self.path)?.fingerprint(),
        }
    }

    /// The path of the folder or of the first file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model of the reference runtime.
    ///
    /// # Errors
    /// `Malformed` for tensors of other shapes than the config's.
    pub fn runtime(&self) -> Result<runtime::Model<'_>> {
        let weights = Weights::new(self.source(), self.inventory(), self.compute);
        weights
            .and_then(|weights| runtime::Model::new(self.config(), weights))
            .map_err(|e| e.within(self.path.display()))
    }
}
