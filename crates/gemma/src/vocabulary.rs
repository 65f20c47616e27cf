//! The tokenizer of a checkpoint in a GGUF's form: tokens, types, merges, special ids.
//!
//! Follows `LlamaHfVocab` of gguf-py for a byte-fallback BPE tokenizer; others are refused. This module has the
//! values only: names and order of the keys are in `formats/gemma4.keys.toml`, the tables in
//! `formats/gemma4.vocabulary.toml`.

use checkpoint::TokenizerFile;
use serde_json::Value;
use tensor::{Error, Result};

use crate::formats;
use crate::special_tokens::{self, Found};

/// A tokenizer, ready to be written. Ids are `u32`, as in the file.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// Token texts by id.
    pub tokens: Vec<String>,
    /// llama.cpp's token types by id.
    pub types: Vec<i32>,
    /// Merges as `left right`, best first; a space inside a part is written as `Ġ`.
    pub merges: Vec<String>,
    /// Kinds (`bos`, `eos`, …) and their ids, in file order.
    pub special: Vec<(&'static str, u32)>,
    /// Whether `bos`, `sep` and `eos` are added to a text, if the tokenizer's own files state it; in file order.
    pub add: Vec<(&'static str, bool)>,
    /// Tokens that tokenizer.json marks as special but whose type is normal text.
    pub special_as_text: Vec<String>,
    /// Notes for the user about special tokens that do not exist.
    pub notes: Vec<String>,
}

impl Vocabulary {
    /// The position of a row of the key table (`bos_id`, `add_eos`, …) among the rows in the tokenizer's order.
    pub(crate) fn place(&self, fact: &str) -> Option<usize> {
        let id = fact.strip_suffix("_id").and_then(|kind| self.special.iter().position(|(k, _)| *k == kind));
        let flag = fact.strip_prefix("add_").map(|f| f.trim_end_matches("_early"));
        id.or_else(|| Some(self.special.len() + self.add.iter().position(|(k, _)| Some(*k) == flag)?))
    }

    /// Builds the vocabulary of `tokenizer`; `tokenizer_config.json` and `config.json` decide about special tokens.
    ///
    /// # Errors
    /// `Malformed` if the number of tokens is not `vocab`, `Unsupported` for another kind of tokenizer.
    pub fn new(
        tokenizer: &TokenizerFile,
        tokenizer_config: Option<&Value>,
        config: &Value,
        vocab: u64,
    ) -> Result<Self> {
        let tokens = tokens(tokenizer, vocab)?;
        tokenizer.check_make().map_err(|e| e.within("tokenizer.json"))?;
        let settings = tokenizer_config.unwrap_or(&Value::Null);
        let types = types(&tokens, tokenizer, settings);
        let Found { named, add } = special_tokens::find(tokenizer, settings)?;
        let (special, mut notes) = special_tokens::ids(tokenizer, &named, config, vocab)?;
        if add.contains(&("eos", true)) {
            notes.push(
                "the tokenizer ends every text with eos: llama-perplexity and llama-imatrix stop at a GGUF that says so"
                    .to_owned(),
            );
        }
        let as_text = |id: u32| types.get(id as usize) == Some(&formats::vocabulary().types.normal);
        let special_as_text =
            tokenizer.added_tokens.iter().filter(|token| token.special && as_text(token.id));
        let special_as_text = special_as_text.map(|token| token.content.clone()).collect();
        Ok(Vocabulary { types, special, add, special_as_text, notes, merges: merges(tokenizer), tokens })
    }
}

fn tokens(tokenizer: &TokenizerFile, vocab: u64) -> Result<Vec<String>> {
    let mut by_id: Vec<Option<&str>> = vec![None; vocab as usize];
    let added = tokenizer.added_tokens.iter().map(|token| (token.content.as_str(), token.id));
    let mut count = 0u64;
    for (text, id) in tokenizer.vocab().chain(added) {
        match by_id.get_mut(id as usize) {
            Some(Some(other)) if *other == text => {}
            Some(Some(other)) => {
                return Err(Error::malformed(
                    format!("tokenizer.json: token id {id}"),
                    "two tokens have this id",
                )
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
    if let Some(hole) = by_id.iter().position(Option::is_none) {
        return Err(Error::malformed("tokenizer.json", "the tokenizer contradicts config.json")
            .expected(format!("vocab_size {vocab} tokens"), format!("{count}: none has the id {hole}"))
            .help("Only rows at the end of the tables may lack a token: use the tokenizer that the model was trained with."));
    }
    Ok(by_id.into_iter().flatten().map(str::to_owned).collect())
}

fn types(tokens: &[String], tokenizer: &TokenizerFile, settings: &Value) -> Vec<i32> {
    let table = formats::vocabulary();
    let special = special_tokens::texts(settings);
    let base = tokenizer.vocab_len();
    let kind = |(id, text): (usize, &String)| {
        if let Some(kind) = type_by_text(text, id < base) {
            kind
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

/// The type of a token that its text decides: the visible ones of `formats/gemma4.vocabulary.toml`, and bytes, unless they are added.
pub(crate) fn type_by_text(text: &str, is_base: bool) -> Option<i32> {
    let table = formats::vocabulary();
    if table.visible.iter().any(|visible| visible == text) {
        return Some(table.types.user_defined);
    }
    (is_base && is_byte(text)).then_some(table.types.byte)
}

/// Whether the token is a byte: `<0x00>` … `<0xFF>`.
fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|d| d.len() == 2 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn merges(tokenizer: &TokenizerFile) -> Vec<String> {
    let escape = |part: &str| part.replace(' ', "\u{120}");
    tokenizer.merges().map(|(left, right)| format!("{} {}", escape(left), escape(right))).collect()
}
