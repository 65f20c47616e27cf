//! Appends text to a file, such as the summary of a CI job.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::kind::not_text;
use crate::output::{is_folder, is_stream};
use crate::system::own_stream;
use crate::{Error, Result};

/// A file to which a text will be appended. Links are followed; devices and pipes are written directly.
#[derive(Debug)]
pub struct AppendedFile {
    path: PathBuf,
    file: File,
}

impl AppendedFile {
    /// Opens the file, or creates an empty one.
    ///
    /// # Errors
    /// `Target` for a folder, for a file that is not text and for failed system calls. With `force`, any file is
    /// accepted.
    pub fn open(path: &Path, force: bool) -> Result<AppendedFile> {
        let fail = |e: std::io::Error| Error::write(path.display(), &e);
        if path.is_dir() {
            return Err(is_folder(path));
        }
        if is_stream(path) {
            let file = match own_stream(path) {
                Some(file) => file,
                None => OpenOptions::new().write(true).open(path).map_err(fail)?,
            };
            return Ok(AppendedFile { path: path.to_owned(), file });
        }
        match not_text(path) {
            Ok(Some(found)) if !force => {
                return Err(Error::target(path.display(), "a text cannot be added to this file")
                    .expected("no file, or Markdown", found)
                    .help("Choose another name."));
            }
            Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                return Err(fail(e));
            }
            _ => {}
        }
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(fail)?;
        Ok(AppendedFile { path: path.to_owned(), file })
    }

    /// Appends the text. If a regular file cannot take all of it, nothing is appended.
    ///
    /// # Errors
    /// `Target`.
    pub fn append(mut self, text: &str) -> Result<()> {
        let fail = |e: std::io::Error| Error::write(self.path.display(), &e);
        let regular = self.file.metadata().is_ok_and(|found| found.is_file());
        // another run may be appending too; if the file cannot be locked, a single write suffices
        let before = (regular && self.file.lock().is_ok()).then(|| self.file.metadata().map(|m| m.len()));
        self.file.write_all(text.as_bytes()).map_err(|e| {
            if let Some(Ok(before)) = before {
                let _ = self.file.set_len(before); // the first error is reported
            }
            fail(e)
        })
    }
}
