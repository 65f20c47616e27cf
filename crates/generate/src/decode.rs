//! The next token of a model, alone or with a draft model.

use runtime::{Drafter, KvCache, Model, RowMajor, Segment};
use tensor::Result;

use crate::sampling::Sampler;
use crate::speculative::{DraftCounts, SpeculativeDecoder};

/// A decode loop over one sequence: each call of [`next_token`](Self::next_token) gives one token.
pub enum TokenStream<'a> {
    /// One pass of the model for each token.
    Alone(AloneDecoder<'a>),
    /// Speculative decoding with a draft model.
    Drafted(Box<SpeculativeDecoder<'a>>),
}

/// The decode loop of a model without a draft model.
pub struct AloneDecoder<'a> {
    model: &'a Model<'a>,
    suppressed: &'a [u32],
    prompt: Vec<Segment<'a>>,
    /// The last token. Before it there is the prompt, which is not in the KV cache yet.
    last: Option<u32>,
    cache: KvCache,
}

impl<'a> TokenStream<'a> {
    /// The tokens after a prompt. `suppressed` are token ids that are never chosen.
    pub fn alone(model: &'a Model<'a>, suppressed: &'a [u32], prompt: &[Segment<'a>]) -> TokenStream<'a> {
        let cache = KvCache::new(model.config());
        TokenStream::Alone(AloneDecoder { model, suppressed, prompt: prompt.to_vec(), last: None, cache })
    }

    /// The tokens after a prompt with speculative decoding, with the same distribution as [`TokenStream::alone`]. At
    /// most `burst` draft tokens are verified at a time. The prompt is read immediately.
    ///
    /// # Errors
    /// `Malformed` for a token beyond the vocabulary; `Io` for a source that cannot be read.
    pub fn drafted(
        model: &'a Model<'a>,
        draft: &'a Drafter<'a>,
        burst: usize,
        suppressed: &'a [u32],
        prompt: &[Segment<'a>],
        sampler: &mut Sampler,
    ) -> Result<TokenStream<'a>> {
        let decoder = SpeculativeDecoder::new(model, draft, burst, suppressed, prompt, sampler)?;
        Ok(TokenStream::Drafted(Box::new(decoder)))
    }

    /// The next token. The caller will request at most `left` more tokens, including this one.
    ///
    /// # Errors
    /// `Io` for a source that cannot be read.
    pub fn next_token(&mut self, left: usize, sampler: &mut Sampler) -> Result<u32> {
        match self {
            TokenStream::Alone(AloneDecoder { model, suppressed, prompt, last, cache }) => {
                let hidden = match last {
                    None => model.forward_last_segments(prompt, cache)?,
                    Some(token) => model.forward_last(&[*token], cache)?,
                };
                let token = sampler.choose(&mask_suppressed(suppressed, model.head(&hidden)?.row_values(0)));
                *last = Some(token);
                Ok(token)
            }
            TokenStream::Drafted(decoder) => decoder.next_token(left, sampler),
        }
    }

    /// Counts of draft tokens so far; `None` without a draft model.
    pub fn counts(&self) -> Option<DraftCounts> {
        match self {
            TokenStream::Alone(_) => None,
            TokenStream::Drafted(decoder) => Some(decoder.counts()),
        }
    }
}

/// A copy of a row of logits in which suppressed tokens have −∞.
pub fn mask_suppressed(suppressed: &[u32], logits: &[f32]) -> Vec<f32> {
    let mut row = logits.to_vec();
    for &id in suppressed {
        if let Some(logit) = row.get_mut(id as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
    row
}
