//! Properties without which Ollama does not load a file, or computes something else than the file says.
//!
//! The reader of `gguf` already refuses what Ollama refuses: other versions of GGUF, truncated files, more than four
//! dimensions, rows that are not whole blocks, types that Ollama does not know (TQ1_0, TQ2_0, Q2_0).
//!
//! Sources: ollama/ollama `fs/ggml/gguf.go`, `fs/gguf/gguf.go`, `server/create.go`, `llm/llama_server.go`.

use gemma::{Config, gguf_inventory, same_tokens, towers::Towers};
use gguf::{Array, Metadata, Value};
use tensor::{Error, Result, TensorSource};

use super::files::OllamaFile;

/// The remedy for a split.
pub(crate) const JOIN: &str = "A layer of Ollama is one file: convert without ‹split_max_size› and offload sets, or join the \
                               parts with `llama-gguf-split --merge FIRST-PART OUT.gguf`.";

/// The longest string in bytes, and the most items of an array, that Ollama reads.
const MAX_STRING: usize = 16 << 20;
const MAX_ARRAY: usize = 64 << 20;

/// Tensors that make Ollama take a text model for one of its own old files with towers or draft layers inside.
const FOREIGN: [&str; 5] = ["a.", "mm.", "mtp.", "s.", "v."];

/// Checks a text model and returns its config.
pub(crate) fn text(file: &OllamaFile) -> Result<Config> {
    let check = || {
        common(file.metadata())?;
        let tensors = file.gguf.tensors();
        if let Some(desc) = tensors.iter().find(|desc| FOREIGN.iter().any(|p| desc.name.starts_with(p))) {
            return Err(Error::unsupported(format!("tensor {}", desc.name), "not of a text model")
                .expected("towers in an mmproj file", "towers or draft layers in the text model")
                .help("Ollama reads such a file as one of its old format. Convert the checkpoint again."));
        }
        let key = "gemma4.nextn_predict_layers";
        if let Some(layers) = file.metadata().typed::<u32>(key)?.filter(|&layers| layers > 0) {
            return Err(Error::unsupported(
                format!("key {key}"),
                "Ollama takes the model for its own draft model",
            )
            .expected(0, layers));
        }
        let config = Config::from_metadata(file.metadata(), tensors)?;
        gguf_inventory(&config, tensors)?;
        Ok(config)
    };
    check().map_err(|e| e.within(file.path().display()))
}

/// The modalities of a projector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Senses {
    pub(crate) images: bool,
    pub(crate) sounds: bool,
}

/// Checks a projector for a text model.
pub(crate) fn projector(file: &OllamaFile, text: &Config) -> Result<Senses> {
    let check = || {
        let metadata = file.metadata();
        common(metadata)?;
        let has = |key| Ok(metadata.typed::<bool>(key)?.unwrap_or(false));
        let senses =
            Senses { images: has("clip.has_vision_encoder")?, sounds: has("clip.has_audio_encoder")? };
        let towers = Towers::from_metadata(metadata, file.gguf.tensors())?;
        // Ollama compares the length of sounds too, llama.cpp does not
        let audio = match senses.sounds {
            true => Some(metadata.required::<u32>("clip.audio.projection_dim")?),
            false => None,
        };
        let lengths = [("vision", Some(towers.hidden)), ("audio", audio.map(u64::from))];
        for (tower, length) in lengths {
            if let Some(length) = length.filter(|&length| length != text.hidden) {
                let place = format!("key clip.{tower}.projection_dim");
                return Err(Error::malformed(place, "not the projector of this text model")
                    .expected(format!("its embedding_length {}", text.hidden), length));
            }
        }
        towers.find_in_mmproj(file.gguf.tensors())?;
        Ok(senses)
    };
    check().map_err(|e| e.within(file.path().display()))
}

/// Checks a draft model for a text model.
pub(crate) fn draft(file: &OllamaFile, text: &OllamaFile, target: &Config) -> Result<()> {
    let check = || {
        common(file.metadata())?;
        let tensors = file.gguf.tensors();
        let config = Config::draft_from_metadata(file.metadata(), tensors)?;
        config.check_target(target)?;
        gguf_inventory(&config, tensors)?;
        let tokens = "tokenizer.ggml.tokens";
        same_tokens(file.metadata().required::<&[String]>(tokens)?, text.metadata().required(tokens)?)
    };
    check().map_err(|e| e.within(file.path().display()))
}

/// Checks for every kind of file.
fn common(metadata: &Metadata) -> Result<()> {
    // some writers have other types for these keys
    let count = metadata.get("split.count").and_then(|value| match *value {
        Value::U16(count) => Some(count.into()),
        Value::U32(count) => Some(count),
        _ => None,
    });
    if let Some(count) = count.filter(|&count| count > 1) {
        let problem = format!("a part of a split in {count} parts");
        return Err(Error::unsupported("key split.count", problem).help(JOIN));
    }
    for key in ["general.file_type", "general.alignment"] {
        metadata.typed::<u32>(key)?;
    }
    for (key, value) in metadata.iter() {
        let place = || format!("key {key}");
        if let Some(bytes) = longest(value).filter(|&bytes| bytes > MAX_STRING) {
            return Err(Error::limit(place(), "a longer string than Ollama reads")
                .expected(format!("at most {MAX_STRING} bytes"), bytes));
        }
        if let Value::Array(array) = value
            && array.len() > MAX_ARRAY
        {
            return Err(Error::limit(place(), "a longer array than Ollama reads")
                .expected(format!("at most {MAX_ARRAY} items"), array.len()));
        }
    }
    Ok(())
}

/// Bytes of the longest string of a value.
fn longest(value: &Value) -> Option<usize> {
    match value {
        Value::Str(text) => Some(text.len()),
        Value::Array(Array::Str(texts)) => texts.iter().map(String::len).max(),
        _ => None,
    }
}
