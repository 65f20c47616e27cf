//! The artifact: a GGUF or a folder of safetensors, and the storage of each of its tensors.
//!
//! Both present their weights as numbers. A folder can store them in another type with separate scales (SFP8, FP8).
//! Plans and limits refer to the stored type.

use std::path::{Path, PathBuf};

use checkpoint::Checkpoint;
use gguf::GgufSet;
use tensor::{DType, TensorDesc, TensorSource};

/// An open artifact.
#[derive(Clone, Copy, Debug)]
pub enum Artifact<'a> {
    /// A single file or all parts of a split.
    Gguf(&'a GgufSet),
    /// A folder in the layout of transformers.
    Folder(&'a Checkpoint),
}

/// A tensor as stored in its file.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Name, type and shape in the file.
    pub desc: TensorDesc,
    /// Size with scales.
    pub bytes: u64,
    /// Factor of all values; 1 if there is none, or one per row.
    pub scale: f32,
}

/// A file that holds tensors.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// File name.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// File size in bytes.
    pub(crate) len: u64,
}

impl<'a> From<&'a GgufSet> for Artifact<'a> {
    fn from(set: &'a GgufSet) -> Self {
        Artifact::Gguf(set)
    }
}

impl<'a> From<&'a Checkpoint> for Artifact<'a> {
    fn from(folder: &'a Checkpoint) -> Self {
        Artifact::Folder(folder)
    }
}

impl<'a> Artifact<'a> {
    /// The weights as numbers.
    pub fn source(self) -> &'a dyn TensorSource {
        match self {
            Artifact::Gguf(set) => set,
            Artifact::Folder(folder) => folder,
        }
    }

    /// The stored form of all tensors, in the order of the [source](Artifact::source).
    pub fn stored(self) -> Vec<Stored> {
        let tensors = self.source().tensors().iter().enumerate();
        tensors.map(|(index, desc)| self.one(index, desc)).collect()
    }

    fn one(self, index: usize, desc: &TensorDesc) -> Stored {
        let code = match self {
            Artifact::Gguf(_) => None,
            Artifact::Folder(folder) => folder.encoding(index).map(|code| (folder, code)),
        };
        let Some((folder, code)) = code else { return Stored::plain(desc) };
        let desc = TensorDesc { dtype: code.dtype, ..desc.clone() };
        let scales = if code.scale.per_row { desc.rows() } else { 1 };
        let bytes = desc.byte_len() + scales * code.scale.dtype.block_bytes() as u64;
        let mut scale = [1.0];
        if !code.scale.per_row && folder.read_scales(&code.scale, 0, &mut scale).is_err() {
            scale = [1.0]; // reading the weights reports the error
        }
        Stored { desc, bytes, scale: scale[0] }
    }

    /// The files with its tensors.
    pub(crate) fn parts(self) -> Vec<Part> {
        match self {
            Artifact::Gguf(set) => {
                let parts = set.parts().iter().map(|part| Part {
                    name: name(part.path()),
                    path: part.path().to_owned(),
                    len: part.file_len(),
                });
                parts.collect()
            }
            Artifact::Folder(folder) => {
                let shards = folder.shards().iter();
                let part = |shard: &checkpoint::Shard| Part {
                    name: shard.name.clone(),
                    path: shard.path.clone(),
                    len: shard.len,
                };
                shards.map(part).collect()
            }
        }
    }
}

impl Stored {
    /// A tensor whose stored type is the presented one.
    pub(crate) fn plain(desc: &TensorDesc) -> Stored {
        Stored { desc: desc.clone(), bytes: desc.byte_len(), scale: 1.0 }
    }
}

/// Whether a GGUF holds image and audio towers instead of a text model.
pub fn is_mmproj(set: &GgufSet) -> bool {
    gemma::is_mmproj(set.metadata())
}

/// Whether tensors presented in this type can be read as weights.
pub(crate) fn is_readable(dtype: DType) -> bool {
    quant::can_encode(dtype) && !quant::scale_is_apart(dtype)
}

/// The file name for messages.
pub(crate) fn name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
