//! The model card: the YAML front matter of `README.md`, read as llama.cpp's `gguf-py/gguf/metadata.py` reads it.
//!
//! Alternative keys for a value follow `apply_metadata_heuristic` there; the caller derives titles and hub addresses
//! from the values. Booleans are those of YAML 1.2: `no` is Norwegian, not false. A date stays a string.

use std::path::Path;

use serde_json::{Map, Value};
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use tensor::{Error, Result};

use crate::files;

/// The front matter of a model card. Empty if the folder has no card, or the card has no front matter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelCard {
    fields: Map<String, Value>,
}

impl ModelCard {
    /// Reads `README.md` at `path`, which need not exist.
    ///
    /// # Errors
    /// `Malformed` with line and column.
    pub fn read(path: &Path) -> Result<ModelCard> {
        match files::text_lf(path)? {
            Some(text) => ModelCard::parse(&text, &path.display().to_string()),
            None => Ok(ModelCard::default()),
        }
    }

    /// Parses `text`, whose lines end with `\n`; `place` names it in errors.
    fn parse(text: &str, place: &str) -> Result<ModelCard> {
        const HELP: &str =
            "correct the front matter, or remove the file if its licence and tags are not needed";
        let mut lines = text.split('\n');
        if lines.next() != Some("---") {
            return Ok(ModelCard::default());
        }
        // Each tab becomes two spaces, as in llama.cpp: some cards are indented with tabs. The first line keeps the
        // parser's line numbers equal to those of the file.
        let mut yaml = String::from("---\n");
        loop {
            match lines.next() {
                Some("---") => break,
                Some(line) => {
                    yaml.push_str(&line.replace('\t', "  "));
                    yaml.push('\n');
                }
                None => {
                    return Err(Error::malformed(format!("{place}:1"), "the front matter has no end")
                        .expected("a line `---` after it", "none")
                        .help(HELP));
                }
            }
        }
        let options = serde_saphyr::options! {
            strict_booleans: true,
            // As PyYAML: cards with evaluation results contain `.nan`.
            duplicate_keys: DuplicateKeyPolicy::LastWins,
            non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        };
        let value: Value = serde_saphyr::from_str_with_options(&yaml, options).map_err(|error| {
            let problem = error.without_snippet().to_string();
            let (at, problem) = match error.location().map(|l| (l.line(), l.column())) {
                Some((line, column)) => (
                    format!(":{line}:{column}"),
                    problem.replace(&format!(" at line {line}, column {column}"), ""),
                ),
                None => (String::new(), problem),
            };
            Error::malformed(format!("{place}{at}"), problem).help(HELP)
        })?;
        match value {
            Value::Object(fields) => Ok(ModelCard { fields }),
            Value::Null => Ok(ModelCard::default()),
            other => Err(Error::malformed(format!("{place}:1"), "the front matter is not a mapping")
                .expected("`key: value` lines", other)
                .help(HELP)),
        }
    }

