//! Several files that get their names together, or not at all.
//!
//! A rename can fail in the middle: a file that may not be touched, a mount point. What was there before is therefore kept
//! under another name until all is done, and put back if it is not.
//!
//! A process can also be killed in the middle. So that nobody then takes files of two runs for one model, each set has a head
//! without which no reader opens it (`config.json`, the first part of a split): its old file leaves first, its new one comes
//! last.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::RwLockReadGuard;

use crate::output::{OutputFile, is_folder, sync_folder, with_suffix};
use crate::unfinished;
use crate::{Error, Result};

/// What follows the name of a file that is being replaced.
pub const OLD: &str = ".old.partial";

/// Files that get their names together. Dropped before [`commit`](Self::commit), everything is as it was before.
#[derive(Debug)]
pub struct Publication {
    done: Vec<Step>,
    _whole: RwLockReadGuard<'static, ()>,
}

#[derive(Debug)]
enum Step {
    /// The old file has another name, and may have its own too.
    Kept { path: PathBuf, old: PathBuf },
    /// A new file has its name.
    Placed { path: PathBuf },
}

impl Publication {
    /// Begins one. An interruption waits for its end.
    #[expect(clippy::new_without_default, reason = "it takes a lock")]
    pub fn new() -> Publication {
        Publication { done: Vec::new(), _whole: unfinished::publishing() }
    }

    /// Takes the name from a file that is to be replaced later. Nothing happens where there is none.
    ///
    /// # Errors
    /// `Target`; everything is as it was before.
    pub fn set_aside(&mut self, path: &Path) -> Result<()> {
        match path.symlink_metadata() {
            Ok(found) if found.is_dir() => return Err(self.undo(is_folder(path))),
            Ok(_) => {}
            Err(_) => return Ok(()),
        }
        let old = self.free_name(path)?;
        fs::rename(path, &old).map_err(|e| self.undo(Error::write(path.display(), &e)))?;
        self.done.push(Step::Kept { path: path.to_owned(), old });
        Ok(())
    }

    /// Gives a file its name.
    ///
    /// # Errors
    /// `Target`; everything is as it was before.
    pub fn place(&mut self, mut file: OutputFile) -> Result<()> {
        let path = file.path().to_owned();
        if path.symlink_metadata().is_ok_and(|found| !found.is_dir()) && !self.keeps(&path) {
            let old = self.free_name(&path)?;
            // a second name, so that there is always a file of the first; not every file system can do that
            fs::hard_link(&path, &old)
                .or_else(|_| fs::rename(&path, &old))
                .map_err(|e| self.undo(Error::write(path.display(), &e)))?;
            self.done.push(Step::Kept { path: path.clone(), old });
        }
        file.rename().map_err(|e| self.undo(e))?;
        self.done.push(Step::Placed { path });
        Ok(())
    }

    /// Ends it: the old files go.
    ///
    /// # Errors
    /// `Target` when the names cannot be put on the disk. All files have their names then.
    pub fn commit(mut self, sync: bool) -> Result<()> {
        let done = std::mem::take(&mut self.done);
        let mut folders: Vec<&Path> = Vec::new();
        let mut synced = Ok(());
        for step in &done {
            if let Step::Placed { path } = step
                && sync
                && !folders.iter().any(|folder| Some(*folder) == path.parent())
            {
                synced = synced.and(sync_folder(path));
                folders.extend(path.parent());
            }
        }
        for step in &done {
            match step {
                // the files are whole; one that is left over is in nobody's way, and the next run takes it
                Step::Kept { old, .. } => drop(fs::remove_file(old)),
                Step::Placed { path } => drop(fs::remove_file(with_suffix(path, OLD))),
            }
        }
        synced
    }

    fn keeps(&self, path: &Path) -> bool {
        self.done.iter().any(|step| matches!(step, Step::Kept { path: kept, .. } if kept == path))
    }

    /// The name for an old file. One that a killed run has left is older than what has the name now.
    fn free_name(&mut self, path: &Path) -> Result<PathBuf> {
        let old = with_suffix(path, OLD);
        match fs::remove_file(&old) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(self.undo(Error::write(old.display(), &e)))
            }
            _ => Ok(old),
        }
    }

    /// Takes back what is done, and adds to the error what could not be.
    fn undo(&mut self, error: Error) -> Error {
        let mut stuck = Vec::new();
        for step in std::mem::take(&mut self.done).into_iter().rev() {
            let undone = match &step {
                Step::Kept { path, old } => fs::rename(old, path).and_then(|()| {
                    // renaming one name of a file to another of the same file leaves both
                    match fs::remove_file(old) {
                        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
                        _ => Ok(()),
                    }
                }),
                Step::Placed { path } => fs::remove_file(path),
            };
            if let (Err(e), Step::Kept { path, old }) = (undone, &step) {
                stuck.push(format!("{} is still called {} ({e})", path.display(), old.display()));
            }
        }
        if stuck.is_empty() { error } else { error.help(format!("Not put back: {}.", stuck.join("; "))) }
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        if !self.done.is_empty() {
            // somebody has given up for another reason, and tells that
            let _ = self.undo(Error::target("", ""));
        }
    }
}
