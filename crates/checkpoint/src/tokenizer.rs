//! `tokenizer.json`: the vocabulary, merges and added tokens of a BPE tokenizer. This module does not tokenize.
//!
//! Format: <https://github.com/huggingface/tokenizers>, `tokenizers/src/tokenizer/serialization.rs` and
//! `models/bpe/serialization.rs`. Gemma's tokenizer has 262,144 tokens and 514,906 merges, so all token texts are
//! stored in one string and all merges in another, instead of a million small strings.

mod document;
mod make;

use std::collections::HashMap;
use std::path::Path;

use foldhash::fast::RandomState;
use serde::Deserialize;
use serde_json::Value;
use tensor::{Error, Result};

use crate::files;
use document::{Document, Probe, ProbeModel, Strings, Vocab};

/// Ids by the texts of tokens.
type Texts<'a> = HashMap<&'a str, u32, RandomState>;

/// The contents of a BPE tokenizer file.
#[derive(Debug)]
pub struct TokenizerFile {
    tokens: Strings,
    ids: Vec<u32>,
    /// Positions in `ids`, sorted by id.
    by_id: Vec<u32>,
    /// Alternating left and right parts.
    merges: Strings,
    /// Tokens that are found in the text before BPE runs. Their ids need not be in the vocabulary.
    pub added_tokens: Vec<AddedToken>,
    /// True if an unknown character is encoded as its bytes, `<0x00>` to `<0xFF>`.
    pub byte_fallback: bool,
    /// Text of the unknown token.
    pub unk_token: Option<String>,
    /// Names and values of BPE settings that Gemma's tokenizers do not have.
    pub foreign: Vec<(&'static str, String)>,
    /// `normalizer` as JSON; null if absent.
    pub normalizer: Value,
    /// `pre_tokenizer` as JSON; null if absent.
    pub pre_tokenizer: Value,
    /// `post_processor` as JSON; null if absent.
    pub post_processor: Value,
    /// `decoder` as JSON; null if absent.
    pub decoder: Value,
}

/// An entry of `added_tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AddedToken {
    /// Token id.
    pub id: u32,
    /// Text of the token.
    pub content: String,
    /// A control token, which the text of a user cannot produce.
    #[serde(default)]
    pub special: bool,
    /// Searched in the normalized text instead of the raw one.
    #[serde(default)]
    pub normalized: bool,
    /// Matches only whole words.
    #[serde(default)]
    pub single_word: bool,
    /// Includes the white space before it.
    #[serde(default)]
    pub lstrip: bool,
    /// Includes the white space after it.
    #[serde(default)]
    pub rstrip: bool,
}

impl TokenizerFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// `Malformed` if the file is missing, is not JSON (with line and column) or contains an id or a text twice;
    /// `Unsupported` for any model but BPE.
    pub fn read(path: &Path) -> Result<TokenizerFile> {
        let place = path.display();
        let text = files::text_of(path, files::MAX_TOKENIZER)?.ok_or_else(|| {
            Error::malformed(&place, "no such file").help(
                "fetch tokenizer.json as well; for a model with only tokenizer.model, \
                 AutoTokenizer's save_pretrained writes it",
            )
        })?;
        files::begins_as_json(path, &text)?;
        TokenizerFile::parse(&text).map_err(|e| match e {
            Problem::Json(e) => files::json_error(place, &e),
            Problem::Content(e) => e.within(place),
        })
    }

    fn parse(text: &str) -> Result<TokenizerFile, Problem> {
        let file: Document = match serde_json::from_str(text) {
            Ok(file) => file,
            // Other models have other fields, so check the type before complaining about those.
            Err(error) => match serde_json::from_str(text) {
                Ok(Probe { model: ProbeModel { kind } }) if kind != "BPE" => {
                    return Err(not_bpe(&kind).into());
                }
                _ => return Err(Problem::Json(error)),
            },
        };
        if file.model.kind != "BPE" {
            return Err(not_bpe(&file.model.kind).into());
        }
        let foreign = file.model.foreign();
        let Vocab { tokens, ids } = file.model.vocab;
        let mut by_id: Vec<u32> = (0..ids.len() as u32).collect();
        by_id.sort_unstable_by_key(|&i| ids[i as usize]);
        let tokenizer = TokenizerFile {
            tokens,
            ids,
            by_id,
            merges: file.model.merges.0,
            added_tokens: file.added_tokens,
            byte_fallback: file.model.byte_fallback,
            unk_token: file.model.unk_token,
            foreign,
            normalizer: file.normalizer,
            pre_tokenizer: file.pre_tokenizer,
            post_processor: file.post_processor,
            decoder: file.decoder,
        };
        tokenizer.check()?;
        Ok(tokenizer)
    }

    /// Checks that ids and texts map one to one, added tokens included.
    fn check(&self) -> Result<()> {
        let twice = |id: u32, a: &str, b: &str| {
            Error::malformed(format!("id {id}"), "stands for two tokens")
                .expected("one token", format!("{a:?} and {b:?}"))
        };
        for pair in self.by_id.windows(2) {
            let [a, b] = [pair[0] as usize, pair[1] as usize];
            if self.ids[a] == self.ids[b] {
                return Err(twice(self.ids[a], self.tokens.get(a), self.tokens.get(b)).within("model.vocab"));
            }
        }
        let mut known = Texts::with_capacity_and_hasher(self.ids.len(), RandomState::default());
        for (token, id) in self.vocab() {
            if let Some(first) = known.insert(token, id) {
                return Err(Error::malformed(format!("model.vocab: token {token:?}"), "has two ids")
                    .expected("one id", format!("{first} and {id}")));
            }
        }
        let mut added = HashMap::new();
        for AddedToken { id, content, .. } in &self.added_tokens {
            let same = self.token(*id).or_else(|| added.insert(*id, content.as_str()));
            if let Some(other) = same.filter(|other| other != content) {
                return Err(twice(*id, other, content).within("added_tokens"));
            }
            if let Some(first) = known.insert(content, *id).filter(|first| first != id) {
                return Err(Error::malformed(format!("added_tokens: token {content:?}"), "has two ids")
                    .expected("one id", format!("{first} and {id}")));
            }
        }
        Ok(())
    }

    /// Number of tokens in the vocabulary. Added tokens outside of the vocabulary do not count.
    pub fn vocab_len(&self) -> usize {
        self.ids.len()
    }

    /// Texts and ids of the vocabulary, in file order.
    pub fn vocab(&self) -> impl ExactSizeIterator<Item = (&str, u32)> {
        self.ids.iter().enumerate().map(|(i, &id)| (self.tokens.get(i), id))
    }

    /// Texts and ids of the vocabulary, by ascending id.
    pub fn vocab_by_id(&self) -> impl ExactSizeIterator<Item = (&str, u32)> {
        self.by_id.iter().map(|&i| (self.tokens.get(i as usize), self.ids[i as usize]))
    }

    /// Text of an id of the vocabulary. `None` for an added token outside of the vocabulary.
    pub fn token(&self, id: u32) -> Option<&str> {
        let at = self.by_id.binary_search_by_key(&id, |&i| self.ids[i as usize]).ok()?;
        Some(self.tokens.get(self.by_id[at] as usize))
    }

    /// The merges by descending priority, as left and right part.
    pub fn merges(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        (0..self.merges.len() / 2).map(|rank| self.merge(rank))
    }

    fn merge(&self, rank: usize) -> (&str, &str) {
        (self.merges.get(2 * rank), self.merges.get(2 * rank + 1))
    }
}

