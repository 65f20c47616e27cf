//! Plain text in chunks, as in llama-perplexity.
//!
//! The whole text is tokenized, with markers as plain text, and cut every `context` tokens; a shorter rest is
//! dropped. BOS replaces the first token of each chunk. The first half of a chunk is context only, the second is
//! scored. One newline at the end of the file is not read.
//!
//! Source: ggml-org/llama.cpp `tools/perplexity/perplexity.cpp` (`perplexity`) and `common/arg.cpp` (`--file`).

use tensor::{Error, Result};

use super::{Cut, SHORTEST, Sequence};
use crate::Tokenizer;

/// Cuts a text into chunks.
pub(super) fn chunks(text: &str, tokenizer: &Tokenizer, cut: &Cut) -> Result<Vec<Sequence>> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    if text.is_empty() {
        return Err(Error::malformed("text", "empty"));
    }
    let tokens = tokenizer.encode(text, true, false)?;
    if tokens.len() < 2 * cut.context {
        let fits = tokens.len() / 2;
        return Err(Error::malformed("text", format!("too short for a context of {}", cut.context))
            .expected(format!("at least {} tokens", 2 * cut.context), tokens.len())
            .help(match fits {
                SHORTEST.. => format!("Give a ‹context› of {fits} or less, or a longer text."),
                _ => "Give a longer text.".to_owned(),
            }));
    }
    let chunks = tokens.chunks_exact(cut.context).take(cut.most.unwrap_or(usize::MAX));
    let sequence = |chunk: &[u32]| {
        let mut tokens = chunk.to_vec();
        tokens[0] = tokenizer.bos();
        Sequence { tokens, scored: (cut.context / 2 + 1..cut.context).collect(), media: Vec::new() }
    };
    Ok(chunks.map(sequence).collect())
}
