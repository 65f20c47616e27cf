//! Packing of finished GGUF files for Ollama.

use std::path::{Path, PathBuf};

use base::{OutputFile, Progress};
use pack::ollama::{OllamaModel, OllamaName, OllamaPacked, OllamaStore};
use tensor::{Error, Result};

use crate::towers::other_checkpoint;

/// The longest text of a license in bytes.
const MAX_LICENSE: u64 = 1 << 20;

/// Puts the GGUF files of one model into an Ollama store, or writes a Modelfile for `ollama create`.
#[derive(Clone, Debug)]
pub struct PackOllama {
    /// Text model, and optionally projector (mmproj) and draft model; or the folder that holds them. Of several text models in a
    /// folder, such as a release, the tag of the name chooses.
    pub files: Vec<PathBuf>,
    /// The result.
    pub target: OllamaTarget,
    /// A file with the text of the license; by default the license that the text model's keys name.
    pub license: Option<PathBuf>,
    /// Replace a different model of this name, or an existing Modelfile.
    pub force: bool,
}

/// The result of packing for Ollama.
#[derive(Clone, Debug)]
pub enum OllamaTarget {
    /// A model in a store.
    Store {
        /// The name: `gemma4-e2b:q4_0`, with a namespace or a host if it has one.
        name: String,
        /// The folder of the store; by default Ollama's own: `$OLLAMA_MODELS` or `~/.ollama/models`.
        folder: Option<PathBuf>,
    },
    /// A text file.
    Modelfile(PathBuf),
}

impl PackOllama {
    /// Packs files for a store; `name` is the name of the model.
    pub fn new(files: impl IntoIterator<Item = impl Into<PathBuf>>, name: impl Into<String>) -> PackOllama {
        PackOllama {
            files: files.into_iter().map(Into::into).collect(),
            target: OllamaTarget::Store { name: name.into(), folder: None },
            license: None,
            force: false,
        }
    }

    /// Checks that Ollama can run the files, and packs them. Nothing is written if a check fails.
    ///
    /// # Errors
    /// Those of [`OllamaModel::find`] and [`OllamaStore::add`]; `Recipe` for a name that Ollama does not allow.
    pub fn run(&self, progress: &dyn Progress) -> Result<OllamaPacked> {
        // cheap checks of the target come before the files are read
        let store = match &self.target {
            OllamaTarget::Store { name, folder } => {
                let name: OllamaName = name.parse()?;
                Ok((name, folder.as_ref().map_or_else(OllamaStore::of_user, OllamaStore::open)?))
            }
            OllamaTarget::Modelfile(path) => Err(path),
        };
        let tag = store.as_ref().ok().map(|(name, _)| name.tag());
        let mut model = OllamaModel::find(&self.files, tag)?;
        if let Some(file) = &self.license {
            model.license = Some(base::read_text(file, MAX_LICENSE)?);
        }
        if let Some(projector) = &model.projector {
            model.notes.extend(other_checkpoint(model.text.path(), projector.path())?);
        }
        model.notes.iter().for_each(|note| progress.note(note));
        match store {
            Ok((name, store)) => {
                let stored = store.add(&model, &name, self.force, progress)?;
                Ok(OllamaPacked::new(&model, Some(stored), None))
            }
            Err(path) => {
                self.write_modelfile(&model, path)?;
                Ok(OllamaPacked::new(&model, None, Some(path.clone())))
            }
        }
    }

    fn write_modelfile(&self, model: &OllamaModel, path: &Path) -> Result<()> {
        if !self.force && path.is_file() {
            return Err(Error::exists(path.display(), "the file exists")
                .help("Choose another name, or use ‹force› to replace it."));
        }
        let folder = base::folder_of(path);
        let text = model.modelfile(folder)?;
        OutputFile::sequential(path)?.publish_with(text.as_bytes())
    }
}
