//! The license of a model, from the keys `general.license*`.

use gguf::Metadata;
use tensor::Result;

/// The license of this project is that of the Gemma 4 models, so its text is at hand.
const APACHE_2_0: &str = include_str!("../../../../LICENSE");

/// The text of the license that the keys name; its name and address if the text is not known; `None` without keys.
pub(crate) fn license(metadata: &Metadata) -> Result<Option<String>> {
    let key = |name: &str| metadata.typed::<&str>(&format!("general.license{name}"));
    let (id, name, link) = (key("")?, key(".name")?, key(".link")?);
    if id.is_some_and(|id| id.eq_ignore_ascii_case("apache-2.0")) {
        return Ok(Some(APACHE_2_0.to_owned()));
    }
    // of a license without an id the card has a name
    let id = id.filter(|&id| id != "other" || name.is_none());
    let mut lines = [id, name, link].into_iter().flatten().filter(|line| !line.is_empty()).peekable();
    Ok(lines.peek().is_some().then(|| lines.map(|line| format!("{line}\n")).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_texts_and_names() {
        let mut metadata = Metadata::new();
        assert_eq!(license(&metadata).unwrap(), None);
        metadata.insert("general.license", "apache-2.0");
        assert!(license(&metadata).unwrap().unwrap().contains("Version 2.0, January 2004"));
        metadata.insert("general.license", "other");
        metadata.insert("general.license.name", "my-license");
        metadata.insert("general.license.link", "https://example.org/license");
        assert_eq!(license(&metadata).unwrap().unwrap(), "my-license\nhttps://example.org/license\n");
        metadata.insert("general.license", 1u32);
        license(&metadata).unwrap_err();
    }
}
