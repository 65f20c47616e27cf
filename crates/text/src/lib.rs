//! Text on its way into a model and out of it: token ids, and conversations as the model was trained to read them.
//!
//! [`Tokenizer`] is Gemma's byte-fallback BPE, from a checkpoint's `tokenizer.json` or from nothing but the keys of
//! a GGUF, with equal ids. [`ChatTemplate`] renders a model's Jinja template as transformers does.
//! [`Corpus`] reads text files and conversations as token sequences with scored positions.
//!
//! Left out: tokenizers of any other make (they are refused, not approximated), and images and sound.

mod chat;
mod corpus;
mod tokenizer;

pub use chat::{Chat, ChatTemplate};
pub use corpus::{Corpus, Cut, Protocol, Reader, Remark, Scored, Sequence, utf8};
pub use tokenizer::{Decoder, Tokenizer};
