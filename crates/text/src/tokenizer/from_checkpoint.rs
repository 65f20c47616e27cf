//! A tokenizer from `tokenizer.json`, as transformers loads it.

use std::borrow::Cow;

use checkpoint::Checkpoint;
use serde_json::Value;
use tensor::{Error, Result};

use super::{Added, Parts, Tokenizer, markers};

impl Tokenizer {
    /// The tokenizer of a checkpoint. Its special ids are those of a GGUF made from the checkpoint.
    ///
    /// # Errors
    /// `Malformed` as in [`checkpoint::TokenizerFile::read`], and for a vocabulary without all byte tokens or merges
    /// of unknown tokens; `Unsupported` for a tokenizer other than Gemma's.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Tokenizer> {
        if let Some(keys) = checkpoint.keys() {
            return Tokenizer::from_metadata(keys).map_err(|e| e.within(checkpoint.dir().display()));
        }
        let place = checkpoint.dir().join("tokenizer.json");
        let file = checkpoint.tokenizer()?;
        let settings = checkpoint.tokenizer_config()?.unwrap_or_default();
        let within = |e: Error| e.within(place.display());
        file.check_make().map_err(within)?;

        let added = file.added_tokens.iter().map(|token| (token.content.as_str(), token.id));
        let mut tokens = Vec::new();
        let limit = file.vocab_len() + file.added_tokens.len();
        for (text, id) in file.vocab().chain(added) {
            let at = id as usize;
            if at >= limit {
                return Err(within(
                    Error::malformed(format!("token {text:?}"), "its id leaves a gap in the vocabulary")
                        .expected(format!("an id below {limit}"), id),
                ));
            }
            tokens.resize(tokens.len().max(at + 1), Box::default());
            tokens[at] = text.into();
        }
        // an id outside the vocabulary counts as absent, as in llama.cpp
        let is_token = |id: &u32| (*id as usize) < tokens.len();
        let special = |kind| special(&file, &settings, checkpoint.config(), kind).filter(is_token);
        let eos = special("eos");
        let ends = ending(&file.post_processor)
            .is_some_and(|text| eos.and_then(|id| tokens.get(id as usize)).is_some_and(|eos| **eos == *text));
        let (bos, pad) = (special("bos"), special("pad"));
        Tokenizer::new(Parts {
            tokens,
            merges: file.merges().map(|(left, right)| Ok((Cow::Borrowed(left), Cow::Borrowed(right)))),
            added: file.added_tokens.iter().map(|token| self::added(token, file.vocab_len())).collect(),
            newlines_apart: false,
            bos,
            eos,
            pad,
            ends: &markers::END_OF_GENERATION,
            add_eos: ends || settings["add_eos_token"] == true,
        })
        .map_err(within)
    }
}

/// An added token. In plain text llama.cpp recognises the tokens that a GGUF types USER_DEFINED: visible markers, and
/// tokens that a fine-tune has added after the vocabulary.
fn added(token: &checkpoint::AddedToken, vocab: usize) -> Added {
    let text = token.content.as_str();
    let user_defined = markers::VISIBLE.contains(&text) || (token.id as usize >= vocab && !token.special);
    Added {
        id: token.id,
        text: text.into(),
        normalized: token.normalized,
        plain: user_defined && markers::in_plain_text(text),
    }
}

/// The special token that the post-processor adds after a text.
fn ending(processor: &Value) -> Option<&str> {
    let list = processor["processors"].as_array().map_or(std::slice::from_ref(processor), Vec::as_slice);
    let template = list.iter().find(|processor| processor["type"] == "TemplateProcessing")?;
    template["single"].as_array()?.last()?["SpecialToken"]["id"].as_str()
}

/// The id of `bos`, `eos` or `pad`: of the text in tokenizer_config.json, else from config.json.
fn special(file: &checkpoint::TokenizerFile, settings: &Value, config: &Value, kind: &str) -> Option<u32> {
    let named = &settings[format!("{kind}_token")];
    let text = named.as_str().or_else(|| named["content"].as_str());
    let added = text.and_then(|text| file.added_tokens.iter().find(|token| token.content == text));
    let key = format!("{kind}_token_id");
    let configured =
        || [config, &config["text_config"]].into_iter().find_map(|c| c[&key].as_u64()?.try_into().ok());
    added.map(|token| token.id).or_else(configured)
}
