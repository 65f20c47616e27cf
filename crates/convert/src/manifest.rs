//! The manifest on disk: read before a run, replaced in one step after it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use base::OutputFile;
use plan::{FileEntry, MAX_MANIFEST, Manifest};
use sha2::{Digest, Sha256};
use tensor::{Error, Fault, Result};

/// Reads a manifest; empty if there is none.
///
/// # Errors
/// `Target` when there is a file that is no manifest of this tool, or that cannot be read.
pub(crate) fn read(path: &Path) -> Result<Manifest> {
    if path.symlink_metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
        return Ok(Manifest::default());
    }
    let read = base::read_regular(path, MAX_MANIFEST).and_then(|bytes| Manifest::parse(&bytes));
    read.map_err(|e| {
        e.moved(Fault::Target, path.display()).help("Choose another target folder, or move the file away.")
    })
}

/// Size and SHA-256 of a file that is not of the checkpoint, by the path that was given.
///
/// # Errors
/// `Malformed` without such a file, `Io`.
pub fn file_entry(path: &Path) -> Result<FileEntry> {
    let io = |e| Error::io(path.display(), &e);
    let mut file = File::open(path).map_err(io)?;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let count = file.read(&mut buffer).map_err(io)?;
        if count == 0 {
            return Ok(FileEntry {
                name: path.display().to_string(),
                bytes,
                sha256: plan::hex(&hash.finalize()),
            });
        }
        hash.update(&buffer[..count]);
        bytes += count as u64;
    }
}

/// Writes a manifest beside `path`, so that nothing but a change of names is left to do.
///
/// # Errors
/// `Target`.
pub(crate) fn stage(manifest: &Manifest, path: &Path) -> Result<OutputFile> {
    let mut text = serde_json::to_vec_pretty(manifest).map_err(|e| Error::target(path.display(), e))?;
    text.push(b'\n');
    let mut output = OutputFile::create(path)?;
    output.write_all(&text).map_err(|e| output.fail(&e))?;
    output.sync()?;
    Ok(output)
}
