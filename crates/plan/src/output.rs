//! `[output]` of a recipe: the container and the split into files.

use serde::{Deserialize, Serialize};
use tensor::Result;

use crate::byte_size::byte_size;
use crate::offload::Class;

/// The section `[output]` of a recipe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// The container format.
    #[serde(default, skip_serializing_if = "Format::is_gguf")]
    pub format: Format,
    /// Maximum bytes of tensors per part of a GGUF, such as `2GB` or `500MB` (powers of ten).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_max_size: Option<String>,
    /// Maximum bytes of tensors per shard of safetensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_shard_size: Option<String>,
    /// Classes of `formats/offload.toml` that go into separate files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offload: Vec<String>,
}

/// A container format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One file, or the parts of a split.
    #[default]
    Gguf,
    /// A folder in the layout of transformers' `save_pretrained`.
    Safetensors,
    /// A GGUF with the image and audio towers, without the text model.
    Mmproj,
}

impl Format {
    fn is_gguf(&self) -> bool {
        *self == Format::Gguf
    }
}

/// The default of `save_pretrained` in transformers 5.
const MAX_SHARD: &str = "50GB";

impl Output {
    /// The classes that go into separate files.
    ///
    /// # Errors
    /// `Recipe` for an unknown class.
    pub(crate) fn offload_classes(&self) -> Result<Vec<&'static Class>> {
        self.offload.iter().map(|name| Class::named(name)).collect()
    }

    /// `max_shard_size` in bytes.
    ///
    /// # Errors
    /// `Recipe` if it is not a size.
    pub fn max_shard_bytes(&self) -> Result<u64> {
        byte_size("output.max_shard_size", self.max_shard_size.as_deref().unwrap_or(MAX_SHARD))
    }

    /// `split_max_size` in bytes.
    ///
    /// # Errors
    /// `Recipe` if it is not a size.
    pub fn split_max_bytes(&self) -> Result<Option<u64>> {
        self.split_max_size.as_deref().map(|text| byte_size("output.split_max_size", text)).transpose()
    }
}
