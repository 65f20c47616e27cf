//! Whether a text model and an mmproj file belong together.
//!
//! Neither file names its checkpoint: their bytes are those of llama.cpp's converter, which writes no such key. Their manifests have the
//! SHA-256 of the checkpoint's weights.

use std::collections::HashMap;
use std::path::Path;

use plan::FileEntry;
use tensor::{Error, Result};

use crate::artifact::{self, Part};
use crate::manifest::describing;

/// Compares the checkpoints of a text model and an mmproj file, both GGUF files, by their manifests. Returns the name of a weight file that
/// differs; `None` if none does, or if one of the two has no manifest.
///
/// # Errors
/// `Io` for a file that cannot be read.
pub fn differing_weights(text: &Path, mmproj: &Path) -> Result<Option<String>> {
    let of_text = weights(text)?;
    let differs =
        |file: &FileEntry| of_text.iter().any(|known| known.name == file.name && known.differs_from(file));
    Ok(weights(mmproj)?.into_iter().find(differs).map(|file| file.name))
}

/// The weight files of the checkpoint that a file was made from.
fn weights(path: &Path) -> Result<Vec<FileEntry>> {
    let len = path.metadata().map_err(|e| Error::io(path.display(), &e))?.len();
    let part = Part { name: artifact::name(path), path: path.to_owned(), len };
    let described = describing(&[part], &mut HashMap::new(), &mut Vec::new())?;
    let inputs = described.into_iter().flat_map(|found| found.entry.inputs);
    Ok(inputs.filter(|file| file.name.ends_with(".safetensors")).collect())
}
