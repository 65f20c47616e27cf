//! Incremental decoding of ids to text.

use std::str;

use super::Tokenizer;

/// Converts a stream of ids to text. A character may be split over several byte tokens, so [`push`](Self::push)
/// returns the complete characters and keeps the rest. Invalid bytes become `U+FFFD`, one per ill-formed sequence
/// (transformers writes one for every byte of a run that contains an invalid byte).
#[derive(Debug)]
pub struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    /// The bytes of an incomplete character.
    pending: Vec<u8>,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Decoder { tokenizer, pending: Vec::new() }
    }

    /// The text that `id` completes; empty within a character.
    pub fn push(&mut self, id: u32) -> String {
        let token = self.tokenizer.token(id).unwrap_or_default();
        match byte(token) {
            Some(byte) => {
                self.pending.push(byte);
                self.take(false)
            }
            None => self.take(true) + &token.replace('▁', " "),
        }
    }

    /// The text of an incomplete character at the end: `U+FFFD`, or empty.
    pub fn finish(&mut self) -> String {
        self.take(true)
    }

    fn take(&mut self, all: bool) -> String {
        let unfinished = match self.pending.utf8_chunks().last() {
            Some(last) if !all && is_prefix(last.invalid()) => last.invalid().len(),
            _ => 0,
        };
        let rest = self.pending.split_off(self.pending.len() - unfinished);
        String::from_utf8_lossy(&std::mem::replace(&mut self.pending, rest)).into_owned()
    }
}

/// Whether more bytes could complete a character.
fn is_prefix(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}

/// The value of a byte token, `<0x00>` … `<0xFF>`.
fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}
