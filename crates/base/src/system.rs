//! What operating systems do differently: positions in files, the identity of a file, links, locks, free space.
//!
//! A lock of Windows covers the bytes of a file: with a shared lock nobody writes, and folders have none. There a share mode
//! takes its place, which excludes other openings of the file.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

/// Reads and writes of an open file at a position, which any thread may call at any time.
pub trait Positioned {
    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before; those of the system.
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all bytes from `offset` on.
    ///
    /// # Errors
    /// Those of the system.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
}

impl Positioned for File {
    #[cfg(unix)]
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, out, offset)
    }

    #[cfg(unix)]
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self, bytes, offset)
    }

    #[cfg(windows)]
    fn read_exact_at(&self, mut out: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !out.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(self, out, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => (out, offset) = (&mut out[count..], offset + count as u64),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    #[cfg(windows)]
    fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match std::os::windows::fs::FileExt::seek_write(self, bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => (bytes, offset) = (&bytes[count..], offset + count as u64),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Makes `link`, which leads to the file `target`; a relative target begins at the link's folder.
///
/// # Errors
/// Those of the system. Windows makes links for administrators and in developer mode only.
pub fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::symlink(target, link);
    // a link with `/` in it leads nowhere there
    #[cfg(windows)]
    return std::os::windows::fs::symlink_file(target.components().collect::<std::path::PathBuf>(), link);
}

/// Locks a folder against other runs until the file is closed, and waits for the run that has it. On Windows it is a file in
/// the folder, which the system removes when it is closed.
///
/// # Errors
/// Those of the system.
pub fn lock_folder(folder: &Path) -> io::Result<File> {
    #[cfg(unix)]
    {
        let file = File::open(folder)?;
        file.lock()?;
        Ok(file)
    }
    #[cfg(windows)]
    loop {
        match try_lock_folder(folder) {
            Ok(file) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(std::time::Duration::from_millis(10)),
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
}

/// As [`lock_folder`], without waiting.
///
/// # Errors
/// `WouldBlock` if another run has the folder; those of the system.
pub fn try_lock_folder(folder: &Path) -> Result<File, TryLockError> {
    #[cfg(unix)]
    {
        let file = File::open(folder).map_err(TryLockError::Error)?;
        file.try_lock()?;
        Ok(file)
    }
    #[cfg(windows)]
    {
        const GENERIC_WRITE: u32 = 0x4000_0000;
        const DELETE: u32 = 0x0001_0000;
        const FILE_FLAG_DELETE_ON_CLOSE: u32 = 0x0400_0000;
        use std::os::windows::fs::OpenOptionsExt;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).access_mode(GENERIC_WRITE | DELETE);
        options.share_mode(0).custom_flags(FILE_FLAG_DELETE_ON_CLOSE);
        options.open(folder.join(crate::folder::LOCK)).map_err(in_use)
    }
}

/// Opens an existing file to write it together with other processes. A link is not followed.
///
/// # Errors
/// `WouldBlock` while a process has it [alone](open_alone); those of the system.
pub(crate) fn open_shared(path: &Path) -> Result<File, TryLockError> {
    #[cfg(unix)]
    {
        let file = open_itself(path).map_err(TryLockError::Error)?;
        file.try_lock_shared()?;
        Ok(file)
    }
    #[cfg(windows)]
    open_itself(path).map_err(in_use)
}

/// Opens an existing file that no other process writes. A link is not followed.
///
/// # Errors
/// `WouldBlock` while another process has it [open](open_shared); those of the system.
pub(crate) fn open_alone(path: &Path) -> Result<File, TryLockError> {
    #[cfg(unix)]
    {
        let file = open_itself(path).map_err(TryLockError::Error)?;
        file.try_lock()?;
        Ok(file)
    }
    #[cfg(windows)]
    {
        const FILE_SHARE_READ_DELETE: u32 = 5;
        let mut options = itself();
        std::os::windows::fs::OpenOptionsExt::share_mode(&mut options, FILE_SHARE_READ_DELETE);
        options.open(path).map_err(in_use)
    }
}

/// The error of a file that another process has open in a way that excludes this one.
#[cfg(windows)]
fn in_use(error: io::Error) -> TryLockError {
    const ERROR_SHARING_VIOLATION: i32 = 32;
    match error.raw_os_error() {
        Some(ERROR_SHARING_VIOLATION) => TryLockError::WouldBlock,
        _ => TryLockError::Error(error),
    }
}

/// Bytes that this user may still write to the file system of a folder; `None` if the system does not tell.
pub fn free_space(folder: &Path) -> Option<u64> {
    fs4::available_space(folder).ok()
}

/// The name of this machine; empty if the system does not tell.
pub fn host_name() -> String {
    #[cfg(unix)]
    return rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(windows)]
    return std::env::var("COMPUTERNAME").unwrap_or_default();
}

/// True if the open file is the one at `path`. A link there is another file.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let (opened, there) = (file.metadata(), path.symlink_metadata());
        opened.is_ok_and(|o| there.is_ok_and(|t| (o.dev(), o.ino()) == (t.dev(), t.ino())))
    }
    #[cfg(windows)]
    {
        let opened = file.try_clone().and_then(same_file::Handle::from_file);
        let there = same_file::Handle::from_path(path);
        !path.is_symlink() && opened.is_ok_and(|o| there.is_ok_and(|t| o == t))
    }
}

