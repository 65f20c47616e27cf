//! Guessing ahead of a target along one sequence, whatever the draft model is.
//!
//! An assistant looks into the target's cache and remembers nothing. An ordinary model of the same vocabulary reads the
//! sequence itself, into a cache of its own: what it has read of its own guesses and the target has not taken is taken back
//! when the next burst begins.

use gemma::Config;
use tensor::{Error, Result};

use crate::{Assistant, KvCache, Matrix, Model};

/// A draft model of either kind.
pub enum Drafter<'a> {
    /// Made for the target: it reads the target's keys and values.
    Assistant(Assistant<'a>),
    /// A model by itself: a smaller one of the family, or some layers of the target.
    Model(Model<'a>),
}

impl<'a> Drafter<'a> {
    /// An ordinary model as a draft of a target of this config.
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

    /// The longest sequence that it can follow.
    pub fn context(&self) -> u64 {
        match self {
            Drafter::Assistant(_) => u64::MAX,
            Drafter::Model(model) => model.config().context,
        }
    }
}

/// Where the target stands: all but the last token of the sequence are in its cache.
#[derive(Clone, Copy)]
pub struct TargetState<'s> {
    /// The target.
    pub target: &'s Model<'s>,
    /// Its cache.
    pub cache: &'s KvCache,
    /// One row: its [normalised](Model::norm) hidden state at the end of the cache.
    pub hidden: &'s Matrix,
}

/// A draft model at work on one sequence.
#[derive(Clone)]
pub struct DraftSession<'a> {
    draft: &'a Drafter<'a>,
    /// Of an assistant: what the next guess of the burst is given.
    hidden: Matrix,
    /// Of an ordinary model: what it has read.
    read: Vec<u32>,
    cache: Option<KvCache>,
    undo: usize,
}

impl<'a> DraftSession<'a> {
    /// For bursts of at most so many guesses.
    pub fn new(draft: &'a Drafter<'a>, burst: usize) -> DraftSession<'a> {
        DraftSession { draft, hidden: Matrix::default(), read: Vec::new(), cache: None, undo: burst + 1 }
    }

    /// Begins a burst: logits of what follows `sequence`, all tokens so far.
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
                // the last token says what follows
                let kept = same.min(sequence.len().saturating_sub(1));
                let mut cache = self.cache.take().unwrap_or_else(|| self.empty(model));
                let start = match cache.truncate(model.config(), kept) {
                    Ok(()) => kept,
                    Err(_) => 0, // too far back: from the beginning
                };
                if start == 0 {
                    cache = self.empty(model);
                }
                let hidden = model.forward_last(&sequence[start..], &mut cache)?;
                self.cache = Some(cache);
                self.read.truncate(start);
                self.read.extend_from_slice(&sequence[start..]);
                Ok(model.head(&hidden)?.row(0).to_vec())
            }
        }
    }

    /// Goes on with a burst: logits of what follows `token`, its latest guess.
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
                Ok(model.head(&hidden)?.row(0).to_vec())
            }
        }
    }

    fn empty(&self, model: &Model<'_>) -> KvCache {
        KvCache::new(model.config()).with_rollback(self.undo)
    }
}
