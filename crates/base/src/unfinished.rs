//! What a run that is interrupted has to remove: temporary files and folders, and what it may tell to be kept.
//!
//! A signal ends a process between any two instructions, so destructors do not run. Every temporary file is therefore listed
//! here while it exists, and the program's signal thread calls [`abandon`] before it lets the process end.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

/// How often the removal of a folder is tried, a millisecond apart.
const ATTEMPTS: u32 = 500;

static LIST: Mutex<List> = Mutex::new(List { next: 0, entries: BTreeMap::new() });

/// Held for reading while files get their names, which is not to be cut short.
static PUBLISHING: RwLock<()> = RwLock::new(());

struct List {
    next: u64,
    entries: BTreeMap<u64, Entry>,
}

#[derive(Clone)]
enum Entry {
    File(PathBuf),
    Folder(PathBuf),
    Note(String),
}

/// An entry of the list, for as long as it lives.
#[derive(Debug)]
pub struct Listed(u64);

impl Drop for Listed {
    fn drop(&mut self) {
        lock().entries.remove(&self.0);
    }
}

fn lock() -> MutexGuard<'static, List> {
    // a panic elsewhere leaves a whole list behind
    LIST.lock().unwrap_or_else(PoisonError::into_inner)
}

impl List {
    fn add(&mut self, entry: Entry) -> Listed {
        self.next += 1;
        self.entries.insert(self.next, entry);
        Listed(self.next)
    }
}

/// Makes a temporary file with `make` and lists it, in one step as an interruption sees it.
pub(crate) fn file<T>(path: PathBuf, make: impl FnOnce() -> crate::Result<T>) -> crate::Result<(T, Listed)> {
    let mut list = lock();
    let made = make()?;
    Ok((made, list.add(Entry::File(path))))
}

/// As [`file`], for a folder.
pub(crate) fn folder<T>(
    make: impl FnOnce() -> crate::Result<(T, PathBuf)>,
) -> crate::Result<(T, PathBuf, Listed)> {
    let mut list = lock();
    let (made, path) = make()?;
    let listed = list.add(Entry::Folder(path.clone()));
    Ok((made, path, listed))
}

/// Lists what an interrupted run keeps, for the user to be told: a store that the next run goes on from.
pub fn keeps(note: impl Into<String>) -> Listed {
    lock().add(Entry::Note(note.into()))
}

/// While this lives, [`abandon`] waits.
pub(crate) fn publishing() -> RwLockReadGuard<'static, ()> {
    PUBLISHING.read().unwrap_or_else(PoisonError::into_inner)
}

/// Removes all temporary files and folders of this process, and returns what is to be said about what stays. For the end of
/// a process that a signal interrupts: whoever wants to write a file afterwards waits for ever.
pub fn abandon() -> Vec<String> {
    std::mem::forget(PUBLISHING.write().unwrap_or_else(PoisonError::into_inner));
    let list = lock();
    let mut notes = Vec::new();
    // the last first: files before the folder that they are in
    for entry in list.entries.values().rev() {
        match entry {
            // nothing more can be done about what cannot be removed
            Entry::File(path) => drop(fs::remove_file(path)),
            Entry::Folder(path) => remove_folder(path),
            Entry::Note(note) => notes.insert(0, note.clone()),
        }
    }
    std::mem::forget(list);
    notes
}

/// Removes a folder in which other threads may still be making files, until the process ends.
fn remove_folder(path: &Path) {
    for _ in 0..ATTEMPTS {
        if fs::remove_dir_all(path).is_ok() || !path.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
