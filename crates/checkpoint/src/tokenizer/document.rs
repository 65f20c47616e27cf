//! `tokenizer.json` for serde: vocabulary and merges are read directly into [`Strings`].

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::AddedToken;

/// Only the model type, for a file that is not a valid [`Document`].
#[derive(Deserialize)]
pub(super) struct Probe {
    pub(super) model: ProbeModel,
}

#[derive(Deserialize)]
pub(super) struct ProbeModel {
    #[serde(rename = "type")]
    pub(super) kind: String,
}

#[derive(Deserialize)]
pub(super) struct Document {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    #[serde(default, deserialize_with = "small")]
    pub(super) normalizer: Value,
    #[serde(default, deserialize_with = "small")]
    pub(super) pre_tokenizer: Value,
    #[serde(default, deserialize_with = "small")]
    pub(super) post_processor: Value,
    #[serde(default, deserialize_with = "small")]
    pub(super) decoder: Value,
    pub(super) model: Model,
}

#[derive(Deserialize)]
pub(super) struct Model {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) byte_fallback: bool,
    pub(super) unk_token: Option<String>,
    #[serde(default)]
    pub(super) continuing_subword_prefix: Option<String>,
    #[serde(default)]
    pub(super) end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub(super) dropout: Option<f64>,
    #[serde(default)]
    pub(super) ignore_merges: bool,
    pub(super) vocab: Vocab,
    pub(super) merges: Merges,
}

impl Model {
    /// Names and values of BPE settings that Gemma's tokenizers do not have and that change the ids.
    pub(super) fn foreign(&self) -> Vec<(&'static str, String)> {
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let settings = [
            ("continuing_subword_prefix", text(&self.continuing_subword_prefix)),
            ("end_of_word_suffix", text(&self.end_of_word_suffix)),
            ("dropout", self.dropout.filter(|dropout| *dropout != 0.0).map(|dropout| dropout.to_string())),
            ("ignore_merges", self.ignore_merges.then(|| "true".to_owned())),
        ];
        settings.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// Maximum size in bytes of a part that is kept as JSON. Real ones have a few hundred.
const MAX_PART: usize = 1 << 20;

/// Reads a part that is kept as JSON, with a size limit: parsed JSON takes many times its size in memory.
fn small<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    let text = <&RawValue>::deserialize(deserializer)?.get();
    if text.len() > MAX_PART {
        return Err(D::Error::custom(format_args!("a part of the tokenizer has more than {MAX_PART} bytes")));
    }
    serde_json::from_str(text).map_err(D::Error::custom)
}

/// Many strings in one allocation.
#[derive(Debug, Default)]
pub(super) struct Strings {
    text: String,
    ends: Vec<u32>,
}

impl Strings {
    /// End offsets are 32 bits wide, so the limit is 4 GiB of text; `files` has already refused larger files.
    fn push(&mut self, string: &str) {
        self.text.push_str(string);
        self.ends.push(self.text.len() as u32);
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, index: usize) -> &str {
        let start = index.checked_sub(1).map_or(0, |i| self.ends[i]);
        &self.text[start as usize..self.ends[index] as usize]
    }
}

/// Appends a string to a [`Strings`].
impl<'de> DeserializeSeed<'de> for &mut Strings {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for &mut Strings {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, string: &str) -> Result<(), E> {
        self.push(string);
        Ok(())
    }
}

/// The vocabulary: `{"token": id, …}`.
#[derive(Default)]
pub(super) struct Vocab {
    pub(super) tokens: Strings,
    pub(super) ids: Vec<u32>,
}

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Vocab::default())
    }
}

impl<'de> Visitor<'de> for Vocab {
    type Value = Vocab;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vocabulary of token: id")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Vocab, A::Error> {
        while map.next_key_seed(&mut self.tokens)?.is_some() {
            self.ids.push(map.next_value()?);
        }
        Ok(self)
    }
}

/// A list of `["left", "right"]` or, before tokenizers 0.20, `"left right"`.
pub(super) struct Merges(pub(super) Strings);

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Merges(Strings::default()))
    }
}

impl<'de> Visitor<'de> for Merges {
    type Value = Merges;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of merges")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Merges, A::Error> {
        while list.next_element_seed(Merge(&mut self.0))?.is_some() {}
        Ok(self)
    }
}

struct Merge<'a>(&'a mut Strings);

impl<'de> DeserializeSeed<'de> for Merge<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Merge<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a merge, ["left", "right"] or "left right""#)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        let parts = text.split_once(' ').filter(|(_, right)| !right.contains(' '));
        let (left, right) = parts.ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))?;
        self.0.push(left);
        self.0.push(right);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<(), A::Error> {
        for found in 0..2 {
            if pair.next_element_seed(&mut *self.0)?.is_none() {
                return Err(A::Error::invalid_length(found, &self));
            }
        }
        match pair.next_element::<IgnoredAny>()? {
            None => Ok(()),
            Some(_) => Err(A::Error::invalid_length(3, &self)),
        }
    }
}
