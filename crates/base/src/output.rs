//! The one way to write a file: under another name beside it, and under its own when it is complete.
//!
//! The temporary is called `NAME.partial`. It is made anew (`O_EXCL`, so that no file and no link is followed that somebody
//! has put there), locked against a second run, and renamed when all is on the disk. One that a killed run has left is not
//! locked any more, and makes room.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::kind::FileKind;
use crate::unfinished::{self, Listed};
use crate::{Error, Result};

/// What follows the name of a file that is being written.
pub const PARTIAL: &str = ".partial";

/// A file that is being written. Dropped before it has its name, it leaves nothing behind.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    file: File,
    place: Place,
    /// An unfinished file of an earlier run was there.
    took_over: bool,
}

#[derive(Debug)]
enum Place {
    /// Beside its final name. What may be there without being asked for, and `None` for anything.
    Partial { partial: PathBuf, replaces: Option<FileKind>, _listed: Listed },
    /// A device, a pipe or a stream of this process, which takes bytes as they come.
    Stream,
    /// It has its name.
    Published,
}

impl OutputFile {
    /// Opens the temporary of a file that may be written at any position. Whatever file is at `path` is replaced in the
    /// end; a link is replaced, and not what it points to. Whether that may be is for the caller to ask.
    ///
    /// # Errors
    /// `Target` for a folder or a device of this name, a run that is writing the same file, and what the system says.
    pub fn create(path: &Path) -> Result<OutputFile> {
        if is_stream(path) {
            return Err(Error::target(path.display(), "not a regular file")
                .expected("a name for a file", "a device, a pipe or a stream")
                .help("Choose another target: this output is not written from front to back."));
        }
        OutputFile::partial(path, None)
    }

    /// Opens a file that is written from front to back. A device or a pipe is written to as it is; of a link the file that
    /// it points to is replaced. A file that is not of this kind is replaced only with `force`.
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

    /// As [`replacing`](Self::replacing), for a file whose replacement has been asked about already.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn sequential(path: &Path) -> Result<OutputFile> {
        if is_stream(path) { OutputFile::stream(path) } else { OutputFile::partial(path, None) }
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

    /// Its name, in the end.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open temporary.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// An unfinished file of an earlier run was there, and is gone.
    pub fn took_over(&self) -> bool {
        self.took_over
    }

    /// The error of a system call on this file.
    pub fn fail(&self, error: &io::Error) -> Error {
        Error::write(self.path.display(), error)
    }

    /// Gives the file a length; what was not written is zero.
    ///
    /// # Errors
    /// `Target`.
    pub fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len).map_err(|e| self.fail(&e))
    }

    /// Writes at a position, from any thread.
    ///
    /// # Errors
    /// `Target`.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(|e| self.fail(&e))
    }

    /// Waits until what is written is on the disk.
    ///
    /// # Errors
    /// `Target`.
    pub fn sync(&self) -> Result<()> {
        match self.place {
            Place::Stream => Ok(()),
            _ => self.file.sync_all().map_err(|e| self.fail(&e)),
        }
    }

    /// Puts the file on the disk and gives it its name. Several files that go together are published by a
    /// [`Publication`](crate::Publication).
    ///
    /// # Errors
    /// `Target`; the file that was there before is still there.
    pub fn publish(mut self) -> Result<()> {
        self.sync()?;
        let whole = unfinished::publishing();
        self.rename()?;
        drop(whole);
        sync_folder(&self.path)
    }

    /// The change of names alone.
    pub(crate) fn rename(&mut self) -> Result<()> {
        if let Place::Partial { partial, replaces, .. } = &self.place {
            // again: it may have come in the meantime
            may_replace(&self.path, *replaces)?;
            fs::rename(partial, &self.path).map_err(|e| self.fail(&e))?;
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

/// Writes a file as a whole, or leaves what was there.
///
/// # Errors
/// `Target` for what `write` or the system says.
pub fn write_whole(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let mut output = OutputFile::sequential(path)?;
    write(&mut output.file).map_err(|e| output.fail(&e))?;
    output.publish()
}

/// `path` with something after its name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Waits until the names in a file's folder are on the disk, where the system can do that.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // a folder that may be written to but not read cannot be asked
    let Ok(folder) = File::open(parent) else { return Ok(()) };
    match folder.sync_all() {
        Err(e) if !matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            Err(Error::write(parent.display(), &e))
        }
        _ => Ok(()),
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

/// Where a link leads in the end, also when there is no file yet.
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

/// Whether bytes go there as they come, and no file of this name can be replaced: devices, pipes, sockets, `/dev/stdout`.
pub(crate) fn is_stream(path: &Path) -> bool {
    let special = fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir());
    let in_proc = fs::read_link(path).is_ok_and(|to| to.starts_with("/proc"));
    special || in_proc
}

/// Stdout or stderr of this process, if that is where `path` leads. A file that one of them is redirected to would else be
/// written from its beginning a second time.
pub(crate) fn own_stream(path: &Path) -> Option<File> {
    let wanted = fs::metadata(path).ok()?;
    let (stdout, stderr) = (io::stdout(), io::stderr());
    [stdout.as_fd(), stderr.as_fd()].into_iter().find_map(|stream| {
        let file = File::from(stream.try_clone_to_owned().ok()?);
        let found = file.metadata().ok()?;
        ((found.dev(), found.ino()) == (wanted.dev(), wanted.ino())).then_some(file)
    })
}

/// A new, empty and locked file at `partial`, and whether an unfinished one was there.
fn open_locked(partial: &Path) -> Result<(File, bool)> {
    let fail = |e: io::Error| Error::write(partial.display(), &e);
    let is_here = |file: &File| {
        let (there, opened) = (fs::symlink_metadata(partial), file.metadata());
        there.is_ok_and(|t| opened.is_ok_and(|o| (t.dev(), t.ino()) == (o.dev(), o.ino())))
    };
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
                // before it was locked another run may have taken it for a leftover
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
                return Err(Error::target(partial.display(), "not a file that a run of this tool has left")
                    .expected("no file, or a regular one", "a folder, a link or a special file")
                    .help("Remove it, or choose another target."));
            }
            Err(_) => continue,
        }
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        match OpenOptions::new().read(true).write(true).custom_flags(flags).open(partial) {
            Ok(file) => {
                lock(&file)?;
                // Between opening and locking another run may have finished: then this is its output, under its final name.
                if is_here(&file) {
                    fs::remove_file(partial).map_err(fail)?;
                    took_over = true;
                }
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(fail(e)),
        }
    }
}
