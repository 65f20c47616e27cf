//! Recognises the kind of a file from its first bytes, so that a mistyped command does not replace a model by a report.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::{Error, Result};

/// Number of bytes that are read.
const LOOK: usize = 4096;

/// Marks the pages that this tool writes; part of their first bytes.
pub const GENERATOR: &str = "<meta name=\"generator\" content=\"gemma-convert\">";

/// The key that marks a GGUF file as a layer of a calibration store. It is the first key of the file.
pub const STORE_KEY: &str = "gemma-convert.calibration.id";

/// A kind of file that may be replaced by another of the same kind without confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A report in JSON.
    Report,
    /// A report as a web page.
    Page,
    /// Base logits of llama-perplexity.
    Logits,
    /// A layer of a calibration store.
    StoredLayer,
}

impl FileKind {
    /// Name of the kind, for messages.
    pub const fn name(self) -> &'static str {
        match self {
            FileKind::Report => "a JSON report of gemma-convert",
            FileKind::Page => "an HTML report of gemma-convert",
            FileKind::Logits => "a file of base logits",
            FileKind::StoredLayer => "a layer of a calibration store",
        }
    }

    /// True if a file that begins with `start` is of this kind.
    fn is(self, start: &[u8]) -> bool {
        let trimmed = start.trim_ascii_start();
        match self {
            FileKind::Report => {
                trimmed.starts_with(b"{")
                    && holds(trimmed, b"\"schema\"")
                    && holds(trimmed, b"\"tool\": \"gemma-convert ")
            }
            FileKind::Page => is_page(trimmed) && holds(trimmed, GENERATOR.as_bytes()),
            FileKind::Logits => start.starts_with(b"_logits_"),
            FileKind::StoredLayer => start.starts_with(b"GGUF") && holds(start, STORE_KEY.as_bytes()),
        }
    }

    /// Checks if the file at `path` may be replaced by one of this kind: it is of this kind, or empty. Otherwise
    /// returns its kind. Links are followed.
    ///
    /// # Errors
    /// Those of the system, also for a missing file.
    pub(crate) fn may_replace(self, path: &Path) -> io::Result<Result<(), &'static str>> {
        let start = start(path)?;
        Ok(if start.is_empty() || self.is(&start) { Ok(()) } else { Err(describe(&start)) })
    }
}

/// The kind of a file to which no text can be appended; `None` for text files and empty files.
///
/// # Errors
/// Those of the system.
pub(crate) fn not_text(path: &Path) -> io::Result<Option<&'static str>> {
    let start = start(path)?;
    let trimmed = start.trim_ascii_start();
    let other = start.starts_with(b"GGUF") || start.starts_with(b"_logits_") || start.contains(&0);
    Ok((other || trimmed.starts_with(b"{") || is_page(trimmed)).then(|| describe(&start)))
}

fn start(path: &Path) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(LOOK);
    File::open(path)?.take(LOOK as u64).read_to_end(&mut start)?;
    Ok(start)
}

/// A model file of another runtime: its kind, and what can be done with it. Sources: the headers of LiteRT-LM's and TFLite's files;
/// a `.task` file of MediaPipe is a zip archive of parts with fixed names, or a TFLite file of its own layout.
fn foreign_model(start: &[u8]) -> Option<(&'static str, &'static str)> {
    let own_format = "MediaPipe and the runtime for the web have formats of their own. Use a .litertlm file for phones and desktops.";
    if start.starts_with(b"LITERTLM") {
        return Some(match holds(start, b"artisan") {
            true => ("a bundle of LiteRT-LM for the web", own_format),
            false => (
                "a bundle of LiteRT-LM",
                "`inspect` lists its contents, `verify` compares it with its checkpoint, and ‹bundle› of `convert` puts weights into it.",
            ),
        });
    }
    if start.get(4..8) == Some(b"TFL3") {
        return Some(("a TFLite model", own_format));
    }
    let is_task =
        |start: &[u8]| [b"TF_LITE_".as_slice(), b"TOKENIZER_MODEL"].iter().any(|part| holds(start, part));
    (start.starts_with(b"PK\x03\x04") && is_task(start)).then_some(("a .task file of MediaPipe", own_format))
}

