//! `[draft]` of a recipe: the draft model that is made with a model, in the same run and with the same manifest.

use serde::{Deserialize, Serialize};
use tensor::{Error, Result};

use crate::Preset;

/// `[draft]`: an assistant, or some layers of the model itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DraftRecipe {
    /// The folder of an assistant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assistant: Option<String>,
    /// So many layers of the model, chosen by a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extract: Option<usize>,
    /// These layers of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<usize>>,
    /// Its preset, if it is another than the model's.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
}

impl DraftRecipe {
    /// # Errors
    /// `Recipe` for none or several drafts, and for a preset that is not known.
    pub(crate) fn check(&self) -> Result<()> {
        let given = [
            ("assistant", self.assistant.is_some()),
            ("extract", self.extract.is_some()),
            ("layers", self.layers.is_some()),
        ];
        let given: Vec<_> = given.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect();
        if given.len() != 1 {
            return Err(Error::recipe("[draft]", "it is one draft model that is made")
                .expected("one of assistant, extract and layers", given.join(", ")));
        }
        self.preset.as_deref().map_or(Ok(()), |preset| Preset::named(preset).map(drop))
    }
}
