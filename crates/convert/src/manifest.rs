//! The manifest on disk: read before a run, replaced atomically after it.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use base::OutputFile;
use plan::{FileEntry, MAX_MANIFEST, Manifest};
use tensor::{Error, Fault, Result};

/// Reads a manifest; an empty one if the file does not exist.
///
/// # Errors
/// `Target` for a file that is not a manifest of this tool or cannot be read.
pub(crate) fn read(path: &Path) -> Result<Manifest> {
    if path.symlink_metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
        return Ok(Manifest::default());
    }
    let read = base::read_regular(path, MAX_MANIFEST).and_then(|bytes| Manifest::parse(&bytes));
    read.map_err(|e| {
        e.moved(Fault::Target, path.display()).help("Choose another target folder, or move the file away.")
    })
}

/// Size and SHA-256 of a file outside the checkpoint. The entry's name is the path as given, with `/`.
///
/// # Errors
/// `Malformed` if there is no such file; `Io`.
pub fn file_entry(path: &Path) -> Result<FileEntry> {
    let io = |e| Error::io(path.display(), &e);
    let file = File::open(path).map_err(io)?;
    let (bytes, sha256) = base::sha256(file, &|_| ()).map_err(io)?;
    Ok(FileEntry { name: base::with_slashes(path), bytes, sha256, ..FileEntry::default() })
}

/// Writes a manifest to a temporary file beside `path`, so that only the renaming is left.
///
/// # Errors
/// `Target` if it cannot be written.
pub(crate) fn stage(manifest: &Manifest, path: &Path) -> Result<OutputFile> {
    let mut text = serde_json::to_vec_pretty(manifest).map_err(|e| Error::target(path.display(), e))?;
    text.push(b'\n');
    let mut output = OutputFile::create(path)?;
    output.write_all(&text).map_err(|e| output.fail(&e))?;
    output.sync()?;
    Ok(output)
}
