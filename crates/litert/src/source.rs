//! Bytes that are read at positions: a file, a part of one, or memory.

use std::fs::File;
use std::path::{Path, PathBuf};

use base::Positioned;
use tensor::{Error, Result};

/// Bytes of known length, which any thread may read.
pub trait Source: Send + Sync {
    /// Number of bytes.
    fn len(&self) -> u64;

    /// True if there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// `Malformed` for a range beyond the end; `Io`.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()>;
}

/// Checks that `len` bytes from `offset` on lie within `all` bytes.
pub(crate) fn within(offset: u64, len: u64, all: u64) -> Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= all => Ok(()),
        _ => Err(Error::malformed(format!("byte {offset}"), "a length or an offset leads beyond the end")
            .expected(format!("at most {all} bytes"), format!("{len} bytes from {offset} on"))),
    }
}

impl Source for Vec<u8> {
    fn len(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        within(offset, out.len() as u64, self.len() as u64)?;
        out.copy_from_slice(&self[offset as usize..][..out.len()]);
        Ok(())
    }
}

/// A regular file.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    file: File,
    len: u64,
}

impl FileSource {
    /// Opens a file.
    ///
    /// # Errors
    /// Those of [`base::open_regular`].
    pub fn open(path: &Path) -> Result<FileSource> {
        let file = base::open_regular(path)?;
        let len = file.metadata().map_err(|e| Error::io(path.display(), &e))?.len();
        Ok(FileSource { path: path.to_owned(), file, len })
    }
}

impl Source for FileSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        within(offset, out.len() as u64, self.len)?;
        self.file.read_exact_at(out, offset).map_err(|e| Error::io(self.path.display(), &e))
    }
}

/// A part of another source; its first byte has the position 0.
#[derive(Clone, Copy)]
pub struct SourceRange<'a> {
    whole: &'a dyn Source,
    begin: u64,
    len: u64,
}

impl<'a> SourceRange<'a> {
    /// The bytes of `range`.
    ///
    /// # Errors
    /// `Malformed` for a range beyond the end.
    pub fn new(whole: &'a dyn Source, range: std::ops::Range<u64>) -> Result<SourceRange<'a>> {
        let len = range.end.saturating_sub(range.start);
        within(range.start, len, whole.len())?;
        Ok(SourceRange { whole, begin: range.start, len })
    }
}

impl Source for SourceRange<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        within(offset, out.len() as u64, self.len)?;
        self.whole.read_at(self.begin + offset, out)
    }
}

/// Reads a range as a vector. The caller bounds its length.
pub(crate) fn read(from: &dyn Source, offset: u64, len: u64) -> Result<Vec<u8>> {
    within(offset, len, from.len())?;
    let mut bytes = vec![0; len as usize];
    from.read_at(offset, &mut bytes)?;
    Ok(bytes)
}
