//! Whether a text model and an mmproj file belong together.
//!
//! Neither file names its checkpoint: their bytes are those of llama.cpp's converter, which writes no such key. Their manifests have the
//! SHA-256 of the checkpoint's weights.

use gguf::GgufSet;
use tensor::Result;

use crate::Provenance;

/// Compares the checkpoints of a text model and an mmproj file by their manifests. Returns the name of a weight file that differs; `None` if
/// none does, or if one of the two has no manifest.
///
/// # Errors
/// `Io` for a file that cannot be read.
pub fn differing_weights(text: &GgufSet, mmproj: &GgufSet) -> Result<Option<String>> {
    let weights = |set: &GgufSet| -> Result<Vec<_>> {
        let entry = Provenance::of(set)?.entry;
        let inputs = entry.into_iter().flat_map(|entry| entry.inputs);
        Ok(inputs.filter(|file| file.name.ends_with(".safetensors")).collect())
    };
    let of_text = weights(text)?;
    let other = |file: &plan::FileEntry| {
        of_text.iter().any(|known| known.name == file.name && known.sha256 != file.sha256)
    };
    Ok(weights(mmproj)?.into_iter().find(other).map(|file| file.name))
}
