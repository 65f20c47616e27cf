//! Manifests, configs and parameters have the bytes of Ollama's.

use pack::ollama::{OllamaConfig, OllamaLayer, OllamaManifest, OllamaParams};
use serde_json::Value;
use sha2::{Digest, Sha256};
use testkit::{json, read};

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// A layer of ours from one of a document.
fn layer(document: &Value) -> OllamaLayer {
    let kind = document["mediaType"].as_str().unwrap().rsplit('.').next().unwrap();
    let sha256 = document["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let from = document.get("from").map(text);
    OllamaLayer::new(kind, sha256, document["size"].as_u64().unwrap(), from)
}

fn manifest(document: &Value) -> Vec<u8> {
    let config = layer(&document["config"]);
    let sha256 = config.digest.strip_prefix("sha256:").unwrap();
    let layers = document["layers"].as_array().unwrap().iter().map(layer).collect();
    OllamaManifest::new(OllamaLayer::config(sha256, config.size), layers).document()
}

fn config(document: &Value) -> Vec<u8> {
    let [family, size, file_type, renderer, parser, requires] =
        ["model_family", "model_type", "file_type", "renderer", "parser", "requires"]
            .map(|field| text(&document[field]));
    let config = OllamaConfig {
        model_format: "gguf".to_owned(),
        model_families: vec![family.clone()],
        model_family: family,
        model_type: size,
        file_type,
        renderer,
        parser,
        requires,
        draft: None,
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
    };
    config.document()
}

#[test]
fn official_documents() {
    for (variant, id) in [("e2b", "7fbdbf8f5e45"), ("e4b", "c6eb396dbd59"), ("12b", "4eb23ef187e2")] {
        let name = |kind: &str| format!("ollama/gemma4_{variant}.{kind}.json");
        let golden = read(name("manifest"));
        assert_eq!(sha256(&golden)[..12], *id);
        let document = json(name("manifest"));
        let mut ours = manifest(&document);
        assert_eq!(ours.pop(), Some(b'\n'));
        assert_eq!(String::from_utf8(ours).unwrap(), String::from_utf8(golden).unwrap());

        let golden = read(name("config"));
        assert_eq!(format!("sha256:{}", sha256(&golden)), document["config"]["digest"]);
        let golden = String::from_utf8(golden).unwrap();
        let (before, _) = golden.split_once(",\"rootfs\"").unwrap();
        assert_eq!(String::from_utf8(config(&json(name("config")))).unwrap(), format!("{before}}}\n"));

        let params = OllamaParams::from_metadata(&gguf::Metadata::new()).unwrap().0.document();
        let layers = document["layers"].as_array().unwrap();
        assert_eq!(format!("sha256:{}", sha256(&params)), layers.last().unwrap()["digest"]);
    }
}

#[test]
fn documents_of_a_small_model() {
    let document = json("ollama/small/manifest.json");
    assert_eq!(manifest(&document), read("ollama/small/manifest.json"));
    let config = config(&json("ollama/small/config.json"));
    assert_eq!(config, read("ollama/small/config.json"));
    assert_eq!(format!("sha256:{}", sha256(&config)), document["config"]["digest"]);
    let layers = document["layers"].as_array().unwrap();
    for (layer, file) in layers[layers.len() - 2..].iter().zip(["license.txt", "params.json"]) {
        let bytes = read(format!("ollama/small/{file}"));
        assert_eq!(layer["digest"], format!("sha256:{}", sha256(&bytes)));
        assert_eq!(layer["size"], bytes.len());
    }
}
