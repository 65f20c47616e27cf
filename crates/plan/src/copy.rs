//! Planning a copy of a GGUF: the same tensors under other keys, in one file or in parts.

use base::Sha256;
use gguf::{Layout, Metadata, SplitBy};
use tensor::{Result, TensorDesc};

use crate::artifact::{Artifact, Origin, Plan};
use crate::gguf::{Chosen, files};
use crate::output::Format;
use crate::request::{Shards, stored};
use crate::safetensors::OTHER;

/// The name of the artifact, in the place of a recipe's.
const NAME: &str = "edit";

/// The files of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// The parts of the source, with the same tensors in each.
    Kept,
    /// One file.
    Merged,
    /// Parts with at most this many bytes of tensors.
    Most(u64),
}

/// Plans a copy of all tensors of a GGUF with the keys `metadata`. `fingerprint` is that of the source, `stem` the name of the file
/// without `.gguf`.
///
/// # Errors
/// `Recipe` for a size that is less than the first tensor; `Malformed` for a `general.alignment` that is none.
pub fn copy(
    (shards, fingerprint): (&Shards<'_>, [u8; 32]),
    metadata: &Metadata,
    parts: Parts,
    stem: &str,
) -> Result<Plan> {
    let tensors = shards.tensors.to_vec();
    let groups = match parts {
        Parts::Merged => vec![tensors],
        Parts::Most(max) => gguf::group(tensors, SplitBy::Bytes(max))?,
        Parts::Kept => as_stored(shards),
    };
    let is_split = groups.len() > 1 || matches!(parts, Parts::Most(_));
    let header = Layout::new(metadata, shards.tensors.to_vec())?.header;
    let set = || base::hex(&Sha256::of([&fingerprint, &header[..]].concat())[..16]);
    let copied = shards.tensors.iter().enumerate().map(|(index, desc)| Chosen {
        desc: desc.clone(),
        role: OTHER,
        layer: None,
        why: "copied".to_owned(),
        free: false,
        from: Origin::Checkpoint(stored(shards, index, None)),
    });
    let files = files(metadata, groups, is_split, stem, &set, copied.collect())?;
    let artifact = Artifact {
        recipe: NAME.to_owned(),
        format: Format::Gguf,
        preset: "copy",
        files,
        offloaded: Vec::new(),
        importance: None,
        allocation: None,
        calibration: None,
        dropped: Vec::new(),
        notes: Vec::new(),
    };
    Ok(Plan {
        variant: None,
        architecture: metadata.typed::<&str>("general.architecture")?.unwrap_or_default().to_owned(),
        inputs: shards.files.clone(),
        adapters: Vec::new(),
        notes: Vec::new(),
        artifacts: vec![artifact],
        dropped: Vec::new(),
        target: None,
    })
}

/// The tensors of each file of the source.
fn as_stored(shards: &Shards<'_>) -> Vec<Vec<TensorDesc>> {
    let mut groups = vec![Vec::new(); shards.files.len()];
    for (desc, pieces) in shards.tensors.iter().zip(&shards.pieces) {
        let file = pieces.first().map_or(0, |piece| piece.location.shard);
        groups[file].push(desc.clone());
    }
    groups
}
