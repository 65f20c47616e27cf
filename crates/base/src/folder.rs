//! A temporary folder of one run.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::output::PARTIAL;
use crate::unfinished::{self, Listed};
use crate::{Error, Result};

/// The file that is locked while the folder is in use, and by which a later run knows whose the folder was.
const LOCK: &str = ".gemma-convert.lock";

/// A folder that no other run uses. It goes, with all that is in it, when this is dropped.
#[derive(Debug)]
pub struct WorkFolder {
    path: PathBuf,
    /// Locked.
    _lock: File,
    _listed: Listed,
}

impl WorkFolder {
    /// Makes a new folder in `parent`, which is made if it is not there. Its name begins with `name` and ends in `.partial`.
    /// Those of the same name that killed runs have left are removed; nothing else is.
    ///
    /// # Errors
    /// `Target`.
    pub fn create(parent: &Path, name: &str) -> Result<WorkFolder> {
        fs::create_dir_all(parent).map_err(|e| Error::write(parent.display(), &e))?;
        remove_leftovers(parent, name);
        let (lock, path, listed) = unfinished::folder(|| make(parent, name))?;
        Ok(WorkFolder { path, _lock: lock, _listed: listed })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path); // nothing more can be done about it
    }
}

fn make(parent: &Path, name: &str) -> Result<(File, PathBuf)> {
    let mut number = 0;
    loop {
        let path = parent.join(format!("{name}.{}-{number}{PARTIAL}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => {
                let fail = |e: std::io::Error| Error::write(path.display(), &e);
                let lock = File::create_new(path.join(LOCK)).map_err(fail)?;
                lock.lock().map_err(fail)?;
                return Ok((lock, path));
            }
            // of a process of this number in another container, or of an earlier call
            Err(e) if e.kind() == ErrorKind::AlreadyExists && number < 10_000 => number += 1,
            Err(e) => return Err(Error::write(path.display(), &e)),
        }
    }
}

/// Removes folders whose lock file nobody holds any more. A folder without one is not ours, or is just being made.
fn remove_leftovers(parent: &Path, name: &str) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let file_name = entry.file_name();
        let Some(file_name) = file_name.to_str() else { continue };
        let of_this_name = file_name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !(of_this_name && file_name.ends_with(PARTIAL) && is_folder) {
            continue;
        }
        if let Ok(lock) = File::open(entry.path().join(LOCK))
            && lock.try_lock().is_ok()
        {
            // nobody is told: what cannot be removed does no harm but for its size
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
