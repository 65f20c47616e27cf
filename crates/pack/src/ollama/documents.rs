//! Config and manifest of a model. The order of the fields is that of Ollama's types.
//!
//! Sources: ollama/ollama `types/model/config.go`, `manifest/layer.go`, `manifest/manifest.go`, `format/format.go`,
//! `fs/ggml/type.go`.

use schemars::JsonSchema;
use serde::Serialize;

use super::go_json;

/// Beginning of the media types of layers.
const LAYER: &str = "application/vnd.ollama.image.";
const CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Names of `general.file_type`, by number. Numbers without a name are of types that GGUF files no longer have.
const FILE_TYPES: [&str; 41] = [
    "F32",
    "F16",
    "Q4_0",
    "Q4_1",
    "",
    "",
    "",
    "Q8_0",
    "Q5_0",
    "Q5_1",
    "Q2_K",
    "Q3_K_S",
    "Q3_K_M",
    "Q3_K_L",
    "Q4_K_S",
    "Q4_K_M",
    "Q5_K_S",
    "Q5_K_M",
    "Q6_K",
    "IQ2_XXS",
    "IQ2_XS",
    "Q2_K_S",
    "",
    "IQ3_XXS",
    "IQ1_S",
    "IQ4_NL",
    "IQ3_S",
    "IQ3_M",
    "IQ2_S",
    "IQ2_M",
    "IQ4_XS",
    "IQ1_M",
    "BF16",
    "",
    "",
    "",
    "TQ1_0",
    "TQ2_0",
    "MXFP4_MOE",
    "NVFP4",
    "Q1_0",
];

/// The config of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct OllamaConfig {
    /// Always `gguf`.
    pub model_format: String,
    /// The architecture of the text model.
    pub model_family: String,
    /// The same as a list.
    pub model_families: Vec<String>,
    /// The number of weights of the text model, for people: `5.1B`.
    pub model_type: String,
    /// The name of the text model's `general.file_type`: `Q4_0`.
    pub file_type: String,
    /// The form of prompts: `gemma4-small` or `gemma4-large`.
    pub renderer: String,
    /// The parser of answers.
    pub parser: String,
    /// The oldest version of Ollama that runs the model.
    pub requires: String,
    /// The draft model, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draft: Option<OllamaDraft>,
    /// Always `amd64`, on any machine.
    pub architecture: String,
    /// Always `linux`.
    pub os: String,
}

/// The entry of a draft model in a config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct OllamaDraft {
    /// Always `gguf`.
    pub model_format: String,
    /// The architecture of the draft model.
    pub architecture: String,
}

impl OllamaConfig {
    /// The content of the blob.
    pub fn document(&self) -> Vec<u8> {
        go_json::encode(self)
    }
}

/// A blob in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OllamaLayer {
    /// The kind of content.
    pub media_type: String,
    /// `sha256:` and the SHA-256 of the content in hexadecimal.
    pub digest: String,
    /// Length of the content in bytes.
    pub size: u64,
    /// The name of the file that the content comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

impl OllamaLayer {
    /// A layer of a kind: `model`, `projector`, `draft`, `license`, `params`. `sha256` is in hexadecimal.
    pub fn new(kind: &str, sha256: &str, size: u64, from: Option<String>) -> OllamaLayer {
        OllamaLayer { media_type: format!("{LAYER}{kind}"), digest: format!("sha256:{sha256}"), size, from }
    }

    /// The entry of a config.
    pub fn config(sha256: &str, size: u64) -> OllamaLayer {
        OllamaLayer { media_type: CONFIG.to_owned(), ..OllamaLayer::new("", sha256, size, None) }
    }

    /// The name of the blob in a store.
    pub fn blob_name(&self) -> String {
        self.digest.replace(':', "-")
    }
}

/// The manifest of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OllamaManifest {
    schema_version: u32,
    media_type: &'static str,
    /// The blob of the config.
    pub config: OllamaLayer,
    /// The blobs of the content, in order: model, projector, draft, license, params.
    pub layers: Vec<OllamaLayer>,
}

impl OllamaManifest {
    /// A manifest of these blobs.
    pub fn new(config: OllamaLayer, layers: Vec<OllamaLayer>) -> OllamaManifest {
        OllamaManifest { schema_version: 2, media_type: MANIFEST, config, layers }
    }

    /// The content of the file.
    pub fn document(&self) -> Vec<u8> {
        go_json::encode(self)
    }
}

/// A number of weights as Ollama shows it: `11.9B`, `268.10M`, `5K`.
pub(crate) fn weights_for_people(count: u64) -> String {
    let number = |unit: u64, decimals: usize| {
        let number = count as f64 / unit as f64;
        let decimals = if number == number.floor() { 0 } else { decimals };
        format!("{number:.decimals$}")
    };
    match count {
        1_000_000_000.. => format!("{}B", number(1_000_000_000, 1)),
        1_000_000.. => format!("{}M", number(1_000_000, 2)),
        1_000.. => format!("{}K", number(1_000, 0)),
        _ => count.to_string(),
    }
}

/// The name of a file type. Ollama shows F32, whose number is 0, as unknown.
pub(crate) fn file_type_name(number: Option<u32>) -> &'static str {
    let number = number.filter(|&number| number > 0);
    let name = number.and_then(|number| FILE_TYPES.get(number as usize)).filter(|name| !name.is_empty());
    name.unwrap_or(&UNKNOWN)
}

/// The name of an unknown file type.
pub(crate) const UNKNOWN: &str = "unknown";

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples are from Ollama's `format/format_test.go` and the official library.
    #[test]
    fn numbers_for_people() {
        for (count, expected) in [
            (0, "0"),
            (999, "999"),
            (1000, "1K"),
            (1500, "2K"),
            (2500, "2K"),
            (26_000, "26K"),
            (206_000_000, "206M"),
            (268_098_176, "268.10M"),
            (1_000_000_000, "1B"),
            (4_647_450_147, "4.6B"),
            (11_907_350_576, "11.9B"),
            (26_000_000_000, "26B"),
            (999_999, "1000K"),
        ] {
            assert_eq!(weights_for_people(count), expected);
        }
    }

    #[test]
    fn file_types_have_ollamas_names() {
        let names = [(2, "Q4_0"), (7, "Q8_0"), (15, "Q4_K_M"), (25, "IQ4_NL"), (30, "IQ4_XS"), (32, "BF16")];
        for (number, name) in names {
            assert_eq!(file_type_name(Some(number)), name);
        }
        for number in [None, Some(0), Some(4), Some(22), Some(33), Some(41), Some(1024)] {
            assert_eq!(file_type_name(number), "unknown", "{number:?}");
        }
        assert_eq!((file_type_name(Some(38)), file_type_name(Some(40))), ("MXFP4_MOE", "Q1_0"));
    }

    /// Every preset that this program writes has a name there.
    #[test]
    fn names_with_and_without_digits_are_in_order() {
        assert_eq!(FILE_TYPES.iter().position(|&name| name == "Q6_K"), Some(18));
        assert_eq!(FILE_TYPES.iter().position(|&name| name == "MXFP4_MOE"), Some(38));
    }
}
