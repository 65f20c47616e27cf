//! Release recipes: the files of a model's repository, and their names. The keys are documented in `recipes/README.md`.
//!
//! Those of the folder `recipes/release/` are embedded; no code knows one by name.

use serde::{Deserialize, Serialize};
use tensor::{Error, Result};

use crate::embedded;
use crate::presets::Preset;
use crate::recipe::Recipe;

/// The files of a release. Each is made by a recipe of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRecipe {
    /// A description for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub purpose: String,
    /// The text models.
    pub text: Vec<ReleaseText>,
    /// mmproj files: presets of their matrices. A model without towers has none.
    #[serde(default)]
    pub mmproj: Vec<String>,
    /// The draft model.
    #[serde(default)]
    pub draft: ReleaseDraft,
    /// The names of the files.
    #[serde(default)]
    pub names: ReleaseNames,
}

/// A text model of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseText {
    /// A recipe or a preset.
    pub recipe: String,
    /// It is quantized with the importance matrix of the calibration text, which is a file of the release too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub importance: bool,
}

/// The draft model of a release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseDraft {
    /// Presets; without one there is no draft model.
    pub types: Vec<String>,
    /// The assistant, of which it is made: the folder of a checkpoint, or the id of a model on the hub. The default is the model's
    /// own name with `-assistant` after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assistant: Option<String>,
}

/// Templates of file names, without `.gguf`. `{name}` is the name of the model, `{TYPE}` the preset in upper case,
/// `{recipe}` the name of the recipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReleaseNames {
    /// Of a text model.
    pub text: String,
    /// Of an mmproj file.
    pub mmproj: String,
    /// Of a draft model.
    pub draft: String,
    /// Of the importance matrix; it has no `{TYPE}` and no `{recipe}`.
    pub importance: String,
}

impl Default for ReleaseNames {
    /// The names by which llama.cpp tells the kinds of files apart (`common/download.cpp`).
    fn default() -> ReleaseNames {
        ReleaseNames {
            text: "{name}-{TYPE}".to_owned(),
            mmproj: "mmproj-{name}-{TYPE}".to_owned(),
            draft: "mtp-{name}-{TYPE}".to_owned(),
            importance: "imatrix-{name}".to_owned(),
        }
    }
}

impl ReleaseRecipe {
    /// The names of the embedded release recipes with their purposes, sorted.
    pub fn embedded() -> Vec<(String, String)> {
        let purpose = |text: &str, name: &str| Ok(ReleaseRecipe::from_toml(text, name)?.purpose);
        embedded::purposes(Recipe::embedded_releases(), purpose)
    }

    /// The TOML text of an embedded release recipe.
    ///
    /// # Errors
    /// `Recipe` for an unknown name.
    pub fn embedded_text(name: &str) -> Result<&'static str> {
        let missing = Error::recipe(format!("release recipe {name:?}"), "no such release recipe");
        let help = "Give a release recipe, or the path of a .toml file.";
        embedded::text(Recipe::embedded_releases(), name, missing, help)
    }

    /// Parses and checks a release recipe; `name` is for errors.
    ///
    /// # Errors
    /// `Recipe`, with the line in the text.
    pub fn from_toml(text: &str, name: &str) -> Result<ReleaseRecipe> {
        let place = || format!("release recipe {name}");
        let recipe: ReleaseRecipe = embedded::parse(text, place, "a release recipe")?;
        recipe.check().map_err(|e| e.within(place()))?;
        Ok(recipe)
    }

    fn check(&self) -> Result<()> {
        if self.text.is_empty() {
            return Err(Error::recipe("text", "a release without a text model"));
        }
        self.mmproj.iter().chain(&self.draft.types).try_for_each(|preset| Preset::named(preset).map(drop))?;
        if self.draft.types.is_empty() && self.draft.assistant.is_some() {
            return Err(Error::recipe("draft.assistant", "has no effect without types")
                .help("Name them in draft.types."));
        }
        let ReleaseNames { text, mmproj, draft, importance } = &self.names;
        for (key, template) in
            [("text", text), ("mmproj", mmproj), ("draft", draft), ("importance", importance)]
        {
            let of_files = if key == "importance" { &["name"][..] } else { &["name", "TYPE", "recipe"][..] };
            check_template(template, of_files).map_err(|e| e.within(format!("names.{key}")))?;
        }
        Ok(())
    }

    /// Whether a text model is quantized with an importance matrix.
    pub fn needs_importance(&self) -> bool {
        self.text.iter().any(|text| text.importance)
    }
}

