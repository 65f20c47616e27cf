//! Atomic output files: a file is written under a temporary name beside its final name, and renamed when it is
//! complete.
//!
//! The temporary is called `NAME.partial`. It is always a new file (`O_EXCL`, so an existing file or link of that name
//! is never followed), locked against a second run, and renamed when all data is on disk. A temporary left by a killed
//! run is no longer locked, and is replaced.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::kind::FileKind;
use crate::names::folder_of;
use crate::system::{Positioned, is_at, open_alone, open_itself, open_shared, own_stream};
use crate::unfinished::{self, Listed};
use crate::{Error, Result};

/// Suffix of the name of a file that is being written.
pub const PARTIAL: &str = ".partial";

/// A file that is being written. Dropped before [`publish`](Self::publish), it leaves no file.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    file: File,
    place: Place,
    /// True if an unfinished file of an earlier run was replaced.
    took_over: bool,
}

#[derive(Debug)]
enum Place {
    /// Temporary beside the final name. `replaces` is the kind of file that may be replaced; `None` for any file.
    Partial { partial: PathBuf, replaces: Option<FileKind>, _listed: Listed },
    /// A device, a pipe or a stream of this process, written directly.
    Stream,
    /// A file that other processes write too. It stays when this process ends, whatever happens.
    Shared,
    /// A complete file under another name, which it keeps until it is published.
    Adopted { from: PathBuf },
    /// The file has its final name.
    Published,
}

impl OutputFile {
    /// Creates the temporary of a file that may be written at any position. [`publish`](Self::publish) replaces any
    /// file at `path`; a link is replaced, not its target. The caller must check whether that is permitted.
    /// # Errors
    /// `Target` for a folder or a device of this name, for another run that writes the same file, and for failed system
    /// calls.
    pub fn create(path: &Path) -> Result<OutputFile> {
        if is_stream(path) {
            return Err(Error::target(path.display(), "not a regular file")
                .expected("a name for a file", "a device, a pipe or a stream")
                .help("Choose another target: this output is not written sequentially."));
        }
        OutputFile::partial(path, None)
    }

    /// Opens a file for sequential writing. Devices and pipes are written directly; of a link, the target is replaced.
    /// An existing file of another kind is replaced only with `force`.
    ///
    /// # Errors
    /// As [`create`](Self::create); `Target` for a file of another kind.
    pub fn replacing(path: &Path, kind: FileKind, force: bool) -> Result<OutputFile> {
        if is_stream(path) {
            return OutputFile::stream(path);
        }
        let resolved = if path.is_symlink() { resolve(path)? } else { path.to_owned() };
        let kind = (!force).then_some(kind);
        may_replace(&resolved, kind)?;
        OutputFile::partial(&resolved, kind)
    }

    /// As [`replacing`](Self::replacing), for a file whose replacement has already been checked.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn sequential(path: &Path) -> Result<OutputFile> {
        if is_stream(path) { OutputFile::stream(path) } else { OutputFile::partial(path, None) }
    }

    /// Opens a file in which several processes write ranges of their own, and creates it if it is missing. It is not
    /// temporary: nothing removes or renames it, until a process that has it alone [adopts](Self::adopt) it.
    ///
    /// # Errors
    /// `Target`, also if a process has adopted it.
    pub fn shared(path: &Path) -> Result<OutputFile> {
        let fail = |e: io::Error| Error::write(path.display(), &e);
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(fail(e)),
        }
        let file = open_shared(path).map_err(|e| opening(path, e))?;
        Ok(OutputFile { path: path.to_owned(), file, place: Place::Shared, took_over: false })
    }

    /// Opens the file `from`, which exists, to give it the name `path`. Until then it stays what and where it is.
    ///
    /// # Errors
    /// `Target`, also while another process has the file open as [shared](Self::shared) or adopted.
    pub fn adopt(from: &Path, path: &Path) -> Result<OutputFile> {
        let file = open_alone(from).map_err(|e| opening(from, e))?;
        let place = Place::Adopted { from: from.to_owned() };
        Ok(OutputFile { path: path.to_owned(), file, place, took_over: false })
    }

    fn partial(path: &Path, replaces: Option<FileKind>) -> Result<OutputFile> {
        if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            return Err(is_folder(path));
        }
        let partial = with_suffix(path, PARTIAL);
        let ((file, took_over), listed) = unfinished::file(partial.clone(), || open_locked(&partial))?;
        let place = Place::Partial { partial, replaces, _listed: listed };
        Ok(OutputFile { path: path.to_owned(), file, place, took_over })
    }

    fn stream(path: &Path) -> Result<OutputFile> {
        let file = match own_stream(path) {
            Some(file) => file,
            None => {
                OpenOptions::new().write(true).open(path).map_err(|e| Error::write(path.display(), &e))?
            }
        };
        Ok(OutputFile { path: path.to_owned(), file, place: Place::Stream, took_over: false })
    }

    /// The final path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open temporary, or the stream.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// True if an unfinished file of an earlier run was replaced.
    pub fn took_over(&self) -> bool {
        self.took_over
    }

    /// The error of a system call on this file.
    pub fn fail(&self, error: &io::Error) -> Error {
        Error::write(self.path.display(), error)
    }

    /// Sets the length of the file; bytes that were not written are zero.
    ///
    /// # Errors
    /// `Target`.
    pub fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len).map_err(|e| self.fail(&e))
    }

    /// Writes bytes at a position; any thread may call it.
    ///
    /// # Errors
    /// `Target`.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(|e| self.fail(&e))
    }

    /// Waits until the written data is on disk.
    ///
    /// # Errors
    /// `Target`.
    pub fn sync(&self) -> Result<()> {
        match self.place {
            Place::Stream => Ok(()),
            _ => self.file.sync_all().map_err(|e| self.fail(&e)),
        }
    }

    /// Flushes the file to disk and gives it its final name. Use [`Publication`](crate::Publication) for several files
    /// that belong together.
    ///
    /// # Errors
    /// `Target`; the previous file is then still there.
    pub fn publish(mut self) -> Result<()> {
        self.sync()?;
        let whole = unfinished::publishing();
        self.rename()?;
        drop(whole);
        sync_folder(&self.path)
    }

    /// As [`publish`](Self::publish), without waiting for the disk.
    ///
    /// # Errors
    /// `Target`; the previous file is then still there.
    pub fn publish_unsynced(mut self) -> Result<()> {
        let _whole = unfinished::publishing();
        self.rename()
    }

    /// Writes the whole content, and [publishes](Self::publish) the file.
    ///
    /// # Errors
    /// `Target`; the previous file is then still there.
    pub fn publish_with(mut self, content: &[u8]) -> Result<()> {
        self.file.write_all(content).map_err(|e| self.fail(&e))?;
        self.publish()
    }

    /// Renames the temporary, without flushing.
    pub(crate) fn rename(&mut self) -> Result<()> {
        if let Place::Partial { partial, replaces, .. } = &self.place {
            // checked again: the file may have appeared in the meantime
            may_replace(&self.path, *replaces)?;
            fs::rename(partial, &self.path).map_err(|e| self.fail(&e))?;
            self.place = Place::Published;
        }
        if let Place::Adopted { from } = &self.place {
            fs::rename(from, &self.path).map_err(|e| self.fail(&e))?;
            self.place = Place::Published;
        }
        Ok(())
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let Place::Partial { partial, .. } = &self.place {
            let _ = fs::remove_file(partial); // nothing more can be done about it
        }
    }
}

