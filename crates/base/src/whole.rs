//! Files that are there whole or not at all.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::{Error, Result};

/// Writes a file under another name beside it, and gives it its own when everything is on the disk. Nothing is left of one that
/// fails.
///
/// # Errors
/// `Target` for what `write` or the system says.
pub fn write_whole(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let written = File::create(&partial).and_then(|mut file| {
        write(&mut file)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&partial, path)).map_err(|e| {
        // whatever is left of it is of no use
        let _ = fs::remove_file(&partial);
        Error::write(path.display(), &e)
    })
}
