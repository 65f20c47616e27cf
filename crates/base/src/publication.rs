//! Renames several files together, or none of them.
//!
//! A rename can fail halfway: a file that must not be changed, a mount point. Previous files are therefore kept under
//! another name until all renames are done, and restored on an error.
//!
//! A process can also be killed halfway. So that no reader takes files of two runs for one model, each set has a head
//! without which no reader opens it (`config.json`, the first part of a split): its old file is removed first, its new
//! one is placed last.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::RwLockReadGuard;

use crate::output::{OutputFile, is_folder, sync_folder, with_suffix};
use crate::unfinished;
use crate::{Error, Result};

/// Suffix of the name of a file that is being replaced.
pub const OLD: &str = ".old.partial";

/// Files that get their final names together. Dropped before [`commit`](Self::commit), it restores the previous files.
#[derive(Debug)]
pub struct Publication {
    done: Vec<Step>,
    _whole: RwLockReadGuard<'static, ()>,
}

#[derive(Debug)]
enum Step {
    /// The previous file has a second name, and may still have its own.
    Kept { path: PathBuf, old: PathBuf },
    /// A new file has its final name.
    Placed { path: PathBuf },
}

impl Publication {
    /// Begins a publication. An interruption waits for its end.
    #[expect(clippy::new_without_default, reason = "it takes a lock")]
    pub fn new() -> Publication {
        Publication { done: Vec::new(), _whole: unfinished::publishing() }
    }

    /// Renames a file that is to be replaced later. Does nothing if there is no file.
    ///
    /// # Errors
    /// `Target`; the previous files are restored.
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

    /// Gives a file its final name.
    ///
    /// # Errors
    /// `Target`; the previous files are restored.
    pub fn place(&mut self, mut file: OutputFile) -> Result<()> {
        let path = file.path().to_owned();
        if path.symlink_metadata().is_ok_and(|found| !found.is_dir()) && !self.keeps(&path) {
            let old = self.free_name(&path)?;
            // a hard link, so that the name always has a file; not every file system supports it
            fs::hard_link(&path, &old)
                .or_else(|_| fs::rename(&path, &old))
                .map_err(|e| self.undo(Error::write(path.display(), &e)))?;
            self.done.push(Step::Kept { path: path.clone(), old });
        }
        file.rename().map_err(|e| self.undo(e))?;
        self.done.push(Step::Placed { path });
        Ok(())
    }

    /// Ends the publication and removes the previous files. `sync`: flushes the folders to disk.
    ///
    /// # Errors
    /// `Target` if the folders cannot be flushed to disk. All files have their final names then.
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
                // the new files are complete; a leftover does no harm, and the next run removes it
                Step::Kept { old, .. } => drop(fs::remove_file(old)),
                Step::Placed { path } => drop(fs::remove_file(with_suffix(path, OLD))),
            }
        }
        synced
    }

    fn keeps(&self, path: &Path) -> bool {
        self.done.iter().any(|step| matches!(step, Step::Kept { path: kept, .. } if kept == path))
    }

    /// The name for the previous file. An existing file of that name is a leftover of a killed run, older than the
    /// present one.
    fn free_name(&mut self, path: &Path) -> Result<PathBuf> {
        let old = with_suffix(path, OLD);
        match fs::remove_file(&old) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(self.undo(Error::write(old.display(), &e)))
            }
            _ => Ok(old),
        }
    }

    /// Reverts the steps that are done, and adds failures to the error.
    fn undo(&mut self, error: Error) -> Error {
        let mut stuck = Vec::new();
        for step in std::mem::take(&mut self.done).into_iter().rev() {
            let undone = match &step {
                Step::Kept { path, old } => fs::rename(old, path).and_then(|()| {
                    // renaming a file to another hard link of itself keeps both names
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
            // dropped because of another error, which the caller reports
            let _ = self.undo(Error::target("", ""));
        }
    }
}