/// Writes a file atomically: on an error the previous file stays.
///
/// # Errors
/// `Target` for errors of `write` and of system calls.
pub fn write_whole(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let mut output = OutputFile::sequential(path)?;
    write(&mut output.file).map_err(|e| output.fail(&e))?;
    output.publish()
}

/// `path` with `suffix` appended to its last component.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Flushes the folder of a file to disk, where the system supports it.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    let parent = folder_of(path);
    // a folder that is writable but not readable cannot be flushed
    let Ok(folder) = File::open(parent) else { return Ok(()) };
    match folder.sync_all() {
        Err(e) if !matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            Err(Error::write(parent.display(), &e))
        }
        _ => Ok(()),
    }
}

/// The error of a file that several processes write.
fn opening(path: &Path, error: TryLockError) -> Error {
    match error {
        TryLockError::WouldBlock => {
            Error::target(path.display(), "another process is writing this file").help("Wait for it to end.")
        }
        TryLockError::Error(e) => Error::write(path.display(), &e),
    }
}

pub(crate) fn is_folder(path: &Path) -> Error {
    Error::target(path.display(), "a folder has the name of the output")
        .help("Move it away, or choose another target.")
}

fn may_replace(path: &Path, kind: Option<FileKind>) -> Result<()> {
    let Some(kind) = kind else { return Ok(()) };
    if path.is_dir() {
        return Err(is_folder(path));
    }
    match kind.may_replace(path) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(found)) => Err(Error::target(path.display(), "another file is there already")
            .expected(format!("no file, or {}", kind.name()), found)
            .help("Choose another name, or use ‹force› to replace it.")),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::write(path.display(), &e)),
    }
}

/// Follows a link to its target, which need not exist.
fn resolve(path: &Path) -> Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..40 {
        match fs::read_link(&path) {
            Ok(to) => path = path.parent().unwrap_or(Path::new("")).join(to),
            Err(_) => return Ok(path),
        }
    }
    Err(Error::target(path.display(), "a link that leads to itself"))
}

/// True if bytes are written directly and the name cannot be replaced: devices, pipes, sockets, `/dev/stdout`.
pub(crate) fn is_stream(path: &Path) -> bool {
    let special = fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir());
    let in_proc = fs::read_link(path).is_ok_and(|to| to.starts_with("/proc"));
    special || in_proc
}

/// A new, empty and locked file at `partial`; true if it replaces an unfinished one.
fn open_locked(partial: &Path) -> Result<(File, bool)> {
    let fail = |e: io::Error| Error::write(partial.display(), &e);
    let is_here = |file: &File| is_at(file, partial);
    let lock = |file: &File| match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            Err(Error::target(partial.display(), "another run is writing this file")
                .help("Wait for it to end, or choose another target."))
        }
        Err(TryLockError::Error(e)) => Err(fail(e)),
    };
    let mut took_over = false;
    loop {
        match OpenOptions::new().read(true).write(true).create_new(true).open(partial) {
            Ok(file) => {
                lock(&file)?;
                // before the lock another run may have taken the file for a leftover
                if is_here(&file) {
                    return Ok((file, took_over));
                }
                continue;
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(fail(e)),
        }
        match fs::symlink_metadata(partial) {
            Ok(found) if found.is_file() => {}
            Ok(_) => {
                return Err(Error::target(partial.display(), "not the leftover of an interrupted run")
                    .expected("no file, or a regular one", "a folder, a link or a special file")
                    .help("Remove it, or choose another target."));
            }
            Err(_) => continue,
        }
        match open_itself(partial) {
            Ok(file) => {
                lock(&file)?;
                // Between opening and locking another run may have finished: then the file is its output, under its
                // final name.
                if is_here(&file) {
                    // while the file is open, its name may remain on Windows
                    if cfg!(windows) {
                        file.set_len(0).map_err(fail)?;
                        return Ok((file, true));
                    }
                    fs::remove_file(partial).map_err(fail)?;
                    took_over = true;
                }
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(fail(e)),
        }
    }
}
