//! Special tokens: their texts, their names, and the tokens that a tokenizer adds to a text.
//!
//! Follows `SpecialVocab` of gguf-py and transformers' reading of tokenizer_config.json, except that a tokenizer that
//! ends texts with a special token other than eos is refused.

use std::collections::{BTreeMap, HashMap, HashSet};

use checkpoint::TokenizerFile;
use serde_json::Value;
use tensor::{Error, Result};

use crate::formats;

/// The kinds of special tokens that have an id in a GGUF, in gguf-py's order.
const SPECIAL: [&str; 6] = ["bos", "eos", "unk", "sep", "pad", "mask"];

/// The texts that transformers treats as special: every named `…_token`, and the extra ones.
pub(crate) fn texts(settings: &Value) -> HashSet<&str> {
    let defaults = formats::vocabulary().defaults.iter();
    let mut texts: HashSet<&str> =
        defaults.filter(|(key, _)| settings.get(key).is_none()).map(|(_, text)| text.as_str()).collect();
    let named = settings.as_object().into_iter().flatten().filter(|(key, _)| key.ends_with("_token"));
    texts.extend(named.filter_map(|(_, value)| text_of(value)));
    // as in transformers, which reads the older key (the second) only without the newer one
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

/// The text of a token in tokenizer_config.json: a string, or the `content` of an `AddedToken`.
fn text_of(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// Names and flags of special tokens, as `SpecialVocab` of gguf-py finds them.
pub(crate) struct Found<'a> {
    /// Kind (`bos`) → text: from `tokenizer_config.json`, else from the post-processor.
    pub(crate) named: BTreeMap<&'static str, &'a str>,
    /// Whether a kind is added to a text, in the order of discovery.
    pub(crate) add: Vec<(&'static str, bool)>,
}

/// Reads tokenizer_config.json and the post-processor's `TemplateProcessing`, which takes precedence over the flags.
pub(crate) fn find<'a>(tokenizer: &'a TokenizerFile, settings: &'a Value) -> Result<Found<'a>> {
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

/// Kinds of special tokens with their ids.
pub(crate) type Ids = Vec<(&'static str, u32)>;

/// The ids of special tokens, first those with a name, then those only in config.json, and notes about omitted ones.
/// An id outside the vocabulary is omitted, as llama.cpp ignores it (`src/llama-vocab.cpp`, "bad special token").
pub(crate) fn ids(
    tokenizer: &TokenizerFile,
    named: &BTreeMap<&'static str, &str>,
    config: &Value,
    vocab: u64,
) -> Result<(Ids, Vec<String>)> {
    let added: HashMap<&str, u32> =
        tokenizer.added_tokens.iter().rev().map(|token| (token.content.as_str(), token.id)).collect();
    let id_of = |kind| Some((kind, *added.get(named.get(kind)?)?));
    let mut ids: Vec<_> = SPECIAL.into_iter().filter_map(id_of).collect();
    let mut notes = Vec::new();
    for kind in SPECIAL {
        if ids.iter().any(|(k, _)| *k == kind) {
            continue;
        }
        let key = format!("{kind}_token_id");
        let root = config.get(&key).filter(|id| !id.is_null());
        let id = root.or_else(|| config.get("text_config")?.get(&key)).and_then(Value::as_u64);
        let known = id.and_then(|id| u32::try_from(id).ok()).filter(|id| u64::from(*id) < vocab);
        match (known, id, named.get(kind)) {
            (Some(id), ..) => ids.push((kind, id)),
            (None, Some(id), _) => notes.push(format!(
                "config.json: {key} is {id}, and there are {vocab} tokens: it is left out, as llama.cpp heeds no such id"
            )),
            (None, None, Some(text)) if !tokenizer.vocab().any(|(token, _)| token == *text) => notes.push(format!(
                "tokenizer_config.json: {kind}_token is {text:?}, which is no token of tokenizer.json: it is left out"
            )),
            _ => {}
        }
    }
    Ok((ids, notes))
}
