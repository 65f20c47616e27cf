//! Cleanup after an interruption: the temporary files and folders to remove, and notes about files that are kept.
//!
//! A signal may end a process at any instruction, without running destructors. Every temporary file is therefore listed
//! here while it exists, and the program's signal thread calls [`abandon`] before the process ends.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

/// Number of attempts to remove a folder, a millisecond apart.
const ATTEMPTS: u32 = 500;

static LIST: Mutex<List> = Mutex::new(List { next: 0, entries: BTreeMap::new() });

/// Read-locked while files get their final names, which must not be interrupted.
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

/// Handle of an entry of the list; dropping it removes the entry.
#[derive(Debug)]
pub struct Listed(u64);

impl Drop for Listed {
    fn drop(&mut self) {
        lock().entries.remove(&self.0);
    }
}

fn lock() -> MutexGuard<'static, List> {
    // a panic elsewhere leaves a consistent list
    LIST.lock().unwrap_or_else(PoisonError::into_inner)
}

impl List {
    fn add(&mut self, entry: Entry) -> Listed {
        self.next += 1;
        self.entries.insert(self.next, entry);
        Listed(self.next)
    }
}

/// Creates a temporary file with `make` and lists it; an interruption cannot come between the two.
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

/// Lists a note about files that an interrupted run keeps, such as a store with which the next run continues.
pub fn keeps(note: impl Into<String>) -> Listed {
    lock().add(Entry::Note(note.into()))
}

/// A guard for which [`abandon`] waits.
pub(crate) fn publishing() -> RwLockReadGuard<'static, ()> {
    PUBLISHING.read().unwrap_or_else(PoisonError::into_inner)
}

/// Removes all temporary files and folders of this process, and returns the notes about files that are kept. Call it at
/// the end of a process that a signal interrupts: threads that create output files afterwards block forever.
pub fn abandon() -> Vec<String> {
    std::mem::forget(PUBLISHING.write().unwrap_or_else(PoisonError::into_inner));
    let list = lock();
    let mut notes = Vec::new();
    // newest first: files before the folder that contains them
    for entry in list.entries.values().rev() {
        match entry {
            // nothing more can be done if removal fails
            Entry::File(path) => drop(fs::remove_file(path)),
            Entry::Folder(path) => remove_folder(path),
            Entry::Note(note) => notes.insert(0, note.clone()),
        }
    }
    std::mem::forget(list);
    notes
}

/// Removes a folder in which other threads may still be creating files.
fn remove_folder(path: &Path) {
    for _ in 0..ATTEMPTS {
        if fs::remove_dir_all(path).is_ok() || !path.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
