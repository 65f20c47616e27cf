//! Checks that a tokenizer has the structure of Gemma's, and can encode every text.
//!
//! The same check serves tokenization and conversion: llama.cpp hard-codes this structure and ignores settings that
//! contradict it.

use rayon::prelude::*;
use serde_json::{Value, json};
use tensor::{Error, Result};

use super::{Texts, TokenizerFile};

impl TokenizerFile {
    /// Checks that the settings of the file are the behaviour of programs with a Gemma 4 tokenizer, and that its merges
    /// are consistent.
    ///
    /// # Errors
    /// `Unsupported` for a normalizer, a pre-tokenizer, an unknown-token rule or match conditions of tokens other than
    /// Gemma's; `Malformed` for a vocabulary without a token for each byte, and for a merge that is duplicated or whose
    /// parts or result are not tokens. The place does not name the file.
    pub fn check_make(&self) -> Result<()> {
        let space = json!({"String": " "});
        let normalizer = json!({"type": "Replace", "pattern": space, "content": "▁"});
        let refuse = |key: &str, expected: &str, found: &Value| {
            Err(Error::unsupported(key, "a setting that differs from Gemma's tokenizer")
                .expected(expected, found))
        };
        if !self.byte_fallback {
            return refuse("model.byte_fallback", "true", &false.into());
        }
        if let Some((name, value)) = self.foreign.first() {
            return refuse(&format!("model.{name}"), "none", &value.as_str().into());
        }
        if self.normalizer != normalizer {
            return refuse("normalizer", &normalizer.to_string(), &self.normalizer);
        }
        // after the normalizer no space is left to split at, so this pre-tokenizer has no effect
        let split = &self.pre_tokenizer;
        let at_spaces = split["type"] == "Split" && split["pattern"] == space;
        if !(split.is_null() || at_spaces && split["invert"] != true) {
            return refuse("pre_tokenizer", "none, or a Split at spaces", split);
        }
        if let Some(token) =
            self.added_tokens.iter().find(|token| token.single_word || token.lstrip || token.rstrip)
        {
            return Err(Error::unsupported(
                format!("added_tokens: token {:?}", token.content),
                "a token that matches only in some contexts",
            )
            .expected("single_word, lstrip and rstrip false", "one that is true"));
        }
        self.check_post_processor()?;
        self.check_merges()
    }

    /// Checks that the post-processor's special tokens have the ids of these tokens.
    fn check_post_processor(&self) -> Result<()> {
        let Some(tokens) = self.post_processor["special_tokens"].as_object() else { return Ok(()) };
        for (text, entry) in tokens {
            let id = self.added_tokens.iter().find(|token| token.content == *text).map(|token| token.id);
            let id = id.or_else(|| self.vocab().find(|(token, _)| token == text).map(|(_, id)| id));
            if let Some(id) = id.filter(|id| entry["ids"].is_array() && entry["ids"] != json!([id])) {
                return Err(Error::malformed(
                    format!("post_processor.special_tokens.{text}.ids"),
                    "not the id of this token",
                )
                .expected(id, &entry["ids"]));
            }
        }
        Ok(())
    }

    fn check_merges(&self) -> Result<()> {
        let added = self.added_tokens.iter().map(|token| (token.content.as_str(), token.id));
        let tokens: Texts<'_> = self.vocab().chain(added).collect();
        if let Some(byte) =
            (0..=255u8).map(|byte| format!("<0x{byte:02X}>")).find(|text| !tokens.contains_key(&**text))
        {
            return Err(Error::malformed("vocabulary", "lacks a byte token")
                .expected(format!("a token {byte}"), "none"));
        }
        if self.merges().len() == 0 {
            return Err(Error::malformed("model.merges", "there are none")
                .expected("the merges of a BPE tokenizer", "an empty list"));
        }
        // ids are compared and sorted: a map of half a million pairs of texts takes longer than the rest of the file
        let ids_of = |product: &mut String, rank: usize| {
            let (left, right) = self.merge(rank);
            product.clear();
            product.extend([left, right]);
            let id = |text: &str| {
                tokens.get(text).copied().ok_or_else(|| {
                    let place = format!("merge {rank}: {left:?} with {right:?}");
                    Error::malformed(place, "needs a token that the vocabulary lacks")
                        .expected(format!("token {text:?}"), "none")
                })
            };
            let pair = (id(left)?, id(right)?);
            id(product).map(|_| (pair, rank))
        };
        let ranks = 0..self.merges().len();
        let pairs: Result<Vec<_>> = ranks
            .clone()
            .into_par_iter()
            .map_init(String::new, |product, rank| ids_of(product, rank))
            .collect();
        // threads end at any error: the first one is reported
        let mut pairs =
            pairs.or_else(|_| ranks.map(|rank| ids_of(&mut String::new(), rank)).collect::<Result<_>>())?;
        pairs.par_sort_unstable();
        let twice = pairs.windows(2).filter(|pair| pair[0].0 == pair[1].0).min_by_key(|pair| pair[1].1);
        if let Some([(_, first), (_, rank)]) = twice {
            return Err(Error::malformed(format!("merge {rank}"), "is listed twice")
                .expected("each merge once", format!("the same as merge {first}")));
        }
        Ok(())
    }
}
