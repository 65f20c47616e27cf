//! The entries of models and files in a report.

use std::path::Path;

use eval::{HashedFile, ModelInfo};
use gemma::{Config, Inventory};
use gguf::GgufFile;

use tensor::Result;
use verify::Artifact;

/// The entry of an artifact, whose config may be broken.
pub(super) fn artifact_info(path: &Path, artifact: Artifact<'_>) -> ModelInfo {
    let tensors = artifact.source().tensors();
    // the structure step reports errors of the config
    match artifact {
        Artifact::Gguf(set) => {
            model_info(path, Config::any_from_metadata(set.metadata(), tensors).ok().as_ref(), artifact, None)
        }
        Artifact::Folder(folder) => {
            let config = Config::any_of_checkpoint(folder).ok();
            let inventory = config.as_ref().and_then(|config| {
                gemma::inventory(config, tensors, &|_| folder.dir().display().to_string()).ok()
            });
            model_info(path, config.as_ref(), artifact, inventory.as_ref())
        }
    }
}

/// The files that were read, with their SHA-256. A pipe cannot be read a second time.
pub(super) fn hashed_files<'p>(paths: impl Iterator<Item = &'p Path>) -> Result<Vec<HashedFile>> {
    paths.filter(|path| path.is_file()).map(|path| HashedFile::read(path, &|_| ())).collect()
}

/// The entry of a model in a report: over the tensors of the text model, or all tensors if these are not known.
pub(crate) fn model_info(
    path: &Path,
    config: Option<&Config>,
    artifact: Artifact<'_>,
    inventory: Option<&Inventory>,
) -> ModelInfo {
    let mut info = ModelInfo {
        path: path.display().to_string(),
        variant: config.and_then(Config::variant).map(str::to_owned),
        file_bytes: match artifact {
            Artifact::Gguf(set) => set.parts().iter().map(GgufFile::file_len).sum(),
            Artifact::Folder(folder) => folder.total_len(),
        },
        ..ModelInfo::default()
    };
    let stored = artifact.stored();
    let text = match inventory {
        Some(inventory) => inventory.text.iter().map(|found| found.index).collect(),
        None => (0..stored.len()).collect::<Vec<_>>(),
    };
    for tensor in text.into_iter().map(|index| &stored[index]) {
        info.bytes += tensor.bytes;
        info.weights += tensor.desc.elements();
        *info.types.entry(tensor.desc.dtype.to_string()).or_default() += tensor.bytes;
    }
    info
}
