//! The base of a comparison.

use std::path::Path;

use checkpoint::Adapter;
use eval::{LogitsFile, ModelInfo};
use gguf::GgufSet;
use runtime::Compute;
use tensor::{Error, Result};

use super::model_info::artifact_info;
use crate::model::{Container, Model, ModelFile};
use crate::towers::TowerFile;

/// The base of a comparison.
pub(super) enum Against {
    /// A checkpoint, or a GGUF of a text model or a draft model.
    Model(Box<Model>),
    /// An mmproj file, for mmproj files.
    Mmproj(Box<GgufSet>),
    /// llama-perplexity's logits.
    Logits(LogitsFile),
}

impl Against {
    pub(super) fn open(path: &Path, adapters: &[Adapter], compute: Compute) -> Result<Against> {
        if adapters.is_empty() && LogitsFile::is_one(path) {
            return LogitsFile::open(path).map(Against::Logits);
        }
        match ModelFile::open(path)?.with_adapters(adapters)? {
            ModelFile::Gguf(set) if verify::is_mmproj(&set) => Ok(Against::Mmproj(Box::new(set))),
            file => Ok(Against::Model(Box::new(file.model_of_any_kind()?.with_compute(compute)))),
        }
    }

    /// The model; `None` for logits and mmproj files.
    pub(super) fn model(&self) -> Option<&Model> {
        match self {
            Against::Model(model) => Some(model),
            Against::Mmproj(_) | Against::Logits(_) => None,
        }
    }

    /// The image and audio towers.
    ///
    /// # Errors
    /// `Recipe` for a base without towers; the errors of a model that reads neither images nor sounds.
    pub(super) fn towers(&self, compute: Compute) -> Result<TowerFile<'_>> {
        match self {
            Against::Mmproj(set) => {
                let path = set.parts()[0].path();
                TowerFile::mmproj(path, compute).map_err(|e| e.within(path.display()))
            }
            Against::Model(model) => match &model.container {
                Container::Checkpoint(checkpoint, spec) => TowerFile::checkpoint(checkpoint, spec, compute),
                Container::Gguf(..) => Err(Against::without_towers()),
            },
            Against::Logits(_) => Err(Against::without_towers()),
        }
    }

    /// The error for images and sounds without a base that reads them.
    pub(super) fn without_towers() -> Error {
        let problem = "their soft tokens are compared with those of other towers";
        Error::recipe("‹image›, ‹audio›", problem)
            .help("Give the checkpoint, or another mmproj file, with ‹against›.")
    }

    /// Its entry in a report, if it has weights. `path` is the path given by the user.
    pub(super) fn info(&self, path: &Path) -> Option<ModelInfo> {
        match self {
            Against::Model(model) => Some(model.info(path)),
            Against::Mmproj(set) => Some(artifact_info(path, (&**set).into())),
            Against::Logits(_) => None,
        }
    }
}
