//! Prompts: text and conversations with images, sounds and videos, as tokens and soft tokens.
//!
//! A text has a mark for each file, which the chat template writes too. In its place there are a begin token, soft tokens and an end token.
//! The text between two files is tokenized as one. Sources: `processing_gemma4.py` of huggingface/transformers, `tools/mtmd/mtmd.cpp` of
//! ggml-org/llama.cpp.

use std::collections::VecDeque;

use runtime::{Matrix, Segment};
use serde_json::{Value, json};
use tensor::{Error, Result};
use text::{MediaFile, MediaKind, MediaMark, Tokenizer};

use crate::towers::Piece;

/// A prompt as the model reads it.
pub(crate) struct PreparedPrompt {
    parts: Vec<PromptPart>,
}

enum PromptPart {
    Tokens(Vec<u32>),
    Image(Matrix),
    Sound(Matrix),
}

impl PreparedPrompt {
    /// A prompt of tokens.
    pub(crate) fn of_tokens(tokens: Vec<u32>) -> PreparedPrompt {
        PreparedPrompt { parts: vec![PromptPart::Tokens(tokens)] }
    }

    /// The prompt for the runtime.
    pub(crate) fn segments(&self) -> Vec<Segment<'_>> {
        self.parts.iter().map(PromptPart::segment).collect()
    }
}

impl PromptPart {
    fn segment(&self) -> Segment<'_> {
        match self {
            PromptPart::Tokens(tokens) => Segment::Tokens(tokens),
            PromptPart::Image(rows) => Segment::Image(rows.view()),
            PromptPart::Sound(rows) => Segment::Sound(rows.view()),
        }
    }
}

/// How a text becomes tokens.
#[derive(Clone, Copy)]
pub(crate) struct Tokenization<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    /// BOS is added.
    pub(crate) add_bos: bool,
    /// Special tokens are recognised in the text.
    pub(crate) parse_special: bool,
}

/// Puts what the files became in the place of their marks. Without a mark in the text they come first.
///
/// # Errors
/// `Recipe` for a text with another number of marks than files.
pub(crate) fn with_media(
    text: &str,
    how: Tokenization<'_>,
    files: &[MediaFile],
    pieces: Vec<Vec<Piece>>,
) -> Result<PreparedPrompt> {
    let mut waiting: [VecDeque<Vec<Piece>>; 3] = Default::default();
    for (file, pieces) in files.iter().zip(pieces) {
        waiting[file.kind() as usize].push_back(pieces);
    }
    let mut marks = MediaMark::all(text);
    if marks.is_empty() {
        marks = files.iter().map(|file| MediaMark { start: 0, end: 0, kind: file.kind() }).collect();
    }
    let mut builder = Builder { how, runs: Vec::new(), parts: Vec::new() };
    if how.add_bos {
        builder.text("", false);
    }
    let mut at = 0;
    for MediaMark { start, end, kind } in marks {
        builder.text(&text[at..start], how.parse_special);
        at = end;
        let Some(pieces) = waiting[kind as usize].pop_front() else {
            return Err(unequal(text, files, kind));
        };
        for piece in pieces {
            match piece {
                Piece::Text(text) => builder.text(&text, how.parse_special),
                Piece::Image(rows) => builder.soft(kind, PromptPart::Image(rows))?,
                Piece::Sound(rows) => builder.soft(kind, PromptPart::Sound(rows))?,
            }
        }
    }
    builder.text(&text[at..], how.parse_special);
    if let Some(kind) = MediaKind::ALL.into_iter().find(|&kind| !waiting[kind as usize].is_empty()) {
        return Err(unequal(text, files, kind));
    }
    builder.finish()
}

/// Refuses a text with the mark of a file, for a prompt without files: the model knows a mark as nothing but the place of one.
///
/// # Errors
/// `Recipe`, with the option for a file.
pub(crate) fn check_no_marks(text: &str) -> Result<()> {
    match MediaMark::all(text).first() {
        Some(mark) => Err(unequal(text, &[], mark.kind)),
        None => Ok(()),
    }
}

fn unequal(text: &str, files: &[MediaFile], kind: MediaKind) -> Error {
    let given = files.iter().filter(|file| file.kind() == kind).count();
    let marks = text.matches(kind.mark()).count();
    let option = format!("‹{}›", kind.part());
    let help = match marks > given {
        true => format!("Give {option} FILE for each {}, in their order.", kind.mark()),
        false => "Each file has one mark, in the order of the files. In a prompt without any mark, the files come first."
            .to_owned(),
    };
    Error::recipe(option, "the prompt has another number of places for them than files are given")
        .expected(format!("{marks}, the number of {} in the prompt", kind.mark()), given)
        .help(help)
}

/// Collects text, and tokenizes it where soft tokens begin.
struct Builder<'a> {
    how: Tokenization<'a>,
    /// Text that is not tokenized yet, with whether special tokens are recognised in it.
    runs: Vec<(String, bool)>,
    parts: Vec<PromptPart>,
}

impl Builder<'_> {
    fn text(&mut self, text: &str, parse_special: bool) {
        match self.runs.last_mut() {
            Some((last, same)) if *same == parse_special => last.push_str(text),
            _ => self.runs.push((text.to_owned(), parse_special)),
        }
    }

    fn soft(&mut self, kind: MediaKind, soft: PromptPart) -> Result<()> {
        self.text(kind.around()[0], true);
        self.tokenize()?;
        self.parts.push(soft);
        self.text(kind.around()[1], true);
        Ok(())
    }

    fn tokenize(&mut self) -> Result<()> {
        let mut tokens = Vec::new();
        for (text, parse_special) in self.runs.drain(..) {
            let add_bos = self.how.add_bos && self.parts.is_empty() && tokens.is_empty();
            tokens.extend(self.how.tokenizer.encode(&text, add_bos, parse_special)?);
        }
        if !tokens.is_empty() {
            self.parts.push(PromptPart::Tokens(tokens));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<PreparedPrompt> {
        self.tokenize()?;
        Ok(PreparedPrompt { parts: self.parts })
    }
}

/// Puts a part for each file in front of the text of the first message of the user, unless a message has a mark.
///
/// # Errors
/// `Recipe` for messages without a text of the user.
pub(crate) fn with_parts(messages: &[Value], files: &[MediaFile]) -> Result<Vec<Value>> {
    let mut messages = messages.to_vec();
    if messages.iter().any(|message| !text::marks_of_message(message).is_empty()) {
        return Ok(messages);
    }
    let first = messages.iter_mut().find(|message| message["role"] == "user");
    let Some(message) = first else {
        return Err(Error::recipe("‹messages›", "no message of the user for the images and sounds")
            .help("A message is {\"role\": \"user\", \"content\": \"…\"}."));
    };
    let text = match &message["content"] {
        Value::String(text) => vec![json!({"type": "text", "text": text})],
        Value::Array(parts) => parts.clone(),
        _ => Vec::new(),
    };
    let parts = files.iter().map(|file| json!({"type": file.kind().part()}));
    message["content"] = parts.chain(text).collect();
    Ok(messages)
}
