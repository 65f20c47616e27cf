//! Conversion between text and model input: token ids, and conversations in the form that the model was trained on.
//!
//! [`Tokenizer`] is Gemma's byte-fallback BPE, built from a checkpoint's `tokenizer.json` or from the keys of a GGUF
//! alone, with equal ids. [`ChatTemplate`] renders a model's Jinja template as transformers does. [`Corpus`] reads
//! text files and conversations as token sequences with scored positions.
//!
//! Not in this crate: other kinds of tokenizers (they are refused, not approximated), images and audio.

mod chat;
mod corpus;
mod tokenizer;

pub use chat::{Chat, ChatTemplate};
pub use corpus::{Corpus, Cut, Protocol, Reader, Remark, Scored, Sequence, utf8};
pub use tokenizer::{Decoder, Tokenizer};
