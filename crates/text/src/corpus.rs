//! From text files to what the models read: the two protocols, and which of them fits a model.
//!
//! Plain text is cut as llama-perplexity cuts it (`protocol/raw.rs`), so that its figures and ours are of the same
//! predictions. Conversations, one a line of a `.jsonl` file, go through the model's chat template
//! (`protocol/chat.rs`), and either all of each is scored or only what the model says in it (`protocol/answers.rs`).
//!
//! A model with a chat template is instruction-tuned. This is how the published ones are told apart: the script that
//! made them includes the template for instruction-tuned models and for no others, together with `<turn|>` among the
//! tokens that end a text (huggingface/transformers `models/gemma4/convert_gemma4_weights.py`). A GGUF keeps the
//! template and not that list.

mod answers;
mod chat;
mod raw;
mod sequence;

use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tensor::{Error, Result};

pub use self::sequence::Sequence;
use crate::{ChatTemplate, Tokenizer};

/// Fewer tokens than this give a model nothing to predict from.
const SHORTEST: usize = 8;

/// What a model brings along for reading text.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Its chat template.
    pub template: Option<&'a str>,
    /// The tokens that it was trained to see at once.
    pub context: u64,
}

/// How a text is to be cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Tokens of a sequence: of each chunk of plain text, of a conversation at most.
    pub context: usize,
    /// The most sequences to take of each file, from its beginning.
    pub most: Option<usize>,
    /// What of a conversation is scored. Of plain text it is the second half of each chunk.
    pub scored: Scored,
}

/// How a text is cut and what of it is scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Plain text in chunks of the context, the second half of each scored, as llama-perplexity does. For base models.
    #[default]
    Raw,
    /// Conversations through the chat template. For instruction-tuned models.
    Chat,
}

/// What of a conversation is scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Scored {
    /// All tokens that have one before them.
    #[default]
    All,
    /// What the model is to say.
    Answers,
}

/// Text files as token sequences.
#[derive(Clone, Debug, Default)]
pub struct Corpus {
    /// Chunks or conversations, file after file.
    pub sequences: Vec<Sequence>,
    /// How the files were cut.
    pub protocol: Protocol,
    /// The scored part of conversations; `None` for plain text.
    pub scored: Option<Scored>,
    /// Paths, as they were given.
    pub files: Vec<String>,
    /// Tokens of a sequence, at most.
    pub context: usize,
    /// Conversations that were cut, a protocol that does not fit the model.
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
    /// The one for a model with this chat template, or with none.
    pub fn of_model(template: Option<&str>) -> Protocol {
        if template.is_some() { Protocol::Chat } else { Protocol::Raw }
    }

    /// The one of a file: conversations end in `.jsonl`, anything else is plain text.
    pub fn of_file(path: &Path) -> Protocol {
        let is_lines = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jsonl"));
        if is_lines { Protocol::Chat } else { Protocol::Raw }
    }
}

impl Corpus {
    /// Reads files, all of one protocol.
    ///
    /// # Errors
    /// - `Recipe` for no files, files of both protocols, conversations for a model without a chat template, and a
    ///   context that is too short or longer than the model's.
    /// - `Malformed`, naming the file and the line, for a file that is empty, not UTF-8 or too short for the context,
    ///   and for a line that is no conversation, that the template refuses, or that has no answer where answers are
    ///   scored.
    /// - `Io` for what cannot be read.
    pub fn read(files: &[PathBuf], reader: &Reader, cut: &Cut) -> Result<Corpus> {
        check_context(reader, cut)?;
        let mut corpus = Corpus {
            protocol: protocol_of(files)?,
            files: files.iter().map(|path| path.display().to_string()).collect(),
            context: cut.context,
            ..Corpus::default()
        };
        match corpus.protocol {
            Protocol::Raw => corpus.read_raw(files, reader, cut)?,
            Protocol::Chat => corpus.read_chat(files, reader, cut)?,
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

    fn read_chat(&mut self, files: &[PathBuf], reader: &Reader, cut: &Cut) -> Result<()> {
        self.scored = Some(cut.scored);
        let Some(template) = reader.template else {
            return Err(Error::recipe(
                files[0].display(),
                "conversations, and this model has no chat template",
            )
            .help("Without one it is a base model, which is measured on plain text."));
        };
        let template = ChatTemplate::new(template)?;
        let (mut shortened, mut unanswered) = (0, 0);
        for path in files {
            let read = chat::conversations(&read_text(path)?, reader.tokenizer, &template, cut)
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
            .help(format!("{} is read the other way; verify them one by one.", first.display()))),
        None => Ok(protocol),
    }
}

/// The most bytes of a text: a hundred times those that such figures are made of.
const MAX_TEXT: u64 = 128 << 20;

fn read_text(path: &Path) -> Result<String> {
    let bytes = base::read_bounded(path, MAX_TEXT)?;
    utf8(path.display(), bytes)
}

/// Bytes as text.
///
/// # Errors
/// `Malformed`, saying where the first byte is that belongs to no character.
pub fn utf8(place: impl Display, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let line = 1 + bytes[..at].iter().filter(|&&byte| byte == b'\n').count();
        Error::malformed(format!("{place}: line {line}"), "not UTF-8")
            .expected("text in UTF-8", format!("byte 0x{:02X} at offset {at}", bytes[at]))
    })
}
