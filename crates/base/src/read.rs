//! Bounded reading of small files.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use crate::{Error, Result};

/// Reads a whole file of at most `most` bytes. Pipes are accepted, because a user may name one.
///
/// # Errors
/// `Limit` for a longer file, of which at most one byte more than `most` is read; those of [`Error::io`].
pub fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>> {
    let io = |e| Error::io(path.display(), &e);
    read_all(File::open(path).map_err(io)?, path.display(), most)
}

/// As [`read_bounded`], for a file that is named by another file: refuses folders, pipes and devices, which would block
/// the reader or have no end.
///
/// # Errors
/// `Malformed` for anything but a regular file; those of [`read_bounded`].
pub fn read_regular(path: &Path, most: u64) -> Result<Vec<u8>> {
    read_all(open_regular(path)?, path.display(), most)
}

/// Opens a regular file; symlinks are followed.
///
/// # Errors
/// `Malformed` for anything but a regular file; those of [`Error::io`].
pub fn open_regular(path: &Path) -> Result<File> {
    let io = |e| Error::io(path.display(), &e);
    let meta = fs::metadata(path).map_err(io)?;
    if !meta.is_file() {
        let found = if meta.is_dir() { "a folder" } else { "a special file" };
        return Err(Error::malformed(path.display(), "not a regular file").expected("a file", found));
    }
    File::open(path).map_err(io)
}

/// Whether a regular file begins with these bytes.
///
/// # Errors
/// Those of [`open_regular`].
pub fn begins_with(path: &Path, magic: &[u8]) -> Result<bool> {
    let mut start = Vec::new();
    let read = open_regular(path)?.take(magic.len() as u64).read_to_end(&mut start);
    read.map_err(|e| Error::io(path.display(), &e))?;
    Ok(start == magic)
}

/// Reads a text of at most `most` bytes.
///
/// # Errors
/// `Malformed` for anything but UTF-8; those of [`read_bounded`].
pub fn read_text(path: &Path, most: u64) -> Result<String> {
    String::from_utf8(read_bounded(path, most)?)
        .map_err(|e| Error::malformed(path.display(), "not a text in UTF-8").with_source(e.utf8_error()))
}

/// Reads a stream to its end; `place` names it in errors.
///
/// # Errors
/// `Limit` for more than `most` bytes; those of [`Error::io`].
pub fn read_all(from: impl Read, place: impl std::fmt::Display, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One extra byte distinguishes a longer stream from one that just fits.
    from.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| Error::io(&place, &e))?;
    if bytes.len() as u64 > most {
        return Err(
            Error::limit(place, "implausibly large").expected(format!("at most {most} bytes"), "more")
        );
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fault;

    #[test]
    fn what_is_longer_is_refused() {
        let endless = std::io::repeat(b'a');
        let error = read_all(endless, "file", 3).unwrap_err();
        assert_eq!((error.fault(), error.place()), (Fault::Limit, "file"));
        assert_eq!(read_all(&b"abc"[..], "file", 3).unwrap(), b"abc");
        if cfg!(unix) {
            assert_eq!(read_bounded(Path::new("/dev/zero"), 5).unwrap_err().fault(), Fault::Limit);
            assert_eq!(read_regular(Path::new("/dev/zero"), 5).unwrap_err().fault(), Fault::Malformed);
        }
        assert_eq!(
            read_regular(Path::new("/"), 5).unwrap_err().expected_found(),
            Some(("a file", "a folder"))
        );
    }
}
