//! Images, sounds and videos in messages and texts.
//!
//! A message names a file in a part of its content. A chat template writes a mark in its place, and the model reads a begin token, soft tokens
//! and an end token there. Sources: `processing_gemma4.py` of huggingface/transformers, `tools/mtmd/mtmd.cpp` of ggml-org/llama.cpp.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tensor::{Error, Result};

/// A file of a prompt or a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaFile {
    /// PNG, JPEG or WebP.
    Image(PathBuf),
    /// WAV, FLAC, MP3 or Ogg/Vorbis.
    Sound(PathBuf),
    /// A folder of images, or a file for an installed ffmpeg.
    Video(PathBuf),
}

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaKind {
    /// An image.
    Image,
    /// A sound.
    Sound,
    /// A video: frames, each with its time as text.
    Video,
}

impl MediaFile {
    /// The path of the file.
    pub fn path(&self) -> &Path {
        let (MediaFile::Image(path) | MediaFile::Sound(path) | MediaFile::Video(path)) = self;
        path
    }

    /// The kind of the file.
    pub fn kind(&self) -> MediaKind {
        match self {
            MediaFile::Image(_) => MediaKind::Image,
            MediaFile::Sound(_) => MediaKind::Sound,
            MediaFile::Video(_) => MediaKind::Video,
        }
    }

    /// The same file, by its path from `folder` if the path is relative.
    #[must_use]
    pub fn from_folder(self, folder: &Path) -> MediaFile {
        match self {
            MediaFile::Image(path) => MediaFile::Image(folder.join(path)),
            MediaFile::Sound(path) => MediaFile::Sound(folder.join(path)),
            MediaFile::Video(path) => MediaFile::Video(folder.join(path)),
        }
    }
}

impl MediaKind {
    /// All kinds.
    pub const ALL: [MediaKind; 3] = [MediaKind::Image, MediaKind::Sound, MediaKind::Video];

    /// The type of its parts in a message.
    pub fn part(self) -> &'static str {
        match self {
            MediaKind::Image => "image",
            MediaKind::Sound => "audio",
            MediaKind::Video => "video",
        }
    }

    /// Its mark in a text: one special token.
    pub fn mark(self) -> &'static str {
        match self {
            MediaKind::Image => "<|image|>",
            MediaKind::Sound => "<|audio|>",
            MediaKind::Video => "<|video|>",
        }
    }

    /// The tokens before and after its soft tokens; those of an image stand around each frame of a video.
    pub fn around(self) -> [&'static str; 2] {
        match self {
            MediaKind::Image | MediaKind::Video => ["<|image>", "<image|>"],
            MediaKind::Sound => ["<|audio>", "<audio|>"],
        }
    }
}

/// A mark in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaMark {
    /// The first byte of the mark.
    pub start: usize,
    /// The byte after the mark.
    pub end: usize,
    /// The kind of file.
    pub kind: MediaKind,
}

impl MediaMark {
    /// The marks of a text, in order.
    pub fn all(text: &str) -> Vec<MediaMark> {
        let of_kind = |kind: MediaKind| {
            let mark = move |(start, mark): (usize, &str)| MediaMark { start, end: start + mark.len(), kind };
            text.match_indices(kind.mark()).map(mark)
        };
        let mut all: Vec<_> = MediaKind::ALL.into_iter().flat_map(of_kind).collect();
        all.sort_by_key(|mark| mark.start);
        all
    }
}

/// The files that parts of messages name, in order, and the messages with such parts in the form that chat templates know.
///
/// # Errors
/// `Recipe` for a part without a file, for a file that is not local, and for files beside a text that holds a mark itself.
pub fn media_of(messages: &[Value]) -> Result<(Vec<MediaFile>, Vec<Value>)> {
    let mut messages = messages.to_vec();
    let mut files = Vec::new();
    for (number, message) in messages.iter_mut().enumerate() {
        let place = || format!("‹messages›: message {}", number + 1);
        let content = message.get_mut("content").and_then(Value::as_array_mut);
        for part in content.into_iter().flatten() {
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
                    *part = json!({"type": file.kind().part()});
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
    if !files.is_empty() {
        check_texts(&messages)?;
    }
    Ok((files, messages))
}

/// The marks in the texts of a message.
pub fn marks_of_message(message: &Value) -> Vec<MediaMark> {
    let content = &message["content"];
    let parts = content.as_array().into_iter().flatten().filter_map(|part| part["text"].as_str());
    content.as_str().into_iter().chain(parts).flat_map(MediaMark::all).collect()
}

/// Refuses a text with a mark, which would take the place of a file.
fn check_texts(messages: &[Value]) -> Result<()> {
    for (number, message) in messages.iter().enumerate() {
        if let Some(mark) = marks_of_message(message).first() {
            return Err(Error::recipe(
                format!("‹messages›: message {}", number + 1),
                "a text with the mark of a file, in a conversation that names files as parts",
            )
            .expected(format!("no {}", mark.kind.mark()), "one")
            .help("Write the mark in another way; a part is the place of its file."));
        }
    }
    Ok(())
}

/// The text of messages with the marks of `files` files. A template that knows no parts of messages gets them as text.
///
/// # Errors
/// Those of `render`.
pub fn with_marks(
    messages: &[Value],
    files: usize,
    render: impl Fn(&[Value]) -> Result<String>,
) -> Result<String> {
    let text = render(messages)?;
    if MediaMark::all(&text).len() < files { render(&flattened(messages)) } else { Ok(text) }
}

/// Messages whose parts are one text, with a mark for each file.
fn flattened(messages: &[Value]) -> Vec<Value> {
    let mut messages = messages.to_vec();
    for message in &mut messages {
        let Some(parts) = message["content"].as_array() else { continue };
        let text = parts.iter().map(|part| {
            let mark =
                MediaKind::ALL.into_iter().find(|kind| part["type"] == kind.part()).map(MediaKind::mark);
            mark.unwrap_or_else(|| part["text"].as_str().unwrap_or_default().trim()).to_owned()
        });
        message["content"] = text.collect::<String>().into();
    }
    messages
}
