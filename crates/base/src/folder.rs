//! A temporary folder of one run.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::output::PARTIAL;
use crate::unfinished::{self, Listed};
use crate::{Error, Result};

/// The file that is locked while the folder is in use, and marks it as a folder of this tool.
pub(crate) const LOCK: &str = ".gemma-convert.lock";

/// A folder for one run. It is removed with its contents on drop.
#[derive(Debug)]
pub struct WorkFolder {
    path: PathBuf,
    /// Locked until drop.
    lock: Option<File>,
    _listed: Listed,
}

impl WorkFolder {
    /// Creates a new folder in `parent`, which is created if missing. Its name begins with `name` and ends in
    /// `.partial`. Folders of the same name left by killed runs are removed; nothing else is.
    ///
    /// # Errors
    /// `Target`.
    pub fn create(parent: &Path, name: &str) -> Result<WorkFolder> {
        fs::create_dir_all(parent).map_err(|e| Error::write(parent.display(), &e))?;
        remove_leftovers(parent, name);
        let (lock, path, listed) = unfinished::folder(|| make(parent, name))?;
        Ok(WorkFolder { path, lock: Some(lock), _listed: listed })
    }

    /// Path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        // Windows removes no folder with an open file in it
        drop(self.lock.take());
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
            // taken by a process with the same id in another container, or by an earlier call
            Err(e) if e.kind() == ErrorKind::AlreadyExists && number < 10_000 => number += 1,
            Err(e) => return Err(Error::write(path.display(), &e)),
        }
    }
}

/// Removes folders whose lock file is not locked. A folder without lock file is not ours, or is just being created.
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
        let unlocked = File::open(entry.path().join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
        if unlocked {
            // errors are ignored: a leftover only takes space
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
