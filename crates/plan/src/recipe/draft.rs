//! `[draft]` of a recipe: a draft model that is made in the same run and has the same manifest.

use serde::{Deserialize, Serialize};
use tensor::{Error, Result};

use crate::Preset;

/// `[draft]`: an assistant, or an extract of the model's own layers. Exactly one of the first three fields is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DraftRecipe {
    /// The folder of an assistant's checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assistant: Option<String>,
    /// The number of layers to extract; a text decides which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extract: Option<usize>,
    /// The indices of the layers to extract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<usize>>,
    /// The preset, if it differs from the model's.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
}

impl DraftRecipe {
    /// # Errors
    /// `Recipe` unless exactly one kind of draft is given, and for an unknown preset.
    pub(crate) fn check(&self) -> Result<()> {
        let given = [
            ("assistant", self.assistant.is_some()),
            ("extract", self.extract.is_some()),
            ("layers", self.layers.is_some()),
        ];
        let given: Vec<_> = given.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect();
        if given.len() != 1 {
            return Err(Error::recipe("[draft]", "a recipe makes exactly one draft model")
                .expected("one of assistant, extract and layers", given.join(", ")));
        }
        self.preset.as_deref().map_or(Ok(()), |preset| Preset::named(preset).map(drop))
    }
}
