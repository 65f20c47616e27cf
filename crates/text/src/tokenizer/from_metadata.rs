//! A tokenizer from the keys of a GGUF, as llama.cpp loads it.

use std::borrow::Cow;
use std::collections::HashSet;

use gguf::Metadata;
use tensor::{Error, Result};

use super::{Added, Parts, Tokenizer, markers};

/// Values of `llama_token_type` in llama.h.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

impl Tokenizer {
    /// The tokenizer of the keys `tokenizer.ggml.*`.
    ///
    /// # Errors
    /// `Malformed` for keys that are missing, mistyped or contradictory, for a vocabulary without all byte tokens and
    /// for merges of unknown tokens; `Unsupported` for a tokenizer other than Gemma 4's.
    pub fn from_metadata(metadata: &Metadata) -> Result<Tokenizer> {
        let model: &str = metadata.required("tokenizer.ggml.model")?;
        if model != "gemma4" {
            return Err(Error::unsupported("key tokenizer.ggml.model", "a tokenizer that is not handled")
                .expected("gemma4", model));
        }
        let texts: &[String] = metadata.required("tokenizer.ggml.tokens")?;
        let plain;
        let types: &[i32] = match metadata.typed("tokenizer.ggml.token_type")? {
            Some(types) => types,
            None => {
                plain = vec![NORMAL; texts.len()];
                &plain
            }
        };
        let merges: &[String] = metadata.required("tokenizer.ggml.merges")?;
        if types.len() != texts.len() {
            return Err(Error::malformed(
                "key tokenizer.ggml.token_type",
                "contradicts tokenizer.ggml.tokens",
            )
            .expected(format!("{} types", texts.len()), types.len()));
        }
        let known: HashSet<&str> = texts.iter().map(String::as_str).collect();
        let special = |kind| metadata.typed::<u32>(&format!("tokenizer.ggml.{kind}_token_id"));
        Tokenizer::new(Parts {
            tokens: texts.iter().map(|text| text.as_str().into()).collect(),
            merges: (0..).zip(merges).map(|(rank, merge)| parts(rank, merge, &known)),
            added: (0..).zip(texts.iter().zip(types)).filter_map(added).collect(),
            newlines_apart: true,
            bos: special("bos")?,
            eos: special("eos")?,
            pad: special("padding")?,
            ends: &markers::ENDS_IN_LLAMA_CPP,
            add_eos: metadata.typed("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
        })
        .map_err(|e| e.within("keys tokenizer.ggml.*"))
    }
}

fn added((id, (text, &kind)): (u32, (&String, &i32))) -> Option<Added> {
    let text = text.as_str();
    let typed = [UNKNOWN, CONTROL, USER_DEFINED].contains(&kind);
    // llama.cpp makes end-of-generation texts control tokens, whatever their type
    let ends = markers::ENDS_IN_LLAMA_CPP.contains(&text);
    let plain = kind == USER_DEFINED && !ends;
    (typed || ends).then(|| Added { id, text: text.into(), normalized: false, plain })
}

/// Splits a merge `left right`. A space inside a part is written as `Ġ`, unless the vocabulary has a token with that
/// `Ġ`.
fn parts<'a>(rank: usize, merge: &'a str, known: &HashSet<&str>) -> Result<(Cow<'a, str>, Cow<'a, str>)> {
    // llama.cpp splits at the first space after the first character
    let first = merge.chars().next().map_or(0, char::len_utf8);
    let cut = merge[first..].find(' ').map(|at| first + at).ok_or_else(|| {
        Error::malformed(format!("merge {rank}"), "does not have two parts")
            .expected("left right", format!("{merge:?}"))
    })?;
    let (left, right) = (&merge[..cut], &merge[cut + 1..]);
    let part = |text: &'a str| match text.contains('Ġ') && !known.contains(text) {
        true => Cow::Owned(text.replace('Ġ', " ")),
        false => Cow::Borrowed(text),
    };
    Ok((part(left), part(right)))
}