/// A template as text between and after placeholders.
fn placeholders(template: &str) -> Result<Vec<&str>> {
    let unclosed = || Error::recipe(template, "a brace without its other half");
    let mut rest = template;
    let mut found = Vec::new();
    while let Some((before, after)) = rest.split_once('{') {
        let (name, tail) = after.split_once('}').ok_or_else(unclosed)?;
        if before.contains('}') {
            return Err(unclosed());
        }
        found.push(name);
        rest = tail;
    }
    if rest.contains('}') { Err(unclosed()) } else { Ok(found) }
}

fn check_template(template: &str, allowed: &[&str]) -> Result<()> {
    let found = placeholders(template)?;
    if let Some(unknown) = found.iter().find(|name| !allowed.contains(name)) {
        let known: Vec<_> = allowed.iter().map(|name| format!("{{{name}}}")).collect();
        return Err(Error::recipe(template, "an unknown placeholder")
            .expected(known.join(", "), format!("{{{unknown}}}")));
    }
    let plain = template.replace(['{', '}'], "");
    if template.ends_with(".gguf") || !base::is_plain_name(&plain) || plain.contains('/') {
        return Err(Error::recipe(template, "not the template of a file name")
            .expected("a name without folders and without .gguf", template));
    }
    Ok(())
}

/// A template with its placeholders filled in; `recipe` and its preset are absent for the importance matrix.
#[must_use]
pub fn release_stem(template: &str, name: &str, recipe: Option<(&str, &str)>) -> String {
    let (recipe, preset) = recipe.unwrap_or_default();
    template.replace("{TYPE}", &preset.to_uppercase()).replace("{recipe}", recipe).replace("{name}", name)
}

/// The name of a model in file names, from the name of its repository or folder: without what QAT checkpoints have at
/// the end, since their type comes there.
///
/// ```
/// assert_eq!(plan::release_name("gemma-4-E2B-it"), "gemma-4-E2B-it");
/// assert_eq!(plan::release_name("gemma-4-E2B-it-qat-q4_0-unquantized"), "gemma-4-E2B-it-qat");
/// ```
#[must_use]
pub fn release_name(model: &str) -> &str {
    match model.strip_suffix("-unquantized") {
        Some(qat) => match qat.rsplit_once('-') {
            Some((name, preset)) if Preset::named(preset).is_ok() => name,
            _ => qat,
        },
        None => model,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_ones_are_valid() {
        let embedded = ReleaseRecipe::embedded();
        assert_eq!(embedded.len(), Recipe::embedded_releases().count());
        for (name, purpose) in embedded {
            let recipe =
                ReleaseRecipe::from_toml(ReleaseRecipe::embedded_text(&name).unwrap(), &name).unwrap();
            assert!(!purpose.is_empty());
            for text in recipe.text {
                assert!(Recipe::embedded_text(&text.recipe).is_some(), "{}", text.recipe);
            }
        }
        let error = ReleaseRecipe::embedded_text("defalt").unwrap_err();
        assert!(error.to_string().contains("Did you mean default?"), "{error}");
    }

    #[test]
    fn an_assistant_without_types_is_refused() {
        let parse = |draft: &str| {
            ReleaseRecipe::from_toml(&format!("text = [{{ recipe = 'q4_0' }}]\n[draft]\n{draft}"), "mine")
        };
        assert!(parse("types = ['q8_0']\nassistant = 'a/b'").is_ok());
        for bad in ["types = []\nassistant = 'a/b'", "assistant = 'a/b'", "types = ['q9']", "type = 'q8_0'"] {
            assert!(parse(bad).unwrap_err().to_string().contains("release recipe mine"), "{bad}");
        }
    }

    #[test]
    fn templates_are_checked() {
        let with = |names: &str| {
            ReleaseRecipe::from_toml(&format!("text = [{{ recipe = 'q4_0' }}]\n[names]\n{names}"), "mine")
        };
        let recipe = with("text = 'My {name} ({recipe}).{TYPE}'").unwrap();
        let stem = release_stem(&recipe.names.text, "tiny", Some(("q4_0-calibrated", "q4_0")));
        assert_eq!(stem, "My tiny (q4_0-calibrated).Q4_0");
        for bad in [
            "text = '{name}-{type}'",
            "text = '{name'",
            "text = 'name}'",
            "text = '{name}.gguf'",
            "text = '../{name}'",
            "text = 'a/{name}'",
            "text = ''",
            "importance = 'imatrix-{TYPE}'",
            "model = '{name}'",
        ] {
            let error = with(bad).unwrap_err().to_string();
            assert!(error.contains("release recipe mine"), "{bad}: {error}");
        }
    }
}