    /// The raw value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.fields.get(key)
    }

    /// The text of the first existing key of `keys`; numbers as written, lists joined with commas.
    pub fn text(&self, keys: &[&str]) -> Option<String> {
        let value = keys.iter().find_map(|k| self.fields.get(*k).filter(|value| !value.is_null()))?;
        match value {
            Value::Array(items) => {
                Some(items.iter().filter_map(scalar).collect::<Vec<_>>().join(",")).filter(|s| !s.is_empty())
            }
            one => scalar(one),
        }
    }

    /// The entries of the first existing key of `keys`, whose value may be a list or a single value.
    pub fn entries(&self, keys: &[&str]) -> &[Value] {
        match keys.iter().find_map(|k| self.fields.get(*k)) {
            Some(Value::Array(items)) => items,
            Some(Value::Null) | None => &[],
            Some(one) => std::slice::from_ref(one),
        }
    }

    /// The model's name: `name`, else `model_name`.
    pub fn name(&self) -> Option<String> {
        self.text(&["name", "model_name"])
    }

    /// `license`: an identifier such as `apache-2.0`.
    pub fn license(&self) -> Option<String> {
        self.text(&["license"])
    }

    /// `license_name`: a name for a license without an identifier.
    pub fn license_name(&self) -> Option<String> {
        self.text(&["license_name"])
    }

    /// `license_link`: an address, or a file in the repository.
    pub fn license_link(&self) -> Option<String> {
        self.text(&["license_link"])
    }

    /// `pipeline_tag`, such as `any-to-any`.
    pub fn pipeline_tag(&self) -> Option<String> {
        self.text(&["pipeline_tag"])
    }

    /// The entries of `tags`, then `pipeline_tag`.
    pub fn tags(&self) -> Vec<String> {
        self.strings(&["tags", "pipeline_tag"])
    }

    /// The entries of `languages`, then `language`.
    pub fn languages(&self) -> Vec<String> {
        self.strings(&["languages", "language"])
    }

    /// The models that this one was made from: hub ids or addresses, or mappings that describe them.
    pub fn base_models(&self) -> &[Value] {
        self.entries(&["base_model", "base_models", "base_model_sources"])
    }

    /// The training datasets: hub ids or addresses, or mappings that describe them.
    pub fn datasets(&self) -> &[Value] {
        self.entries(&["datasets", "dataset", "dataset_sources"])
    }

    /// The entries of all `keys` as text.
    fn strings(&self, keys: &[&str]) -> Vec<String> {
        keys.iter().flat_map(|k| self.entries(&[k])).filter_map(scalar).collect()
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ModelCard {
        ModelCard::parse(text, "README.md").unwrap()
    }

    #[test]
    fn the_fields_of_a_card() {
        let card = parse(
            "---\nlicense: apache-2.0\nlicense_link: https://a.example/LICENSE # c\ntags:\n- a\n- 2\nlanguage:\n\t- no\n\
             \t- en\npipeline_tag: any-to-any\nbase_model: google/x\ndate: 2026-04-02\n---\n# Title\n---\n",
        );
        assert_eq!(card.license().as_deref(), Some("apache-2.0"));
        assert_eq!(card.license_link().as_deref(), Some("https://a.example/LICENSE"));
        assert_eq!(card.tags(), ["a", "2", "any-to-any"]);
        assert_eq!(card.base_models(), ["google/x"]);
        assert_eq!(card.get("date"), Some(&Value::from("2026-04-02")));
        assert_eq!(card.name(), None);
        assert_eq!(card.languages(), ["no", "en"]);
    }

    #[test]
    fn no_front_matter() {
        for text in ["", "# Title\n", "---\n---\n", "---\n# nothing\n---\ntext", " ---\na: b\n---\n"] {
            assert_eq!(parse(text), ModelCard::default(), "{text:?}");
        }
    }

    #[test]
    fn errors_name_the_line_of_the_file() {
        let place = |text: &str| ModelCard::parse(text, "README.md").unwrap_err().place().to_owned();
        assert_eq!(place("---\na: b\n"), "README.md:1");
        assert_eq!(place("---\n- a\n---\n"), "README.md:1");
        assert_eq!(place("---\na: b: c\n---\n"), "README.md:2:5");
        assert_eq!(place("---\nok: 1\nbad: \"a\\qb\"\n---\n"), "README.md:3:6");
        let error = ModelCard::parse("---\nok: 1\ntags: [a\n---\n", "README.md").unwrap_err();
        assert_eq!((error.place(), error.problem()), ("README.md:3:7", "unclosed bracket '['"));
    }

    #[test]
    fn what_pyyaml_takes_is_taken() {
        let card = parse("---\nname: a\nvalue: .nan\nname: b\n---\n");
        assert_eq!(card.name().as_deref(), Some("b"));
        assert_eq!(card.get("value"), Some(&Value::from(".nan")));
    }
}
