//! Draft sessions for speculative decoding: draft logits along one sequence, with either kind of draft model.
//!
//! An assistant reads the target's KV cache and has no state. An ordinary model with the same vocabulary has a KV cache of its
//! own; draft tokens that the target rejected are rolled back when the next burst begins.

use gemma::Config;
use tensor::{Error, Result};

use crate::segments::tokens;
use crate::{Assistant, KvCache, Matrix, Model, Segment};

/// A draft model of either kind.
pub enum Drafter<'a> {
    /// An assistant: reads the target's keys and values.
    Assistant(Assistant<'a>),
    /// A text model: a smaller one of the family, or some layers of the target.
    Model(Model<'a>),
}

impl<'a> Drafter<'a> {
    /// A text model as the draft model of a target of this config.
    ///
    /// # Errors
    /// `Malformed` when the two have vocabularies of different sizes.
    pub fn of_model(model: Model<'a>, target: &Config) -> Result<Drafter<'a>> {
        let (own, wanted) = (model.config().vocab, target.vocab);
        if own != wanted {
            return Err(
                Error::malformed("draft", "vocabulary differs from the target's").expected(wanted, own)
            );
        }
        Ok(Drafter::Model(model))
    }

    /// The longest sequence in tokens.
    pub fn context(&self) -> u64 {
        match self {
            Drafter::Assistant(_) => u64::MAX,
            Drafter::Model(model) => model.config().context,
        }
    }
}

/// State of the target: all tokens of the sequence but the last are in its cache.
#[derive(Clone, Copy)]
pub struct TargetState<'s> {
    /// The target.
    pub target: &'s Model<'s>,
    /// Its cache.
    pub cache: &'s KvCache,
    /// One row: its [normalised](Model::norm) hidden state at the end of the cache.
    pub hidden: &'s Matrix,
}

/// A draft model on one sequence.
#[derive(Clone)]
pub struct DraftSession<'a> {
    draft: &'a Drafter<'a>,
    /// The beginning of the sequence, if it has soft tokens. A text model reads it as the target does.
    prompt: Vec<Segment<'a>>,
    /// Of an assistant: hidden state for the next step of the burst.
    hidden: Matrix,
    /// Of a text model: the tokens in its cache.
    read: Vec<u32>,
    cache: Option<KvCache>,
    undo: usize,
}

impl<'a> DraftSession<'a> {
    /// For bursts of at most `burst` draft tokens.
    pub fn new(draft: &'a Drafter<'a>, burst: usize) -> DraftSession<'a> {
        let hidden = Matrix::zeros((0, 0));
        DraftSession { draft, prompt: Vec::new(), hidden, read: Vec::new(), cache: None, undo: burst + 1 }
    }

    /// The same session on a sequence that begins with this prompt.
    #[must_use]
    pub fn with_prompt(self, prompt: &[Segment<'a>]) -> DraftSession<'a> {
        DraftSession { prompt: prompt.to_vec(), ..self }
    }

    /// Begins a burst: logits of the token after `sequence`, all tokens so far.
    ///
    /// # Errors
    /// Those of [`Assistant::guess`] and [`Model::forward`].
    pub fn first(&mut self, at: &TargetState<'_>, sequence: &[u32]) -> Result<Vec<f32>> {
        match self.draft {
            Drafter::Assistant(_) => {
                self.hidden = at.hidden.clone();
                let last = sequence.last().ok_or_else(|| Error::malformed("draft", "an empty sequence"))?;
                self.next(at, *last)
            }
            Drafter::Model(model) => {
                let same = self.read.iter().zip(sequence).take_while(|(a, b)| a == b).count();
                // the last token is computed again: its hidden state gives the logits
                let kept = same.min(sequence.len().saturating_sub(1));
                let mut cache = self.cache.take().unwrap_or_else(|| self.empty(model));
                let prompt = tokens(&self.prompt).len();
                let start = match cache.truncate(model.config(), kept) {
                    Ok(()) if kept >= prompt => kept,
                    _ => 0, // within the prompt, or beyond the rollback window: start again
                };
                let mut segments = Vec::new();
                if start == 0 {
                    cache = self.empty(model);
                    segments.extend(self.prompt.iter().map(Segment::borrowed));
                }
                let rest = &sequence[if start == 0 { prompt } else { start }..];
                if !rest.is_empty() {
                    segments.push(Segment::Tokens(rest));
                }
                let hidden = model.forward_last_segments(&segments, &mut cache)?;
                self.cache = Some(cache);
                self.read.truncate(start);
                self.read.extend_from_slice(&sequence[start..]);
                Ok(model.head(&hidden)?.into_raw_vec_and_offset().0)
            }
        }
    }

    /// Continues a burst: logits of the token after `token`, the latest draft token.
    ///
    /// # Errors
    /// Those of [`Assistant::guess`] and [`Model::forward`].
    pub fn next(&mut self, at: &TargetState<'_>, token: u32) -> Result<Vec<f32>> {
        match self.draft {
            Drafter::Assistant(drafter) => {
                let guess = drafter.guess(at.target, at.cache, token, &self.hidden)?;
                self.hidden = guess.hidden;
                Ok(guess.logits)
            }
            Drafter::Model(model) => {
                let mut cache = self.cache.take().unwrap_or_else(|| self.empty(model));
                let hidden = model.forward_last(&[token], &mut cache)?;
                self.cache = Some(cache);
                self.read.push(token);
                Ok(model.head(&hidden)?.into_raw_vec_and_offset().0)
            }
        }
    }

    fn empty(&self, model: &Model<'_>) -> KvCache {
        KvCache::new(model.config()).with_rollback(self.undo)
    }
}
