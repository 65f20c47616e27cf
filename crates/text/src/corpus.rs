//! Text corpora: text files as token sequences, in two protocols, and the check that a protocol fits a model.
//!
//! Plain text is cut as llama-perplexity cuts it (`corpus/raw.rs`), so that both score the same predictions.
//! Conversations, one per line of a `.jsonl` file, go through the model's chat template (`corpus/chat.rs`); either
//! all tokens are scored or only those that the model says (`corpus/answers.rs`).
//!
//! A model with a chat template is instruction-tuned. The published models are told apart in this way: their
//! conversion script includes the template for instruction-tuned models only, and adds `<turn|>` to the
//! end-of-generation tokens (huggingface/transformers `models/gemma4/convert_gemma4_weights.py`). A GGUF keeps the
//! template but not that list.

mod answers;
mod chat;
mod raw;
mod sequence;
mod soft;

use std::fmt::Display;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tensor::{Error, Result};

use self::soft::Files;

pub use self::sequence::{Sequence, SoftSpan};
pub use self::soft::SoftTokenCount;
use crate::{ChatTemplate, Tokenizer};

/// Minimum length of a context in tokens: fewer give a model nothing to predict from.
const SHORTEST: usize = 8;

/// The parts of a model that reading text needs.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The chat template.
    pub template: Option<&'a str>,
    /// Maximum context of the model, in tokens.
    pub context: u64,
}

/// Options for cutting a text.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Tokens per sequence: the length of a chunk of plain text, the maximum of a conversation.
    pub context: usize,
    /// Maximum number of sequences per file, from its beginning.
    pub most: Option<usize>,
    /// The scored part of a conversation. For plain text it is the second half of each chunk.
    pub scored: Scored,
}

/// The rule for cutting a text and for the scored positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Plain text in chunks of `context` tokens, with the second half of each scored, as in llama-perplexity. For
    /// base models.
    #[default]
    Raw,
    /// Conversations through the chat template. For instruction-tuned models.
    Chat,
}

/// The scored part of a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scored {
    /// All tokens but the first.
    #[default]
    All,
    /// The tokens that the model says.
    Answers,
}

/// Text files as token sequences.
#[derive(Clone, Debug, Default)]
pub struct Corpus {
    /// Chunks or conversations, file by file.
    pub sequences: Vec<Sequence>,
    /// The protocol of the files.
    pub protocol: Protocol,
    /// The scored part of conversations; `None` for plain text.
    pub scored: Option<Scored>,
    /// The paths, as the user gave them.
    pub files: Vec<String>,
    /// Maximum tokens per sequence.
    pub context: usize,
    /// Remarks: shortened conversations, a protocol that does not fit the model.
    pub remarks: Vec<Remark>,
}

/// A remark about a corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Figures over this corpus may mislead. Otherwise the remark is a note.
    pub is_warning: bool,
    /// The subject: `protocol` or `context`.
    pub place: &'static str,
    /// The remark, as a clause.
    pub problem: String,
    /// The expected and the found kind of text, for a warning.
    pub expected: Option<(&'static str, &'static str)>,
}

impl Protocol {
    /// The protocol for a model with this chat template, or without one.
    pub fn of_model(template: Option<&str>) -> Protocol {
        if template.is_some() { Protocol::Chat } else { Protocol::Raw }
    }

    /// The protocol of a file: conversations for `.jsonl`, else plain text.
    pub fn of_file(path: &Path) -> Protocol {
        let is_lines = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jsonl"));
        if is_lines { Protocol::Chat } else { Protocol::Raw }
    }
}

impl Corpus {
    /// Reads files that all have the same protocol.
    ///
    /// # Errors
    /// - `Recipe` for no files, files of both protocols, conversations for a model without a chat template or with
    ///   images or sounds, and a context that is too short or longer than the model's.
    /// - `Malformed`, with the file and the line, for a file that is empty, not UTF-8 or too short for the context,
    ///   and for a line that is not a conversation, that the template refuses, or that has no answer where answers
    ///   are scored.
    /// - `Io` for a file that cannot be read.
    pub fn read(files: &[PathBuf], reader: &Reader, cut: &Cut) -> Result<Corpus> {
        Corpus::read_all(files, reader, cut, None)
    }

    /// As [`Corpus::read`], for conversations that may name images and sounds. `encode` gets each file in order, and returns
    /// its number of soft tokens.
    ///
    /// # Errors
    /// Those of [`Corpus::read`] and of `encode`; `Unsupported` for videos; `Malformed` for a text with the mark of a file.
    pub fn read_with_media(
        files: &[PathBuf],
        reader: &Reader,
        cut: &Cut,
        encode: &mut SoftTokenCount<'_>,
    ) -> Result<Corpus> {
        Corpus::read_all(files, reader, cut, Some(encode))
    }

