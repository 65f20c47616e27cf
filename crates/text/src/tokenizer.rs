//! The tokenizer of Gemma 4: byte-fallback BPE over whole texts, without a split into words.
//!
//! A text is split at added tokens that it contains literally (`<|turn>` …); in the gaps, spaces become `▁` and each
//! gap is merged as one piece. A character without a token becomes its bytes, `<0x00>` to `<0xFF>`.
//!
//! Where transformers and llama.cpp differ, [`Tokenizer::encode`] documents the choice. One difference affects no
//! Gemma model: if a vocabulary had tokens that mix newlines with other characters, transformers would merge across
//! newlines and llama.cpp would not. For these, a checkpoint is read like transformers and a GGUF like llama.cpp.
//!
//! Sources: huggingface/tokenizers 0.23 `added_vocabulary.rs` and `models/bpe`; llama.cpp `src/llama-vocab.cpp`
//! (`tokenizer_st_partition`, `llm_tokenizer_bpe_session`, the list of end-of-generation texts).

mod bpe;
mod decoder;
mod finder;
mod from_checkpoint;
mod from_metadata;
mod markers;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use tensor::{Error, Result};

use bpe::Bpe;
pub use decoder::Decoder;
use finder::Finder;

/// Converts text to token ids and back. Ids are the rows of the embedding table.
#[derive(Debug)]
pub struct Tokenizer {
    /// Token texts by id; empty for an unused id.
    tokens: Vec<Box<str>>,
    bpe: Bpe,
    /// Finders of added tokens, without and with `parse_special`.
    finders: [Finder; 2],
    newlines: Newlines,
    bos: u32,
    eos: Option<u32>,
    pad: Option<u32>,
    add_eos: bool,
    end_of_generation: BTreeSet<u32>,
}

/// Treatment of newlines between added tokens.
#[derive(Debug)]
enum Newlines {
    /// Merged like any character, as in transformers.
    Merged,
    /// Runs of newlines are merged separately, and a run that is a token becomes that token, as in llama.cpp. Maps
    /// the length of a run to its token.
    Apart(HashMap<usize, u32>),
}

/// The parts of a tokenizer from either source, not yet checked.
struct Parts<M> {
    tokens: Vec<Box<str>>,
    /// Left and right parts, best merge first.
    merges: M,
    added: Vec<Added>,
    newlines_apart: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    add_eos: bool,
    /// The texts of end-of-generation tokens.
    ends: &'static [&'static str],
}

/// An added token: it is recognised where a text contains it literally.
struct Added {
    id: u32,
    text: Box<str>,
    /// Matched after spaces have become `▁`, with its own spaces replaced too.
    normalized: bool,
    /// Matched in plain text too, not only with `parse_special`.
    plain: bool,
}