/// Opens an existing file to read and write it. A link is not followed.
pub(crate) fn open_itself(path: &Path) -> io::Result<File> {
    itself().open(path)
}

/// Options to read and write an existing file, without following a link.
fn itself() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    {
        let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags);
    }
    #[cfg(windows)]
    {
        const FILE_FLAG_OPEN_REPARSE_POINT: u32 = 0x0020_0000;
        std::os::windows::fs::OpenOptionsExt::custom_flags(&mut options, FILE_FLAG_OPEN_REPARSE_POINT);
    }
    options
}

/// Stdout or stderr of this process, if `path` leads there. Otherwise a file to which one of them is redirected would
/// be overwritten from its beginning.
#[cfg(unix)]
pub(crate) fn own_stream(path: &Path) -> Option<File> {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    let wanted = path.metadata().ok()?;
    let (stdout, stderr) = (io::stdout(), io::stderr());
    [stdout.as_fd(), stderr.as_fd()].into_iter().find_map(|stream| {
        let file = File::from(stream.try_clone_to_owned().ok()?);
        let found = file.metadata().ok()?;
        ((found.dev(), found.ino()) == (wanted.dev(), wanted.ino())).then_some(file)
    })
}

/// Streams of the process have no path on this system.
#[cfg(windows)]
pub(crate) fn own_stream(_: &Path) -> Option<File> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_do_not_disturb_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let file = &file;
                scope.spawn(move || {
                    for at in (0..64).filter(|at| at % 4 == thread) {
                        file.write_all_at(&[at as u8; 16], 16 * at).unwrap();
                        let mut back = [0; 16];
                        file.read_exact_at(&mut back, 16 * at).unwrap();
                        assert_eq!(back, [at as u8; 16]);
                    }
                });
            }
        });
        let mut beyond = [0; 17];
        let error = file.read_exact_at(&mut beyond, 63 * 16).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_file_is_where_it_was_until_another_takes_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&path, "x").unwrap();
        let file = open_itself(&path).unwrap();
        assert!(is_at(&file, &path) && !is_at(&file, &other));
        std::fs::write(&other, "x").unwrap();
        assert!(!is_at(&file, &other));
        // old file systems of Windows keep the name of an open file
        if cfg!(unix) {
            std::fs::rename(&other, &path).unwrap();
            assert!(!is_at(&file, &path));
        }
    }

    /// Windows makes links for some users only.
    #[cfg(unix)]
    #[test]
    fn a_link_is_not_its_target() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a"), folder.path().join("link"));
        std::fs::write(&path, "x").unwrap();
        symlink(Path::new("a"), &link).unwrap();
        assert_eq!(std::fs::read(&link).unwrap(), b"x");
        let file = open_itself(&path).unwrap();
        assert!(!is_at(&file, &link));
        open_itself(&link).unwrap_err();
    }

    #[test]
    fn a_folder_is_locked_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock_folder(folder.path()).unwrap();
        assert!(matches!(try_lock_folder(folder.path()), Err(TryLockError::WouldBlock)));
        std::thread::scope(|scope| {
            let second = scope.spawn(|| lock_folder(folder.path()).unwrap());
            drop(first);
            drop(second.join().unwrap());
        });
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        try_lock_folder(folder.path()).unwrap();
    }

    #[test]
    fn a_file_is_shared_or_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "x").unwrap();
        let busy = |opened| matches!(opened, Err(TryLockError::WouldBlock));
        let shared = [open_shared(&path).unwrap(), open_shared(&path).unwrap()];
        shared.iter().for_each(|file| file.write_all_at(b"yz", 0).unwrap());
        assert!(busy(open_alone(&path)));
        drop(shared);
        let alone = open_alone(&path).unwrap();
        assert!(busy(open_shared(&path)) && busy(open_alone(&path)));
        std::fs::rename(&path, folder.path().join("b")).unwrap();
        drop(alone);
        open_alone(&folder.path().join("b")).unwrap();
    }

    #[test]
    fn a_disk_has_some_space() {
        assert!(free_space(&std::env::temp_dir()).is_some_and(|bytes| bytes > 0));
        // Windows tells that of the disk
        assert!(cfg!(windows) || free_space(Path::new("no such folder/anywhere")).is_none());
    }
}
