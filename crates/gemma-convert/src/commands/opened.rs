//! A model with everything that is needed to talk to it, from either container.

use std::path::Path;

use ::checkpoint::Checkpoint;
use ::gemma::{Config, Inventory, Model};
use ::gguf::{GgufSet, Metadata};
use ::runtime::Weights;
use ::text::Reader;
use ::text::Tokenizer;
use ::verify::Artifact;
use serde_json::Value;
use tensor::{Error, Result, TensorDesc, TensorSource};

/// A model that can be run.
pub(crate) struct Opened {
    pub(crate) container: Container,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: Option<String>,
    /// Tokens that must not be said.
    pub(crate) suppressed: Vec<u32>,
}

/// Where its weights are, and what they are.
pub(crate) enum Container {
    Checkpoint(Box<Checkpoint>, Box<Model>),
    Gguf(Box<GgufSet>, Box<(Config, Inventory)>),
}

/// A model whose headers have been read, and nothing more: it may be broken.
pub(crate) enum Given {
    Gguf(GgufSet),
    Folder(Checkpoint),
}

impl Given {
    /// Opens a GGUF file or a folder of safetensors.
    pub(crate) fn open(path: &Path) -> Result<Given> {
        if !path.is_dir() {
            return GgufSet::open(path).map(Given::Gguf);
        }
        Checkpoint::open(path).map(Given::Folder).map_err(|error| match gguf_in(path) {
            Some(name) => Error::malformed(path.display(), "not a folder of safetensors")
                .expected("config.json and weights beside it", &name)
                .help(format!("Name the file: {}", path.join(&name).display())),
            None => error,
        })
    }

    pub(crate) fn artifact(&self) -> Artifact<'_> {
        match self {
            Given::Gguf(set) => set.into(),
            Given::Folder(folder) => folder.into(),
        }
    }

    /// With everything that is needed to run it.
    pub(crate) fn opened(self) -> Result<Opened> {
        match self {
            Given::Gguf(set) => Opened::gguf(set),
            Given::Folder(folder) => Opened::checkpoint(folder),
        }
    }

    /// As [`Given::opened`], draft models too: these can be compared, but do not run by themselves.
    pub(crate) fn opened_any(self) -> Result<Opened> {
        match self {
            Given::Gguf(set) => Opened::gguf_by(set, Config::any_from_metadata),
            Given::Folder(folder) => Opened::checkpoint_by(folder, Model::open_any),
        }
    }
}

/// How a model of a checkpoint reads a text.
pub(crate) fn reader<'a>(tokenizer: &'a Tokenizer, model: &'a Model) -> Reader<'a> {
    let template = model.templates.default.as_deref();
    Reader { tokenizer, template, context: model.config.context }
}

/// The first GGUF in a folder that is no checkpoint.
fn gguf_in(folder: &Path) -> Option<String> {
    if folder.join("config.json").exists() {
        return None;
    }
    let names =
        std::fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.ends_with(".gguf")).min()
}

impl Opened {
    /// Opens a checkpoint folder or a GGUF file (any part of a split).
    pub(crate) fn new(path: &Path) -> Result<Opened> {
        Given::open(path)?.opened()
    }

    /// A checkpoint whose headers have been read.
    pub(crate) fn checkpoint(checkpoint: Checkpoint) -> Result<Opened> {
        Opened::checkpoint_by(checkpoint, Model::open)
    }

    fn checkpoint_by(checkpoint: Checkpoint, open: fn(&Checkpoint) -> Result<Model>) -> Result<Opened> {
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?;
        let model = open(&checkpoint)?;
        let suppressed = model.generation.as_ref().and_then(|g| g.get("suppress_tokens")?.as_array());
        let suppressed = suppressed.into_iter().flatten().filter_map(Value::as_u64);
        Ok(Opened {
            tokenizer,
            template: model.templates.default.clone(),
            suppressed: suppressed.filter_map(|id| u32::try_from(id).ok()).collect(),
            container: Container::Checkpoint(Box::new(checkpoint), Box::new(model)),
        })
    }

    /// A GGUF whose header has been read.
    pub(crate) fn gguf(set: GgufSet) -> Result<Opened> {
        Opened::gguf_by(set, Config::from_metadata)
    }

    fn gguf_by(set: GgufSet, config: fn(&Metadata, &[TensorDesc]) -> Result<Config>) -> Result<Opened> {
        let path = set.parts()[0].path().to_owned();
        let within = |e: Error| e.within(path.display());
        let metadata = set.metadata();
        let config = config(metadata, set.tensors()).map_err(within)?;
        let inventory = ::gemma::gguf_inventory(&config, set.tensors()).map_err(within)?;
        let tokenizer = Tokenizer::from_metadata(metadata).map_err(within)?;
        let template = metadata.typed::<&str>("tokenizer.chat_template").map_err(within)?.map(str::to_owned);
        let suppressed = metadata.typed::<&[i32]>("tokenizer.ggml.suppress_tokens").map_err(within)?;
        let suppressed =
            suppressed.unwrap_or_default().iter().filter_map(|&id| u32::try_from(id).ok()).collect();
        let container = Container::Gguf(Box::new(set), Box::new((config, inventory)));
        Ok(Opened { container, tokenizer, template, suppressed })
    }

    pub(crate) fn config(&self) -> &Config {
        match &self.container {
            Container::Checkpoint(_, model) => &model.config,
            Container::Gguf(_, parts) => &parts.0,
        }
    }

    pub(crate) fn inventory(&self) -> &Inventory {
        match &self.container {
            Container::Checkpoint(_, model) => &model.inventory,
            Container::Gguf(_, parts) => &parts.1,
        }
    }

    pub(crate) fn source(&self) -> &dyn TensorSource {
        self.artifact().source()
    }

    pub(crate) fn artifact(&self) -> Artifact<'_> {
        match &self.container {
            Container::Checkpoint(checkpoint, _) => Artifact::Folder(checkpoint),
            Container::Gguf(set, _) => Artifact::Gguf(set),
        }
    }

    /// In what it is not as transformers would have saved it.
    pub(crate) fn notes(&self) -> &[String] {
        match &self.container {
            Container::Checkpoint(_, model) => &model.notes,
            Container::Gguf(..) => &[],
        }
    }

    /// How it reads a text.
    pub(crate) fn reader(&self) -> Reader<'_> {
        let context = self.config().context;
        Reader { tokenizer: &self.tokenizer, template: self.template.as_deref(), context }
    }

    /// The model that runs. `path` is for errors.
    pub(crate) fn runtime(&self, path: &Path) -> Result<::runtime::Model<'_>> {
        let weights = Weights::new(self.source(), self.inventory());
        weights
            .and_then(|weights| ::runtime::Model::new(self.config(), weights))
            .map_err(|e| e.within(path.display()))
    }
}
