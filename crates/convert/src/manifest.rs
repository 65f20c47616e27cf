//! The manifest on disk: read before a run, replaced in one step after it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use plan::{FileEntry, Manifest};
use sha2::{Digest, Sha256};
use tensor::{Error, Result};

/// Reads a manifest; empty if there is none.
///
/// # Errors
/// `Target` when there is a file that is no manifest of this tool, or that cannot be read.
pub(crate) fn read(path: &Path) -> Result<Manifest> {
    match fs::read(path) {
        Ok(bytes) => Manifest::parse(&bytes).map_err(|e| {
            Error::target(path.display(), e.problem())
                .help("Choose another target folder, or move the file away.")
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Manifest::default()),
        Err(e) => Err(Error::write(path.display(), &e)),
    }
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
pub(crate) fn stage(manifest: &Manifest, path: &Path) -> Result<Staged> {
    let mut text = serde_json::to_vec_pretty(manifest).map_err(|e| Error::target(path.display(), e))?;
    text.push(b'\n');
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let staged = Staged { partial: partial.into(), path: path.to_owned() };
    let mut file = File::create(&staged.partial).map_err(|e| staged.fail(&e))?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(|e| staged.fail(&e))?;
    Ok(staged)
}

/// A manifest on disk without its name. Dropped, it leaves nothing behind.
pub(crate) struct Staged {
    partial: PathBuf,
    path: PathBuf,
}

impl Staged {
    fn fail(&self, error: &std::io::Error) -> Error {
        Error::write(self.path.display(), error)
    }

    /// Puts it in the place of an older one, in one step.
    pub(crate) fn publish(self) -> Result<()> {
        fs::rename(&self.partial, &self.path).map_err(|e| self.fail(&e))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // not there any more when it was published
        let _ = fs::remove_file(&self.partial);
    }
}
