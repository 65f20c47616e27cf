//! The front matter of a model card: YAML that the hub reads.

use crate::hub_files::HubRole;

use super::Card;

/// The model of a card.
#[derive(Clone, Debug, Default)]
pub struct CardModel {
    /// The name in the file names: `gemma-4-E2B-it`.
    pub name: String,
    /// The original model's id on the hub.
    pub base_model: Option<String>,
    /// The commit of the original model.
    pub commit: Option<String>,
    /// The licence's id on the hub.
    pub license: Option<String>,
    /// Name and link of a licence that the hub does not know.
    pub license_details: Option<(String, String)>,
    /// Languages, as codes.
    pub languages: Vec<String>,
    /// Who made the release.
    pub quantized_by: Option<String>,
    /// The model reads sounds, besides images.
    pub reads_sounds: bool,
    /// llama.cpp computes an image at once, however many soft tokens it has.
    pub image_is_one_batch: bool,
}

impl CardModel {
    pub(super) fn mmproj_use(&self) -> &'static str {
        match self.reads_sounds {
            true => "images and sounds: the towers for any of the text models",
            false => "images: the tower for any of the text models",
        }
    }
}

/// The front matter with its two lines of hyphens.
pub(super) fn front_matter(card: &Card) -> String {
    let CardModel { base_model, license, license_details, languages, quantized_by, .. } = &card.model;
    let has_towers = card.of(HubRole::Mmproj).next().is_some();
    let mut lines = Vec::new();
    let mut field = |key: &str, value: Option<&str>| {
        lines.extend(value.map(|value| format!("{key}: {}", scalar(value))));
    };
    field("license", license.as_deref());
    field("license_name", license_details.as_ref().map(|(name, _)| name.as_str()));
    field("license_link", license_details.as_ref().map(|(_, link)| link.as_str()));
    field("base_model", base_model.as_deref());
    field("base_model_relation", base_model.as_ref().map(|_| "quantized"));
    field("library_name", Some("gguf"));
    field("pipeline_tag", Some(if has_towers { "image-text-to-text" } else { "text-generation" }));
    field("quantized_by", quantized_by.as_deref());
    let mut list = |key: &str, values: &[&str]| {
        if !values.is_empty() {
            lines.push(format!("{key}:"));
            lines.extend(values.iter().map(|value| format!("- {}", scalar(value))));
        }
    };
    list("tags", &["gguf", "llama.cpp", "ollama", "gemma4", "quantized", "conversational"]);
    list("language", &languages.iter().map(String::as_str).collect::<Vec<_>>());
    format!("---\n{}\n---\n", lines.join("\n"))
}

/// A scalar of YAML: plain where it can only be read as this text, else quoted as in JSON.
fn scalar(text: &str) -> String {
    let is_word = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte))
        && !["y", "n", "yes", "no", "on", "off", "true", "false", "null"]
            .contains(&text.to_lowercase().as_str());
    if is_word { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_left_out_and_texts_stay_texts() {
        let text = front_matter(&Card::default());
        assert!(!text.contains("license") && !text.contains("base_model"), "{text}");
        for (text, expected) in [
            ("apache-2.0", "apache-2.0"),
            ("google/gemma-4-E2B-it", "google/gemma-4-E2B-it"),
            ("no", "\"no\""),
            ("1e3", "\"1e3\""),
            ("a: b", "\"a: b\""),
            ("a\nb", "\"a\\nb\""),
        ] {
            assert_eq!(scalar(text), expected);
        }
    }
}
