//! Prompts: text and conversations with images, sounds and videos, as tokens and soft tokens.
//!
//! A text has a mark for each file, which the chat template writes too. In its place there are a begin token, soft tokens and an end token.
//! The text between two files is tokenized as one. Sources: `processing_gemma4.py` of huggingface/transformers, `tools/mtmd/mtmd.cpp` of
//! ggml-org/llama.cpp.

use std::collections::VecDeque;
use std::path::PathBuf;

use runtime::{Matrix, Segment};
use serde_json::{Value, json};
use tensor::{Error, Result};
use text::Tokenizer;

use crate::towers::{MediaFile, Piece};

/// A kind of file in a prompt: the type of a part of a message, and its mark in the text.
struct Kind {
    part: &'static str,
    mark: &'static str,
    /// What begins and ends the soft tokens; those of an image stand around each frame of a video.
    around: [&'static str; 2],
}

const IMAGE: Kind = Kind { part: "image", mark: "<|image|>", around: ["<|image>", "<image|>"] };
const SOUND: Kind = Kind { part: "audio", mark: "<|audio|>", around: ["<|audio>", "<audio|>"] };
const VIDEO: Kind = Kind { part: "video", mark: "<|video|>", around: IMAGE.around };

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
        waiting[number(file)].push_back(pieces);
    }
    let mut found = places(text);
    if found.is_empty() {
        found = files.iter().map(|file| Place { start: 0, end: 0, kind: number(file) }).collect();
    }
    let mut builder = Builder { how, runs: Vec::new(), parts: Vec::new() };
    if how.add_bos {
        builder.text("", false);
    }
    let mut at = 0;
    for place in found {
        builder.text(&text[at..place.start], how.parse_special);
        at = place.end;
        let kind = KINDS[place.kind];
        let Some(pieces) = waiting[place.kind].pop_front() else {
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
    if let Some(kind) = waiting.iter().position(|left| !left.is_empty()) {
        return Err(unequal(text, files, KINDS[kind]));
    }
    builder.finish()
}

const KINDS: [&Kind; 3] = [&IMAGE, &SOUND, &VIDEO];

/// The number of a file's kind.
fn number(file: &MediaFile) -> usize {
    match file {
        MediaFile::Image(_) => 0,
        MediaFile::Sound(_) => 1,
        MediaFile::Video(_) => 2,
    }
}

/// A mark in a text, or a place without one.
struct Place {
    start: usize,
    end: usize,
    kind: usize,
}

fn places(text: &str) -> Vec<Place> {
    let of_kind = |(kind, mark): (usize, &str)| {
        let place = |(start, mark): (usize, &str)| Place { start, end: start + mark.len(), kind };
        text.match_indices(mark).map(place).collect::<Vec<_>>()
    };
    let mut all: Vec<_> = KINDS.iter().map(|kind| kind.mark).enumerate().flat_map(of_kind).collect();
    all.sort_by_key(|place| place.start);
    all
}

/// Refuses a text with the place of a file, for a prompt without files: the model knows a mark as nothing but that
/// place.
///
/// # Errors
/// `Recipe`, with the option for a file.
pub(crate) fn check_no_marks(text: &str) -> Result<()> {
    match places(text).first() {
        Some(place) => Err(unequal(text, &[], KINDS[place.kind])),
        None => Ok(()),
    }
}

fn unequal(text: &str, files: &[MediaFile], kind: &Kind) -> Error {
    let given = files.iter().filter(|file| KINDS[number(file)].mark == kind.mark).count();
    let marks = text.matches(kind.mark).count();
    let option = format!("‹{}›", kind.part);
    let help = match marks > given {
        true => format!("Give {option} FILE for each {}, in their order.", kind.mark),
        false => "Each file has one mark, in the order of the files. In a prompt without any mark, the files come first."
            .to_owned(),
    };
    Error::recipe(option, "the prompt has another number of places for them than files are given")
        .expected(format!("{marks}, the number of {} in the prompt", kind.mark), given)
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

    fn soft(&mut self, kind: &Kind, soft: PromptPart) -> Result<()> {
        self.text(kind.around[0], true);
        self.tokenize()?;
        self.parts.push(soft);
        self.text(kind.around[1], true);
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
    if messages.iter().any(has_mark) {
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
    let parts = files.iter().map(|file| json!({"type": KINDS[number(file)].part}));
    message["content"] = parts.chain(text).collect();
    Ok(messages)
}

/// The number of places for files in a text.
pub(crate) fn marks(text: &str) -> usize {
    places(text).len()
}

/// Messages whose parts are one text, with a mark for each file, as chat templates write them.
pub(crate) fn flattened(messages: &[Value]) -> Vec<Value> {
    let mut messages = messages.to_vec();
    for message in &mut messages {
        let Some(parts) = message["content"].as_array() else { continue };
        let text = parts.iter().map(|part| {
            let mark = KINDS.iter().find(|kind| part["type"] == kind.part).map(|kind| kind.mark);
            mark.unwrap_or_else(|| part["text"].as_str().unwrap_or_default().trim()).to_owned()
        });
        message["content"] = text.collect::<String>().into();
    }
    messages
}

/// Whether a text of a message has the place of a file.
fn has_mark(message: &Value) -> bool {
    let text_has = |text: &Value| text.as_str().is_some_and(|text| !places(text).is_empty());
    let content = &message["content"];
    text_has(content) || content.as_array().into_iter().flatten().any(|part| text_has(&part["text"]))
}

/// The files that parts of messages name, in order, and the messages with such parts in the form that chat templates know.
///
/// # Errors
/// `Recipe` for a part without a file, and for a file that is not local.
pub(crate) fn files_of(messages: &[Value]) -> Result<(Vec<MediaFile>, Vec<Value>)> {
    let mut messages = messages.to_vec();
    let mut files = Vec::new();
    for (number, message) in messages.iter_mut().enumerate() {
        let place = || format!("‹messages›: message {}", number + 1);
        for part in message["content"].as_array_mut().into_iter().flatten() {
            let file = match part["type"].as_str() {
                Some("image" | "image_url") => MediaFile::Image,
                Some("audio" | "audio_url" | "input_audio") => MediaFile::Sound,
                Some("video" | "video_url") => MediaFile::Video,
                _ => continue,
            };
            let named = ["image", "audio", "video", "path", "url", "image_url", "audio_url", "video_url"]
                .iter()
                .find_map(|key| part.get(*key));
            let path = named.and_then(|value| value.as_str().or_else(|| value.get("url")?.as_str()));
            let path = path.map(|path| path.strip_prefix("file://").unwrap_or(path));
            match path {
                Some(path) if !path.contains("://") && !path.starts_with("data:") => {
                    let file = file(PathBuf::from(path));
                    *part = json!({"type": KINDS[self::number(&file)].part});
                    files.push(file);
                }
                found => {
                    return Err(Error::recipe(place(), "a part that names no local file")
                        .expected("{\"type\": \"image\", \"path\": \"FILE\"}", found.unwrap_or("no path"))
                        .help("Save the image or sound to a file, and name that."));
                }
            }
        }
    }
    Ok((files, messages))
}
