//! The tokenizer of a checkpoint as a GGUF stores it: tokens, types, merges, special ids.
//!
//! Follows `SpecialVocab` and `LlamaHfVocab` of gguf-py, as far as a byte-fallback BPE tokenizer without
//! trailing special tokens goes; anything else is refused. Values only: names and order of the keys are in
//! `formats/gemma4.keys.toml`, the tables in `formats/gemma4.vocabulary.toml`.

use std::collections::{BTreeMap, HashMap, HashSet};

use checkpoint::Tokenizer;
use serde_json::Value;
use tensor::{Error, Result};

use crate::formats;

/// A tokenizer, ready to be written. Ids are `u32`, as in the file.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// Token texts by id.
    pub tokens: Vec<String>,
    /// llama.cpp's token types by id.
    pub types: Vec<i32>,
    /// `left right`, best first; a space inside a part is written as `Ġ`.
    pub merges: Vec<String>,
    /// `bos`, `eos`, … and their ids, in the order of the file.
    pub special: Vec<(&'static str, u32)>,
    /// `bos`, `sep`, `eos`: whether it is put around a text, where the tokenizer's own files say; in the order of the file.
    pub add: Vec<(&'static str, bool)>,
}

/// The kinds of special token that have an id in a GGUF, in gguf-py's order.
const SPECIAL: [&str; 6] = ["bos", "eos", "unk", "sep", "pad", "mask"];

impl Vocabulary {
    /// The place of a fact of the key table (`bos_id`, `add_eos`, …) among those whose order the tokenizer decides.
    pub(crate) fn place(&self, fact: &str) -> Option<usize> {
        let id = fact.strip_suffix("_id").and_then(|kind| self.special.iter().position(|(k, _)| *k == kind));
        let flag = fact.strip_prefix("add_").map(|f| f.trim_end_matches("_early"));
        id.or_else(|| Some(self.special.len() + self.add.iter().position(|(k, _)| Some(*k) == flag)?))
    }

    /// Types the tokens of `tokenizer` with the help of `tokenizer_config.json` and `config.json`.
    ///
    /// # Errors
    /// `Malformed` when the number of tokens is not `vocab`, `Unsupported` for a tokenizer of another make.
    pub fn new(
        tokenizer: &Tokenizer,
        tokenizer_config: Option<&Value>,
        config: &Value,
        vocab: u64,
    ) -> Result<Self> {
        let tokens = tokens(tokenizer, vocab)?;
        let settings = tokenizer_config.unwrap_or(&Value::Null);
        let types = types(&tokens, tokenizer, settings);
        let Found { named, add } = find_special(tokenizer, settings)?;
        Ok(Vocabulary {
            types,
            special: special_ids(tokenizer, &named, config)?,
            add,
            merges: merges(tokenizer),
            tokens,
        })
    }
}

fn tokens(tokenizer: &Tokenizer, vocab: u64) -> Result<Vec<String>> {
    let mut by_id: Vec<Option<&str>> = vec![None; vocab as usize];
    let added = tokenizer.added_tokens.iter().map(|token| (token.content.as_str(), token.id));
    let mut count = 0u64;
    for (text, id) in tokenizer.vocab().chain(added) {
        match by_id.get_mut(id as usize) {
            Some(Some(other)) if *other == text => {}
            Some(Some(other)) => {
                return Err(Error::malformed(format!("tokenizer.json: token id {id}"), "two tokens have it")
                    .expected(format!("{other:?}"), format!("{text:?}")));
            }
            Some(slot) => {
                *slot = Some(text);
                count += 1;
            }
            None => {
                return Err(Error::malformed("tokenizer.json", "the tokenizer contradicts config.json")
                    .expected(format!("ids below vocab_size {vocab}"), format!("{text:?} with id {id}")));
            }
        }
    }
    if count != vocab {
        return Err(Error::malformed("tokenizer.json", "the tokenizer contradicts config.json")
            .expected(format!("vocab_size {vocab} tokens"), count)
            .help("If the embedding was padded after tokens were added, cut it to the tokenizer: llama.cpp cannot load it either."));
    }
    Ok(by_id.into_iter().flatten().map(str::to_owned).collect())
}

fn types(tokens: &[String], tokenizer: &Tokenizer, settings: &Value) -> Vec<i32> {
    let table = formats::vocabulary();
    let visible: HashSet<&str> = table.visible.iter().map(String::as_str).collect();
    let special = special_texts(settings);
    let base = tokenizer.vocab_len();
    let kind = |(id, text): (usize, &String)| {
        if visible.contains(text.as_str()) {
            table.types.user_defined
        } else if id < base && is_byte(text) {
            table.types.byte
        } else if special.contains(text.as_str()) {
            table.types.control
        } else if id < base {
            table.types.normal
        } else {
            table.types.user_defined // added by a fine-tune
        }
    };
    tokens.iter().enumerate().map(kind).collect()
}

/// `<0x00>` … `<0xFF>`.
fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|d| d.len() == 2 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The texts that transformers counts as special: every named `…_token`, and the extra ones.
fn special_texts(settings: &Value) -> HashSet<&str> {
    let defaults = formats::vocabulary().defaults.iter();
    let mut texts: HashSet<&str> =
        defaults.filter(|(key, _)| settings.get(key).is_none()).map(|(_, text)| text.as_str()).collect();
    let named = settings.as_object().into_iter().flatten().filter(|(key, _)| key.ends_with("_token"));
    texts.extend(named.filter_map(|(_, value)| text_of(value)));
    // as transformers, which takes the older of the first two names only without the newer
    let extra = ["extra_special_tokens", "additional_special_tokens"];
    let given = |key: &&str| match settings.get(key) {
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
        _ => false,
    };
    let extra = extra.into_iter().find(given);
    for key in extra.into_iter().chain(["model_specific_special_tokens"]) {
        match settings.get(key) {
            Some(Value::Array(list)) => texts.extend(list.iter().filter_map(text_of)),
            Some(Value::Object(map)) => texts.extend(map.values().filter_map(text_of)),
            _ => {}
        }
    }
    texts
}

/// A token in tokenizer_config.json: its text, or an `AddedToken` with a `content`.
fn text_of(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// The names of special tokens and the flags about them, as `SpecialVocab` of gguf-py finds them.
struct Found<'a> {
    /// `bos` → text: of `tokenizer_config.json`, or where that is silent of the post-processor.
    named: BTreeMap<&'static str, &'a str>,
    /// What is put around a text, in the order of finding.
    add: Vec<(&'static str, bool)>,
}

/// Reads tokenizer_config.json and the post-processor's `TemplateProcessing`, which goes before its flags.
fn find_special<'a>(tokenizer: &'a Tokenizer, settings: &'a Value) -> Result<Found<'a>> {
    let mut named = BTreeMap::new();
    for kind in SPECIAL.into_iter().chain(["cls"]) {
        if let Some(text) = settings.get(format!("{kind}_token")).and_then(text_of).filter(|t| !t.is_empty())
        {
            named.insert(kind, text);
        }
    }
    for (kind, other) in [("bos", "cls"), ("eos", "sep")] {
        if let Some(&text) = named.get(other) {
            named.entry(kind).or_insert(text);
        }
    }
    let mut add: Vec<(&'static str, bool)> = Vec::new();
    let processor = &tokenizer.post_processor;
    let list = processor.get("processors").and_then(Value::as_array);
    let templates = list.map_or(std::slice::from_ref(processor), Vec::as_slice);
    for template in templates.iter().filter(|p| p["type"] == "TemplateProcessing") {
        let special = |entry: Option<&'a Value>| entry?.get("SpecialToken")?.get("id")?.as_str();
        let single = template["single"].as_array().map_or(&[][..], Vec::as_slice);
        let at_end = |entry| special(entry).filter(|_| single.len() > 1);
        let (first, last) = (at_end(single.first()), at_end(single.last()));
        if let Some(first) = first {
            let known = named.get("cls") == Some(&first);
            let bos = *named.entry("bos").or_insert(first);
            set(&mut add, "bos", known || bos == first);
        }
        if let Some(last) = last {
            if named.get("eos") != Some(&last) {
                return Err(Error::unsupported(
                    "tokenizer.json: post_processor",
                    "a tokenizer that ends every text with a special token other than eos_token",
                )
                .expected(named.get("eos").unwrap_or(&"an eos_token"), last));
            }
            set(&mut add, "eos", true);
        }
        let mut pair = template["pair"].as_array().map_or(&[][..], Vec::as_slice);
        if first.is_some() && special(pair.first()) == first {
            pair = &pair[1..];
        }
        if last.is_some() && special(pair.last()) == last {
            pair = &pair[..pair.len() - 1];
        }
        if let [a, middle @ .., b] = pair
            && a["Sequence"]["id"] == "A"
            && b["Sequence"]["id"] == "B"
            && !middle.is_empty()
        {
            let separators = [named.get("sep").copied(), named.get("eos").copied()];
            let separates =
                |entry: &'a Value| special(Some(entry)).is_some_and(|s| separators.contains(&Some(s)));
            let sep = last.is_none() && separates(&middle[0]) || middle.len() == 2 && separates(&middle[1]);
            set(&mut add, "sep", sep);
            if let Some(&eos) = named.get("eos").filter(|_| sep) {
                named.entry("sep").or_insert(eos);
            }
        }
    }
    for kind in ["bos", "eos", "sep"] {
        let flag = settings.get(format!("add_{kind}_token")).and_then(Value::as_bool);
        if let Some(flag) = flag.filter(|_| add.iter().all(|(k, _)| *k != kind)) {
            add.push((kind, flag));
        }
    }
    Ok(Found { named, add })
}

fn set(list: &mut Vec<(&'static str, bool)>, kind: &'static str, flag: bool) {
    match list.iter_mut().find(|(k, _)| *k == kind) {
        Some((_, old)) => *old = flag,
        None => list.push((kind, flag)),
    }
}

/// The ids of special tokens: those that have a name, then those that only config.json knows.
fn special_ids(
    tokenizer: &Tokenizer,
    named: &BTreeMap<&'static str, &str>,
    config: &Value,
) -> Result<Vec<(&'static str, u32)>> {
    let added: HashMap<&str, u32> =
        tokenizer.added_tokens.iter().rev().map(|token| (token.content.as_str(), token.id)).collect();
    let id_of = |kind| Some((kind, *added.get(named.get(kind)?)?));
    let mut ids: Vec<_> = SPECIAL.into_iter().filter_map(id_of).collect();
    for kind in SPECIAL {
        let key = format!("{kind}_token_id");
        let root = config.get(&key).filter(|id| !id.is_null());
        let id = root.or_else(|| config.get("text_config")?.get(&key)).and_then(Value::as_u64);
        if let Some(id) = id.filter(|_| ids.iter().all(|(k, _)| *k != kind)) {
            let id = u32::try_from(id).map_err(|_| {
                Error::malformed(format!("config.json: {key}"), "no such token").expected("a token id", id)
            })?;
            ids.push((kind, id));
        }
    }
    Ok(ids)
}

fn merges(tokenizer: &Tokenizer) -> Vec<String> {
    let escape = |part: &str| part.replace(' ', "\u{120}");
    tokenizer.merges().map(|(left, right)| format!("{} {}", escape(left), escape(right))).collect()
}
