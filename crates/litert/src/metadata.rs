//! The section `LlmMetadataProto`: tokens, template and the kind of model, read for display. That of a
//! given bundle is never written anew: files have fields that the published schema lacks, so that the bytes are copied.
//!
//! Source: `runtime/proto/llm_metadata.proto` of google-ai-edge/LiteRT-LM as of litert-lm 0.18.1, and protobuf's encoding:
//! a field is a varint (number and wire type), then its value.

use tensor::{Error, Result};

/// Gemma 4 in the oneof of `llm_model_type`.
const GEMMA4: u64 = 8;

/// A token: ids, or text that the tokenizer encodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataToken {
    /// MetadataToken ids in order.
    Ids(Vec<u64>),
    /// Text.
    Text(String),
}

/// What the metadata says. Absent fields are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LlmMetadata {
    /// The token before a prompt.
    pub start: Option<MetadataToken>,
    /// Tokens that end an answer.
    pub stop: Vec<MetadataToken>,
    /// The largest number of tokens in the KV cache.
    pub max_tokens: Option<u64>,
    /// True for a model of the type Gemma 4.
    pub is_gemma4: bool,
    /// The chat template (Jinja).
    pub template: Option<String>,
    /// Names of channels, such as `thought`.
    pub channels: Vec<String>,
}

impl LlmMetadata {
    /// Reads the bytes of a section.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn read(bytes: &[u8]) -> Result<LlmMetadata> {
        let mut metadata = LlmMetadata::default();
        each(bytes, &mut |number, value| {
            match (number, value) {
                (1, Field::Bytes(token)) => metadata.start = read_token(token)?,
                (2, Field::Bytes(token)) => metadata.stop.extend(read_token(token)?),
                (5, Field::Number(most)) => metadata.max_tokens = Some(most),
                (6, Field::Bytes(kind)) => each(kind, &mut |number, _| {
                    metadata.is_gemma4 |= number == GEMMA4;
                    Ok(())
                })?,
                (7, Field::Bytes(template)) => metadata.template = Some(text(template)?),
                (8, Field::Bytes(channel)) => each(channel, &mut |number, value| {
                    if let (1, Field::Bytes(name)) = (number, value) {
                        metadata.channels.push(text(name)?);
                    }
                    Ok(())
                })?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(metadata)
    }
}

fn read_token(bytes: &[u8]) -> Result<Option<MetadataToken>> {
    let mut token = None;
    each(bytes, &mut |number, value| {
        match (number, value) {
            (1, Field::Bytes(list)) => {
                let mut ids = Vec::new();
                each(list, &mut |number, value| {
                    match (number, value) {
                        (1, Field::Number(id)) => ids.push(id),
                        (1, Field::Bytes(mut packed)) => {
                            while !packed.is_empty() {
                                ids.push(varint(&mut packed)?);
                            }
                        }
                        _ => {}
                    }
                    Ok(())
                })?;
                token = Some(MetadataToken::Ids(ids));
            }
            (2, Field::Bytes(string)) => token = Some(MetadataToken::Text(text(string)?)),
            _ => {}
        }
        Ok(())
    })?;
    Ok(token)
}

/// The value of a field. Numbers of fixed width are skipped.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Calls `take` with the number and the value of each field of a message.
fn each<'a>(mut bytes: &'a [u8], take: &mut dyn FnMut(u64, Field<'a>) -> Result<()>) -> Result<()> {
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        match key & 7 {
            0 => take(key >> 3, Field::Number(varint(&mut bytes)?))?,
            1 => _ = split(&mut bytes, 8)?,
            2 => {
                let len = varint(&mut bytes)?;
                take(key >> 3, Field::Bytes(split(&mut bytes, len)?))?;
            }
            5 => _ = split(&mut bytes, 4)?,
            _ => return Err(wrong("a field of an unknown wire type")),
        }
    }
    Ok(())
}

fn split<'a>(bytes: &mut &'a [u8], len: u64) -> Result<&'a [u8]> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let (first, rest) = bytes.split_at_checked(len).ok_or_else(|| wrong("a field exceeds the section"))?;
    *bytes = rest;
    Ok(first)
}

/// The next number of a protobuf.
pub(crate) fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or_else(|| wrong("a number exceeds the section"))?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(wrong("a number of more than 64 bits"))
}

fn text(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| wrong("text that is not valid UTF-8"))
}

fn wrong(problem: &str) -> Error {
    Error::malformed("metadata", problem)
}