enum Problem {
    Json(serde_json::Error),
    Content(Error),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        Problem::Content(error)
    }
}

fn not_bpe(found: &str) -> Error {
    Error::unsupported("model.type", "a tokenizer model that is not handled").expected("BPE", found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::Fault;

    fn parse(model: &str, added: &str) -> Result<TokenizerFile> {
        let text = format!("{{\"added_tokens\":[{added}],\n\"model\":{{{model}}}}}");
        TokenizerFile::parse(&text).map_err(|e| match e {
            Problem::Json(e) => files::json_error("t", &e),
            Problem::Content(e) => e.within("t"),
        })
    }

    #[test]
    fn both_forms_of_merges() {
        for merges in [r#"["a", "b"], ["a\"", " "]"#, r#""a b", ["a\"", " "]"#] {
            let t = parse(
                &format!(r#""type":"BPE","byte_fallback":true,"vocab":{{"b":7,"a":0,"\u00e9":3}},"merges":[{merges}]"#),
                r#"{"id":9,"content":"<x>","special":true},{"id":7,"content":"b"}"#,
            )
            .unwrap();
            assert!(t.merges().eq([("a", "b"), ("a\"", " ")]));
            assert!(t.vocab().eq([("b", 7), ("a", 0), ("é", 3)]));
            assert!(t.vocab_by_id().eq([("a", 0), ("é", 3), ("b", 7)]));
            assert_eq!([t.token(7), t.token(9), t.token(1)], [Some("b"), None, None]);
            assert!(t.byte_fallback && t.added_tokens[0].special && !t.added_tokens[1].special);
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let bpe = |vocab: &str, added: &str| {
            parse(&format!(r#""type":"BPE","vocab":{{{vocab}}},"merges":[]"#), added).unwrap_err().to_string()
        };
        assert_eq!(
            bpe(r#""a":1,"b":1"#, ""),
            r#"t: model.vocab: id 1: stands for two tokens (expected one token, found "a" and "b")"#
        );
        assert!(bpe(r#""a":1,"a":2"#, "").contains(r#"model.vocab: token "a": has two ids"#));
        assert!(bpe(r#""a":1"#, r#"{"id":1,"content":"b"}"#).contains("added_tokens: id 1"));
        assert!(bpe(r#""a":1"#, r#"{"id":2,"content":"a"}"#).contains(r#"added_tokens: token "a""#));
        let twice = r#"{"id":2,"content":"x"},{"id":2,"content":"y"}"#;
        assert!(bpe(r#""a":1"#, twice).contains("added_tokens: id 2"));
    }

    #[test]
    fn what_is_not_a_bpe_tokenizer() {
        let unigram = parse(r#""type":"Unigram","vocab":[["a",-1.5]]"#, "").unwrap_err();
        assert_eq!((unigram.fault(), unigram.place()), (Fault::Unsupported, "t: model.type"));
        let word = parse(r#""type":"WordPiece","vocab":{},"merges":[]"#, "").unwrap_err();
        assert_eq!(word.expected_found(), Some(("BPE", "WordPiece")));

        for (model, column) in [
            (r#""type":"BPE","vocab":{"a":-1},"merges":[]"#, "t:2:"),
            (r#""type":"BPE","vocab":{},"merges":["a b c"]"#, "t:2:"),
            (r#""type":"BPE","vocab":{},"merges":["ab"]"#, "t:2:"),
            (r#""type":"BPE","vocab":{},"merges":[["a"]]"#, "t:2:"),
            (r#""type":"BPE","vocab":{},"merges":[["a","b","c"]]"#, "t:2:"),
            (r#""type":"BPE","vocab":{}"#, "t:2:"),
            (r#""vocab":{},"merges":[]"#, "t:2:"),
        ] {
            let error = parse(model, "").unwrap_err();
            assert_eq!(error.fault(), Fault::Malformed, "{model}");
            assert!(error.place().starts_with(column), "{error}");
        }
    }
}