/// Refuses a model file of LiteRT-LM or MediaPipe, where a checkpoint or a GGUF is expected.
///
/// # Errors
/// `Unsupported`, with the kind of the file. Files that cannot be read pass.
pub fn refuse_foreign_model(path: &Path) -> Result<()> {
    let start = if path.is_file() { start(path).unwrap_or_default() } else { Vec::new() };
    match foreign_model(&start) {
        Some((kind, help)) => Err(Error::unsupported(path.display(), "not a model that this command reads")
            .expected("a checkpoint folder or a GGUF file", kind)
            .help(help)),
        None => Ok(()),
    }
}

/// Names the kind of a file that begins with `start`, as far as known.
fn describe(start: &[u8]) -> &'static str {
    let trimmed = start.trim_ascii_start();
    let length = start.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    for kind in [FileKind::Report, FileKind::Page, FileKind::Logits, FileKind::StoredLayer] {
        if kind.is(start) {
            return kind.name();
        }
    }
    if let Some((kind, _)) = foreign_model(start) {
        return kind;
    }
    match start {
        _ if start.starts_with(b"GGUF") => "a GGUF file",
        _ if start.get(8) == Some(&b'{') && length < 1 << 27 => "a safetensors file",
        _ if trimmed.starts_with(b"{") && holds(trimmed, b"\"artifacts\"") => "a manifest",
        _ if trimmed.starts_with(b"{") || trimmed.starts_with(b"[") => "JSON of another kind",
        _ if is_page(trimmed) => "another web page",
        _ if start.contains(&0) => "binary data",
        _ => "another text",
    }
}

fn is_page(trimmed: &[u8]) -> bool {
    let begins = |with: &[u8]| trimmed.get(..with.len()).is_some_and(|t| t.eq_ignore_ascii_case(with));
    begins(b"<!doctype html") || begins(b"<html")
}

fn holds(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        let report = "{\n  \"schema\": 1,\n  \"tool\": \"gemma-convert 0.1.0\",\n";
        let page = format!("<!doctype html>\n<html lang=\"en\">{GENERATOR}");
        let layer = [b"GGUF\x03\0\0\0".as_slice(), &[0; 24], STORE_KEY.as_bytes()].concat();
        let safetensors = [60u64.to_le_bytes().as_slice(), b"{\"x\":{}}"].concat();
        let web = b"LITERTLM\x01\0\0\0 tf_lite_artisan_text_decoder";
        let files: [(&[u8], &str); 15] = [
            (report.as_bytes(), FileKind::Report.name()),
            (page.as_bytes(), FileKind::Page.name()),
            (b"_logits_\0\0", FileKind::Logits.name()),
            (&layer, FileKind::StoredLayer.name()),
            (b"GGUF\x03\0\0\0", "a GGUF file"),
            (&safetensors, "a safetensors file"),
            (b"{\"artifacts\": []}", "a manifest"),
            (b"{\"schema\": 1}", "JSON of another kind"),
            (b"<HTML>mine</HTML>", "another web page"),
            (b"a note to myself\n", "another text"),
            (b"LITERTLM\x01\0\0\0", "a bundle of LiteRT-LM"),
            (web, "a bundle of LiteRT-LM for the web"),
            (b"\x1c\0\0\0TFL3\0\0", "a TFLite model"),
            (b"PK\x03\x04\0\0TF_LITE_PREFILL_DECODE\0", "a .task file of MediaPipe"),
            (b"PK\x03\x04\0\0photo.jpg\0", "binary data"),
        ];
        for (start, name) in files {
            assert_eq!(describe(start), name);
        }
    }
}