impl Tokenizer {
    fn new<'a>(
        parts: Parts<impl Iterator<Item = Result<(Cow<'a, str>, Cow<'a, str>)>>>,
    ) -> Result<Tokenizer> {
        let Parts { tokens, merges, added, newlines_apart, bos, eos, pad, add_eos, ends } = parts;
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in (0u32..).zip(&tokens).filter(|(_, token)| !token.is_empty()) {
            if let Some(first) = ids.insert(&**token, id) {
                return Err(Error::malformed(format!("token {token:?}"), "has two ids")
                    .expected("one id", format!("{first} and {id}")));
            }
        }
        for (kind, id) in [("bos", bos), ("eos", eos), ("pad", pad)] {
            if let Some(id) = id.filter(|&id| id as usize >= tokens.len()) {
                return Err(Error::malformed(format!("{kind} token"), "is not in the vocabulary")
                    .expected(format!("an id below {}", tokens.len()), id));
            }
        }
        let bos = bos.ok_or_else(|| {
            Error::malformed("bos token", "the tokenizer has none").help("Gemma reads no text without one")
        })?;
        let end_texts = ends.iter().filter_map(|text| ids.get(text).copied());
        let end_of_generation = end_texts.chain(eos).collect();

        let newlines = if newlines_apart {
            let runs = ids.iter().filter(|(token, _)| token.bytes().all(|b| b == b'\n'));
            Newlines::Apart(runs.map(|(token, &id)| (token.len(), id)).collect())
        } else {
            Newlines::Merged
        };
        let bpe = Bpe::new(&ids, tokens.len(), merges)?;
        let plain = Finder::new(added.iter().filter(|token| token.plain))?;
        let all = Finder::new(added.iter())?;
        let finders = [plain, all];
        Ok(Tokenizer { bpe, finders, newlines, bos, eos, pad, add_eos, end_of_generation, tokens })
    }

    /// The ids of `text`. `add_special` adds BOS (even before a literal BOS), and EOS if the model wants one.
    /// `parse_special` is meant for prompts from a chat template, not for text from users and corpora; it selects the
    /// tokens that are recognised where the text contains them literally:
    /// - true, as in transformers: all added tokens of `tokenizer.json`. For a GGUF, as in llama.cpp: tokens of the
    ///   types control, user-defined and unknown, and end-of-generation tokens. A token of type `NORMAL` (llama.cpp's
    ///   converter assigns it if `tokenizer_config.json` does not name the token) is treated as plain text.
    /// - false, as in llama.cpp: only tokens that a chat parser must see, such as `<|channel>`, and no
    ///   end-of-generation tokens. transformers' nearest mode, `split_special_tokens`, treats those as plain text
    ///   too.
    ///
    /// # Errors
    /// `Limit` for a text of 4 GiB or more.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        if u32::try_from(text.len()).is_err() {
            return Err(Error::limit("text", "too long to be tokenized in one piece")
                .expected("less than 4 GiB", format!("{} bytes", text.len())));
        }
        let mut ids = Vec::with_capacity(text.len() / 4 + 2);
        ids.extend(add_special.then_some(self.bos));
        self.finders[usize::from(parse_special)].split(text, &mut ids, |gap, ids| self.merge(gap, ids));
        ids.extend(self.eos.filter(|_| add_special && self.add_eos));
        Ok(ids)
    }

    /// Merges a piece of normalized text without added tokens.
    fn merge(&self, text: &str, ids: &mut Vec<u32>) {
        let Newlines::Apart(runs) = &self.newlines else { return self.bpe.encode(text, ids) };
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let end = rest.find(|c| (c == '\n') != (first == '\n')).unwrap_or(rest.len());
            let (piece, tail) = rest.split_at(end);
            match runs.get(&end).filter(|_| first == '\n') {
                Some(&run) => ids.push(run),
                None => self.bpe.encode(piece, ids),
            }
            rest = tail;
        }
    }

    /// The text of ids: `▁` becomes a space, byte tokens are joined to characters or `U+FFFD` if invalid, control
    /// tokens are written literally. Ids outside the vocabulary are skipped.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut decoder = self.decoder();
        let mut text: String = ids.iter().map(|&id| decoder.push(id)).collect();
        text.push_str(&decoder.finish());
        text
    }

    /// Incremental [`decode`](Self::decode), id by id.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder::new(self)
    }

    /// The token that begins every text.
    pub fn bos(&self) -> u32 {
        self.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token that pads batches.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// The end-of-generation tokens: EOS, and by their text `<eos>`, `<turn|>` and `<|tool_response>`; for a GGUF,
    /// all texts that end a generation in llama.cpp.
    pub fn end_of_generation(&self) -> &BTreeSet<u32> {
        &self.end_of_generation
    }

    /// A token as it is written in the vocabulary (`▁the`, `<0x0A>`).
    pub fn token(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).map(|token| &**token).filter(|token| !token.is_empty())
    }

    /// The number of ids, including unused ones.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Always false: a tokenizer has at least its byte tokens.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}
