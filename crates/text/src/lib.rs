//! Conversion between text and model input: token ids, and conversations in the form that the model was trained on.
//!
//! ```
//! # let folder = testkit::fixtures("checkpoints/e2b");
//! use checkpoint::Checkpoint;
//! use text::Tokenizer;
//!
//! let tokenizer = Tokenizer::from_checkpoint(&Checkpoint::open(&folder)?)?;
//! let ids = tokenizer.encode("The island lies", true, false)?; // with BOS, markers as plain text
//! assert_eq!(ids[0], tokenizer.bos());
//! assert_eq!(tokenizer.decode(&ids[1..]), "The island lies");
//! # Ok::<(), tensor::Error>(())
//! ```
//!
//! [`Tokenizer`] is Gemma's byte-fallback BPE, built from a checkpoint's `tokenizer.json` or from the keys of a GGUF
//! alone, with equal ids. [`ChatTemplate`] renders a model's Jinja template as transformers does. [`Corpus`] reads
//! text files and conversations as token sequences with scored positions.
//!
//! Messages may name images, sounds and videos: [`media_of`] collects them.
//!
//! Not in this crate: other kinds of tokenizers (they are refused, not approximated), and what is in the files that messages name.

mod chat;
mod corpus;
mod media;
mod tokenizer;

pub use chat::{Chat, ChatTemplate};
pub use corpus::{Corpus, Cut, Protocol, Reader, Remark, Scored, Sequence, SoftSpan, SoftTokenCount, utf8};
pub use media::{MediaFile, MediaKind, MediaMark, marks_of_message, media_of, with_marks};
pub use tokenizer::{Decoder, Tokenizer};
