//! Search for added tokens in a text.
//!
//! The leftmost match wins, and of those the longest. As in transformers there are two rounds: raw tokens in the raw
//! text, then normalized tokens in the normalized text between them.

use aho_corasick::{AhoCorasick, MatchKind};
use tensor::{Error, Result};

use super::Added;

#[derive(Debug)]
pub(super) struct Finder {
    raw: Patterns,
    normalized: Patterns,
}

impl Finder {
    pub(super) fn new<'a>(tokens: impl Iterator<Item = &'a Added> + Clone) -> Result<Finder> {
        let text = |token: &'a Added| (normalize(&token.text), token.id);
        Ok(Finder {
            raw: Patterns::new(tokens.clone().filter(|t| !t.normalized).map(|t| (t.text.to_string(), t.id)))?,
            normalized: Patterns::new(tokens.filter(|t| t.normalized).map(text))?,
        })
    }

    /// Appends the ids of `text`; `gap` appends the ids of the normalized text between added tokens.
    pub(super) fn split(&self, text: &str, ids: &mut Vec<u32>, mut gap: impl FnMut(&str, &mut Vec<u32>)) {
        self.raw.split(text, ids, |text, ids| self.normalized.split(&normalize(text), ids, &mut gap));
    }
}

/// The normalizer of Gemma's tokenizer: a space becomes `▁`.
fn normalize(text: &str) -> String {
    text.replace(' ', "▁")
}

#[derive(Debug)]
struct Patterns {
    automaton: AhoCorasick,
    /// Token ids by pattern.
    ids: Vec<u32>,
}

impl Patterns {
    fn new(tokens: impl Iterator<Item = (String, u32)>) -> Result<Patterns> {
        let (texts, ids): (Vec<_>, Vec<_>) = tokens.filter(|(text, _)| !text.is_empty()).unzip();
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(texts)
            .map_err(|e| Error::limit("added tokens", e))?;
        Ok(Patterns { automaton, ids })
    }

    fn split(&self, text: &str, ids: &mut Vec<u32>, mut gap: impl FnMut(&str, &mut Vec<u32>)) {
        let mut done = 0;
        for found in self.automaton.find_iter(text) {
            gap(&text[done..found.start()], ids);
            ids.push(self.ids[found.pattern().as_usize()]);
            done = found.end();
        }
        gap(&text[done..], ids);
    }
}
