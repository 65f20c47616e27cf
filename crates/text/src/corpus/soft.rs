//! Soft tokens of images and sounds in conversations.
//!
//! The mark of a file is a special token, so the texts around it are tokenized apart. In its place come a begin token, the soft tokens and an
//! end token. None of them is scored, because the model says none of them.

use std::path::Path;

use tensor::{Error, Result};

use super::{Sequence, SoftSpan};
use crate::Tokenizer;
use crate::media::{MediaFile, MediaKind, MediaMark};

/// Encodes an image or a sound, and returns its number of soft tokens.
pub type SoftTokenCount<'a> = dyn FnMut(&MediaFile) -> Result<usize> + 'a;

/// The files that conversations name.
pub(super) struct Files<'f, 'a> {
    /// The folder that relative paths start from: that of the file with the conversations.
    pub(super) folder: &'f Path,
    /// The encoder; `None` where only text is read.
    pub(super) encode: Option<&'f mut SoftTokenCount<'a>>,
    /// The number of files so far in the whole corpus.
    pub(super) number: &'f mut usize,
}

/// Checks that a text has the marks of the files that its conversation names, and that they can be read.
///
/// # Errors
/// `Recipe` for files where only text is read; `Unsupported` for videos; `Malformed` for marks without files.
pub(super) fn check(marks: &[MediaMark], named: &[MediaFile], files: &Files<'_, '_>) -> Result<()> {
    if !marks.iter().map(|mark| mark.kind).eq(named.iter().map(MediaFile::kind)) {
        return Err(Error::malformed(
            "conversation",
            "its text has other places for files than its parts name",
        )
        .expected(format!("{} files in this order", named.len()), format!("{} marks", marks.len()))
        .help("A file is named by a part of a message; its text has no <|image|>, <|audio|> or <|video|>."));
    }
    if let Some(video) = named.iter().find(|file| file.kind() == MediaKind::Video) {
        return Err(Error::unsupported(video.path().display(), "a video in a conversation to verify")
            .help("Name its frames as images."));
    }
    match named.first() {
        Some(first) if files.encode.is_none() => {
            let problem =
                format!("the conversation names {}, and only text is read here", first.path().display());
            Err(Error::recipe("‹text›", problem).help("`verify` reads images and sounds in conversations."))
        }
        _ => Ok(()),
    }
}

/// Puts soft tokens in the places of files, which are positions of the sequence.
///
/// # Errors
/// Those of the encoder.
pub(super) fn expand(
    sequence: Sequence,
    places: &[usize],
    named: &[MediaFile],
    tokenizer: &Tokenizer,
    files: &mut Files<'_, '_>,
) -> Result<Sequence> {
    let Some(encode) = &mut files.encode else { return Ok(sequence) };
    let mut waiting = places.iter().zip(named).peekable();
    let mut scored = sequence.scored.iter().copied().peekable();
    let mut expanded = Sequence::default();
    for (position, &token) in sequence.tokens.iter().enumerate() {
        let Some((_, file)) = waiting.next_if(|(place, _)| **place == position) else {
            if scored.next_if_eq(&position).is_some() {
                expanded.scored.push(expanded.tokens.len());
            }
            expanded.tokens.push(token);
            continue;
        };
        let [begin, end] = file.kind().around();
        let count = encode(&file.clone().from_folder(files.folder))?;
        expanded.tokens.extend(tokenizer.encode(begin, false, true)?);
        let start = expanded.tokens.len();
        expanded.tokens.resize(start + count, token);
        expanded.tokens.extend(tokenizer.encode(end, false, true)?);
        let is_image = file.kind() == MediaKind::Image;
        expanded.media.push(SoftSpan { positions: start..start + count, file: *files.number, is_image });
        *files.number += 1;
    }
    Ok(expanded)
}
