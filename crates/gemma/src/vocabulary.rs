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
    /// `bos`, `eos`, … → id.
    pub special: BTreeMap<&'static str, u32>,
    /// `add_bos`, `add_sep`, `add_eos`, where the tokenizer's own files say.
    pub add: BTreeMap<&'static str, bool>,
}

/// The kinds of special token that have an id in a GGUF, in gguf-py's order.
const SPECIAL: [&str; 6] = ["bos", "eos", "unk", "sep", "pad", "mask"];

impl Vocabulary {
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
        let special = special_ids(tokenizer, settings, config)?;
        Ok(Vocabulary {
            types,
            special,
            add: add_flags(tokenizer, settings)?,
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
            .expected(format!("vocab_size {vocab} tokens"), count));
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

fn special_ids(
    tokenizer: &Tokenizer,
    settings: &Value,
    config: &Value,
) -> Result<BTreeMap<&'static str, u32>> {
    let added: HashMap<&str, u32> =
        tokenizer.added_tokens.iter().rev().map(|token| (token.content.as_str(), token.id)).collect();
    let mut ids = BTreeMap::new();
    for kind in SPECIAL {
        let named = settings.get(format!("{kind}_token")).and_then(text_of);
        let configured = || {
            let key = format!("{kind}_token_id");
            let root = config.get(&key).filter(|id| !id.is_null());
            root.or_else(|| config.get("text_config")?.get(&key))?.as_u64()
        };
        let id = named.and_then(|text| added.get(text).copied()).map(u64::from).or_else(configured);
        if let Some(id) = id {
            let id = u32::try_from(id).map_err(|_| {
                Error::malformed(format!("config.json: {kind}_token_id"), "no such token")
                    .expected("a token id", id)
            })?;
            ids.insert(kind, id);
        }
    }
    Ok(ids)
}

/// What the tokenizer puts around a text: from its `TemplateProcessing`, else from tokenizer_config.json.
fn add_flags(tokenizer: &Tokenizer, settings: &Value) -> Result<BTreeMap<&'static str, bool>> {
    let mut add = BTreeMap::new();
    let processor = &tokenizer.post_processor;
    let list = processor.get("processors").and_then(Value::as_array);
    let templates = list.map_or(std::slice::from_ref(processor), Vec::as_slice);
    for template in templates.iter().filter(|p| p["type"] == "TemplateProcessing") {
        let special =
            |entry: Option<&Value>| Some(entry?.get("SpecialToken")?.get("id")?.as_str()?.to_owned());
        let single = template["single"].as_array().map_or(&[][..], Vec::as_slice);
        if single.len() > 1 && special(single.last()).is_some() {
            return Err(Error::unsupported(
                "tokenizer.json: post_processor",
                "a tokenizer that ends every text with a special token",
            ));
        }
        let first = (single.len() > 1).then(|| special(single.first())).flatten();
        if first.is_some() {
            add.insert("bos", true);
        }
        let pair = template["pair"].as_array().map_or(&[][..], Vec::as_slice);
        let skip = usize::from(first.is_some() && special(pair.first()) == first);
        if let [a, middle @ .., b] = &pair[skip.min(pair.len())..]
            && a["Sequence"]["id"] == "A"
            && b["Sequence"]["id"] == "B"
            && !middle.is_empty()
        {
            let separators =
                [settings.get("sep_token"), settings.get("eos_token")].map(|t| t.and_then(text_of));
            let separates = |entry: &Value| separators.contains(&special(Some(entry)).as_deref());
            let considered = if middle.len() == 2 { middle } else { &middle[..1] };
            add.insert("sep", considered.iter().any(separates));
        }
    }
    for kind in ["bos", "eos", "sep"] {
        if let Some(flag) = settings.get(format!("add_{kind}_token")).and_then(Value::as_bool) {
            add.entry(kind).or_insert(flag);
        }
    }
    Ok(add)
}

fn merges(tokenizer: &Tokenizer) -> Vec<String> {
    let escape = |part: &str| part.replace(' ', "\u{120}");
    tokenizer.merges().map(|(left, right)| format!("{} {}", escape(left), escape(right))).collect()
}
