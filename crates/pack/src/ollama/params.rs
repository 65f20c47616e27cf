//! The parameters of a model: sampling defaults from the keys `general.sampling.*`, else those of the official library.

use std::collections::BTreeMap;

use gguf::Metadata;
use tensor::{Error, Result};

use super::go_json;

/// Sampling parameters by Ollama's names, each as Go writes it in JSON.
///
/// Without parameters Ollama samples with its own defaults: temperature 0.8, top_k 40, top_p 0.9.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OllamaParams(BTreeMap<&'static str, String>);

/// Real-valued keys of a GGUF, with Ollama's names and the values of the official library.
const FLOATS: [(&str, &str, Option<f32>); 4] = [
    ("temp", "temperature", Some(1.0)),
    ("top_p", "top_p", Some(0.95)),
    ("min_p", "min_p", None),
    ("penalty_repeat", "repeat_penalty", None),
];
/// Integers.
const COUNTS: [(&str, &str, Option<i32>); 2] =
    [("top_k", "top_k", Some(64)), ("penalty_last_n", "repeat_last_n", None)];

impl OllamaParams {
    /// The parameters of a text model with these keys, and the names of keys for which Ollama has no parameter.
    ///
    /// # Errors
    /// `Malformed` for a mistyped key or a number that JSON cannot express.
    pub fn from_metadata(metadata: &Metadata) -> Result<(OllamaParams, Vec<String>)> {
        let mut params = BTreeMap::new();
        for (key, name, default) in FLOATS {
            let key = format!("general.sampling.{key}");
            let Some(value) = metadata.typed::<f32>(&key)?.or(default) else { continue };
            if !value.is_finite() {
                return Err(Error::malformed(format!("key {key}"), "not a valid sampling value")
                    .expected("a finite number", value));
            }
            params.insert(name, go_json::float(value));
        }
        for (key, name, default) in COUNTS {
            let value = metadata.typed::<i32>(&format!("general.sampling.{key}"))?.or(default);
            if let Some(value) = value {
                params.insert(name, value.to_string());
            }
        }
        let known = |key: &str| {
            FLOATS.iter().any(|(known, ..)| *known == key) || COUNTS.iter().any(|(known, ..)| *known == key)
        };
        let sampling = metadata
            .iter()
            .filter(|(key, _)| key.strip_prefix("general.sampling.").is_some_and(|key| !known(key)));
        Ok((OllamaParams(params), sampling.map(|(key, _)| key.to_owned()).collect()))
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// Names and values as a JSON object.
    pub fn values(&self) -> BTreeMap<String, f64> {
        self.iter().filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
    }

    /// The content of the layer: one line of JSON.
    pub fn document(&self) -> Vec<u8> {
        let fields: Vec<_> = self.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}\n", fields.join(",")).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_replace_the_librarys_values() {
        let mut metadata = Metadata::new();
        let document = |metadata: &Metadata| {
            let (params, unknown) = OllamaParams::from_metadata(metadata).unwrap();
            (String::from_utf8(params.document()).unwrap(), unknown)
        };
        let library = testkit::read("ollama/params.json");
        assert_eq!(document(&metadata).0.as_bytes(), library);
        metadata.insert("general.sampling.temp", 0.7f32);
        metadata.insert("general.sampling.top_k", 20i32);
        metadata.insert("general.sampling.min_p", 0.0f32);
        metadata.insert("general.sampling.penalty_repeat", 1.1f32);
        metadata.insert("general.sampling.mirostat", 2i32);
        let (document, unknown) = document(&metadata);
        assert_eq!(
            document,
            "{\"min_p\":0,\"repeat_penalty\":1.1,\"temperature\":0.7,\"top_k\":20,\"top_p\":0.95}\n"
        );
        assert_eq!(unknown, ["general.sampling.mirostat"]);
        metadata.insert("general.sampling.temp", f32::NAN);
        assert_eq!(OllamaParams::from_metadata(&metadata).unwrap_err().place(), "key general.sampling.temp");
        metadata.insert("general.sampling.temp", 1u32);
        OllamaParams::from_metadata(&metadata).unwrap_err();
    }
}
