//! Reads small text and JSON files whole, with errors that name file, line and column.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use serde::de::DeserializeOwned;
use tensor::{Error, Result};

/// Maximum size in bytes of a JSON or text file beside the weights. Parsed JSON takes up to 40 times its size in
/// memory. Gemma's `tokenizer_config.json` has 1.2 MB.
pub(crate) const MAX_TEXT: u64 = 8 << 20;
/// Maximum size in bytes of `tokenizer.json`, which is stored in fewer and larger allocations; Gemma's has 32 MB.
pub(crate) const MAX_TOKENIZER: u64 = 80 << 20;

/// Opens the regular file at `path`, following symlinks, with its metadata. `None` if it does not exist.
///
/// # Errors
/// `Malformed` for a dangling link or something that is not a file (a pipe would block the reader forever).
pub(crate) fn open(path: &Path) -> Result<Option<(File, fs::Metadata)>> {
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return match fs::read_link(path) {
                Ok(to) => Err(Error::malformed(path.display(), "a link to a file that does not exist")
                    .expected("a file", to.display())
                    .help("the download is incomplete: fetch the model again")),
                Err(_) => Ok(None),
            };
        }
        Err(error) => return Err(Error::io(path.display(), &error)),
    };
    if !meta.is_file() {
        let found = if meta.is_dir() { "a folder" } else { "a special file" };
        return Err(Error::malformed(path.display(), "not a regular file").expected("a file", found));
    }
    let file = File::open(path).map_err(|e| Error::io(path.display(), &e))?;
    let meta = file.metadata().map_err(|e| Error::io(path.display(), &e))?;
    Ok(Some((file, meta)))
}

/// The UTF-8 text of a file of at most [`MAX_TEXT`] bytes, `None` if it does not exist.
pub(crate) fn text(path: &Path) -> Result<Option<String>> {
    text_of(path, MAX_TEXT)
}

/// As [`text`], for a file of at most `most` bytes.
pub(crate) fn text_of(path: &Path, most: u64) -> Result<Option<String>> {
    let Some((file, meta)) = open(path)? else { return Ok(None) };
    if meta.len() > most {
        return Err(Error::limit(path.display(), "the file is too large")
            .expected(format!("at most {most} bytes"), meta.len()));
    }
    let bytes = base::read_all(file, path.display(), most)?;
    if let Some((found, help)) = not_the_file(&bytes) {
        return Err(Error::malformed(path.display(), "a placeholder instead of the file")
            .expected("the file itself", found)
            .help(help));
    }
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|&&b| b == b'\n').count();
        Error::malformed(format!("{}:{line}", path.display()), "not UTF-8 text")
    })
}

/// Recognises a placeholder left by a failed download: its kind, and the remedy.
pub(crate) fn not_the_file(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    let text = bytes.trim_ascii_start();
    let starts = |with: &[u8]| text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    if starts(b"version https://git-lfs") {
        Some(("a git-lfs pointer", "this is a git-lfs pointer: run `git lfs pull` in the folder"))
    } else if starts(b"<!doctype html") || starts(b"<html") {
        Some((
            "a web page",
            "the download got an HTML page, perhaps a login or an error: fetch the file again",
        ))
    } else {
        None
    }
}

/// As [`text`], with line ends as Python's text mode reads them: `\r\n` and `\r` become `\n`.
pub(crate) fn text_lf(path: &Path) -> Result<Option<String>> {
    Ok(text(path)?
        .map(|text| if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text }))
}

/// The content of a JSON file, `None` if it does not exist.
pub(crate) fn json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(text) = text(path)? else { return Ok(None) };
    begins_as_json(path, &text)?;
    serde_json::from_str(&text).map(Some).map_err(|e| match not_finite(&text, &e) {
        Some((key, value)) => {
            Error::malformed(format!("{}:{}: {key}", path.display(), e.line()), "not a finite number")
                .expected("a JSON number within the range of f64", value)
        }
        None => json_error(path.display(), &e),
    })
}

/// Checks that a file is not empty and has no byte order mark.
pub(crate) fn begins_as_json(path: &Path, text: &str) -> Result<()> {
    if text.trim().is_empty() {
        return Err(Error::malformed(path.display(), "the file is empty").help("Fetch it again."));
    }
    if text.starts_with('\u{feff}') {
        return Err(Error::malformed(
            path.display(),
            "begins with a byte order mark, which JSON does not have",
        )
        .help("Save it as UTF-8 without one."));
    }
    Ok(())
}

/// The content of a JSON file that holds an object, `None` if it does not exist.
pub(crate) fn object(path: &Path) -> Result<Option<serde_json::Value>> {
    match json::<serde_json::Value>(path)? {
        Some(json) if !json.is_object() => {
            let kind = if json.is_array() { "a list" } else { "another value" };
            Err(Error::malformed(path.display(), "not a JSON object").expected("an object", kind))
        }
        json => Ok(json),
    }
}

/// Key and text of a number that is invalid in JSON: Python writes `NaN` and `Infinity`, and `1e999` is beyond f64.
fn not_finite<'t>(text: &'t str, error: &serde_json::Error) -> Option<(&'t str, &'t str)> {
    let line = text.split_inclusive('\n').take(error.line().checked_sub(1)?).map(str::len).sum::<usize>();
    let at = line + error.column().checked_sub(1)?;
    let is_of_number = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let before = text.get(..at)?;
    let start = before.trim_end_matches(is_of_number).len();
    let value = text[start..].split(|c| !is_of_number(c)).next()?;
    let number = value.trim_start_matches('-');
    let begins = |c: char| c.is_ascii_digit() && value.parse::<f64>().is_ok_and(|value| !value.is_finite());
    if !matches!(number, "NaN" | "Infinity") && !number.starts_with(begins) {
        return None;
    }
    let (key, between) = text[..start].rsplit_once(':')?;
    let is_of_list = |c: char| is_of_number(c) || c.is_ascii_whitespace() || matches!(c, '[' | ',');
    let key = key.trim_end().strip_suffix('"')?.rsplit('"').next()?;
    between.chars().all(is_of_list).then_some((key, value))
}

/// An error at `file:line:column` with serde's message.
pub(crate) fn json_error(place: impl std::fmt::Display, error: &serde_json::Error) -> Error {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let problem = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text);
    Error::malformed(format!("{place}:{line}:{column}"), problem)
}

/// Names and sizes in bytes of the regular files in `dir` and its direct subfolders, links followed, sorted. Omits
/// hidden names, names that are not UTF-8, and files whose metadata cannot be read.
pub(crate) fn list(dir: &Path) -> Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    let mut folders = vec![(dir.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|e| Error::io(folder.display(), &e))? {
            let entry = entry.map_err(|e| Error::io(folder.display(), &e))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let Ok(meta) = fs::metadata(entry.path()) else { continue };
            if name.starts_with('.') {
                continue;
            }
            if meta.is_file() {
                found.push((format!("{prefix}{name}"), meta.len()));
            } else if meta.is_dir() && prefix.is_empty() {
                folders.push((entry.path(), format!("{name}/")));
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}