    fn read_all(
        files: &[PathBuf],
        reader: &Reader,
        cut: &Cut,
        encode: Option<&mut SoftTokenCount<'_>>,
    ) -> Result<Corpus> {
        check_context(reader, cut)?;
        let mut corpus = Corpus {
            protocol: protocol_of(files)?,
            files: files.iter().map(|path| path.display().to_string()).collect(),
            context: cut.context,
            ..Corpus::default()
        };
        match corpus.protocol {
            Protocol::Raw => corpus.read_raw(files, reader, cut)?,
            Protocol::Chat => corpus.read_chat(files, reader, cut, encode)?,
        }
        if corpus.scored_tokens() == 0 {
            return Err(Error::recipe("text", "there is nothing in it to score")
                .expected("at least one token", 0)
                .help("Give a larger ‹context›, or more of the text."));
        }
        Ok(corpus)
    }

    /// Leaves out the first `count` sequences.
    ///
    /// # Errors
    /// `Recipe` when no sequence is left.
    pub fn skip(&mut self, count: usize) -> Result<()> {
        if count >= self.sequences.len() {
            return Err(Error::recipe("‹chunks›", "beyond the text")
                .expected(format!("less than {}", self.sequences.len()), count));
        }
        self.sequences.drain(..count);
        Ok(())
    }

    /// Scored tokens of all sequences.
    pub fn scored_tokens(&self) -> u64 {
        self.sequences.iter().map(|sequence| sequence.scored.len() as u64).sum()
    }

    fn read_raw(&mut self, files: &[PathBuf], reader: &Reader, cut: &Cut) -> Result<()> {
        for path in files {
            let chunks = raw::chunks(&read_text(path)?, reader.tokenizer, cut);
            self.sequences.extend(chunks.map_err(|e| e.within(path.display()))?);
        }
        if Protocol::of_model(reader.template) == Protocol::Chat {
            let problem = "the perplexity of an instruction-tuned model on plain text means little: that of E2B-it is \
                           about 38,000 there, and 58 behind the prefix of a chat. The KL divergence still compares \
                           the two models.";
            self.remarks.push(Remark {
                is_warning: true,
                place: "protocol",
                problem: problem.to_owned(),
                expected: Some(("conversations, in a .jsonl file", "plain text")),
            });
        }
        Ok(())
    }

    fn read_chat(
        &mut self,
        files: &[PathBuf],
        reader: &Reader,
        cut: &Cut,
        mut encode: Option<&mut SoftTokenCount<'_>>,
    ) -> Result<()> {
        self.scored = Some(cut.scored);
        let Some(template) = reader.template else {
            return Err(Error::recipe(
                files[0].display(),
                "conversations, and this model has no chat template",
            )
            .help("Without one it is a base model, which is measured on plain text."));
        };
        let template = ChatTemplate::new(template)?;
        let (mut shortened, mut unanswered, mut number) = (0, 0, 0);
        for path in files {
            let mut media = Files {
                folder: path.parent().unwrap_or(Path::new("")),
                encode: encode.as_deref_mut(),
                number: &mut number,
            };
            let read = chat::conversations(&read_text(path)?, reader.tokenizer, &template, cut, &mut media)
                .map_err(|e| e.within(path.display()))?;
            self.sequences.extend(read.sequences);
            shortened += read.shortened;
            unanswered += read.unanswered;
        }
        let mut note = |count: usize, what: &str| {
            if count > 0 {
                let all = self.sequences.len() + unanswered;
                let problem = format!("{count} of {all} conversations {what}");
                self.remarks.push(Remark { is_warning: false, place: "context", problem, expected: None });
            }
        };
        note(shortened, &format!("are longer than {} tokens and were cut there", cut.context));
        note(unanswered, "have no answer before that and were left out");
        Ok(())
    }
}

fn check_context(reader: &Reader, cut: &Cut) -> Result<()> {
    if cut.context < SHORTEST {
        return Err(Error::recipe("context", "too short to predict anything from")
            .expected(format!("at least {SHORTEST} tokens"), cut.context));
    }
    if cut.context as u64 > reader.context {
        return Err(Error::recipe("context", "longer than the model's")
            .expected(format!("at most {} tokens", reader.context), cut.context));
    }
    Ok(())
}

fn protocol_of(files: &[PathBuf]) -> Result<Protocol> {
    let Some(first) = files.first() else {
        return Err(Error::recipe("text", "no file to read").expected("at least one", 0));
    };
    let protocol = Protocol::of_file(first);
    match files.iter().find(|path| Protocol::of_file(path) != protocol) {
        Some(other) => Err(Error::recipe(other.display(), "conversations and plain text do not add up")
            .help(format!("{} has the other protocol; give them one by one.", first.display()))),
        None => Ok(protocol),
    }
}

/// Maximum size of a text in bytes, about a hundred times that of a usual evaluation text.
const MAX_TEXT: u64 = 128 << 20;

fn read_text(path: &Path) -> Result<String> {
    let bytes = base::read_bounded(path, MAX_TEXT)?;
    utf8(path.display(), bytes)
}

/// Decodes UTF-8.
///
/// # Errors
/// `Malformed`, with the position of the first invalid byte.
pub fn utf8(place: impl Display, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let line = 1 + bytes[..at].iter().filter(|&&byte| byte == b'\n').count();
        Error::malformed(format!("{place}: line {line}"), "not UTF-8")
            .expected("text in UTF-8", format!("byte 0x{:02X} at offset {at}", bytes[at]))
    })
}
