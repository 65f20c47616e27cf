//! Blobs of a store: a hard link of a file where the system allows one, else a copy.

use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::time::SystemTime;

use base::{OutputFile, Sha256, Task, WorkFolder};
use tensor::{Error, Result};

use super::store::Placement;

/// Bytes read or copied at a time.
const PIECE: u64 = 16 << 20;

/// What identifies the content of a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    len: u64,
    modified: Option<SystemTime>,
}

impl State {
    pub(crate) fn of(path: &Path) -> Result<State> {
        let found = fs::metadata(path).map_err(|e| Error::io(path.display(), &e))?;
        Ok(State { len: found.len(), modified: found.modified().ok() })
    }

    /// Checks that the file at `path` is still in this state.
    pub(crate) fn check(self, path: &Path) -> Result<()> {
        match State::of(path)? == self {
            true => Ok(()),
            false => Err(Error::malformed(path.display(), "the file changed while it was read")
                .help("Wait until the program that writes it has ended, and run again.")),
        }
    }
}

/// SHA-256 of bytes in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    base::hex(&Sha256::of(bytes))
}

/// SHA-256 of a file in hexadecimal.
pub(crate) fn sha256_of_file(path: &Path, task: &dyn Task) -> Result<String> {
    base::sha256_file(path, &|count| task.advance(count)).map(|(_, sha256)| sha256)
}

/// Gives the content of a file the name of a blob in `folder`, whose entry is `owner`.
pub(crate) fn place_file(from: &Path, blob: &Path, folder: &Metadata, task: &dyn Task) -> Result<Placement> {
    // a link of a link would point to nothing from its new place
    let real = fs::canonicalize(from).map_err(|e| Error::io(from.display(), &e))?;
    let found = fs::metadata(&real).map_err(|e| Error::io(from.display(), &e))?;
    if system::can_share(&found, folder) {
        match fs::hard_link(&real, blob) {
            Ok(()) => {
                task.advance(found.len());
                return Ok(Placement::Linked);
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(Placement::Present),
            // another file system, one without links, a file of another user
            Err(_) => {}
        }
    }
    let mut source = File::open(&real).map_err(|e| Error::io(from.display(), &e))?;
    let output = OutputFile::create(blob)?;
    loop {
        // file systems that can share blocks do so here
        let copied = std::io::copy(&mut Read::by_ref(&mut source).take(PIECE), &mut output.file());
        match copied.map_err(|e| Error::write(blob.display(), &e))? {
            0 => break,
            count => task.advance(count),
        }
    }
    publish(output, folder)?;
    Ok(Placement::Copied)
}

/// Writes a blob.
pub(crate) fn place_bytes(bytes: &[u8], blob: &Path, folder: &Metadata) -> Result<Placement> {
    let mut output = OutputFile::create(blob)?;
    output.write_all(bytes).map_err(|e| output.fail(&e))?;
    publish(output, folder)?;
    Ok(Placement::Written)
}

/// Writes a manifest. It is prepared in a folder below `manifests` in which no server looks for manifests: those lie four
/// levels deep.
pub(crate) fn place_manifest(bytes: &[u8], path: &Path, manifests: &Path, owner: &Metadata) -> Result<()> {
    let work = WorkFolder::create(manifests, "pack")?;
    let staged = work.path().join("manifest");
    place_bytes(bytes, &staged, owner)?;
    let fail = |e| Error::write(path.display(), &e);
    fs::rename(&staged, path).map_err(fail)?;
    // where a folder cannot be flushed, the manifest is complete nevertheless
    if let Some(Ok(folder)) = path.parent().map(File::open) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Publishes a file with the owner of its folder, readable for all as Ollama's own.
fn publish(output: OutputFile, folder: &Metadata) -> Result<()> {
    let path = output.path().to_owned();
    system::make_readable(output.file()).map_err(|e| Error::write(path.display(), &e))?;
    system::give_to_owner(output.file(), folder);
    output.publish()
}

/// Creates missing folders up to `path`. New folders have the owner of the one that contains them.
pub(crate) fn create_folders(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_folders(parent)?;
    }
    let fail = |e| Error::write(path.display(), &e);
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(_) if path.is_dir() => return Ok(()), // another program was faster
        Err(e) => return Err(fail(e)),
    }
    system::share_folder(path).map_err(fail)
}

/// Owners and permissions, where the system has them.
#[cfg(unix)]
mod system {
    use std::fs::{self, File, Metadata, Permissions};
    use std::io;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    use std::path::Path;

    /// Whether a hard link of a file serves the owner of `folder`, who may be another user.
    pub(super) fn can_share(file: &Metadata, folder: &Metadata) -> bool {
        file.uid() == folder.uid() || file.mode() & 0o004 != 0
    }

    pub(super) fn make_readable(file: &File) -> io::Result<()> {
        file.set_permissions(Permissions::from_mode(0o644))
    }

    /// A new folder can be searched by all, and belongs to the owner of the folder that contains it.
    pub(super) fn share_folder(path: &Path) -> io::Result<()> {
        let folder = File::open(path)?;
        folder.set_permissions(Permissions::from_mode(0o755))?;
        if let Some(Ok(parent)) = path.parent().map(fs::metadata) {
            give_to_owner(&folder, &parent);
        }
        Ok(())
    }

    /// Only the superuser may: others keep what they make, which Ollama can read.
    pub(super) fn give_to_owner(file: &File, folder: &Metadata) {
        let differs = file.metadata().is_ok_and(|found| found.uid() != folder.uid());
        if differs {
            let _ = fchown(file, Some(folder.uid()), Some(folder.gid()));
        }
    }
}

#[cfg(not(unix))]
mod system {
    use std::fs::{File, Metadata};
    use std::io;
    use std::path::Path;

    pub(super) fn can_share(_: &Metadata, _: &Metadata) -> bool {
        true
    }

    pub(super) fn make_readable(_: &File) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn share_folder(_: &Path) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn give_to_owner(_: &File, _: &Metadata) {}
}
