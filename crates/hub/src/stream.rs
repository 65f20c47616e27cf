//! A whole file in order, straight from the hub: for a conversion that keeps no copy.

use std::fmt;
use std::io::{self, Read};

use base::{Error, Progress, Result};

use crate::digest::Hasher;
use crate::pull::Pull;
use crate::remote::RemoteModel;
use crate::tree::RemoteFile;

/// The bytes of a file in order. A broken connection is opened again at the offset of the next byte.
///
/// The bytes are verified at the end: nothing made of them may be published before [`finish`](Self::finish) has
/// succeeded.
pub struct FileStream<'a> {
    pull: Pull<'a>,
    file: &'a RemoteFile,
    place: String,
    hasher: Hasher,
    start: u64,
    offset: u64,
}

impl<'a> FileStream<'a> {
    pub(crate) fn new(
        remote: &'a RemoteModel<'a>,
        file: &'a RemoteFile,
        start: u64,
        progress: &'a dyn Progress,
    ) -> FileStream<'a> {
        FileStream {
            pull: Pull::new(remote, file, start..file.size, progress),
            file,
            place: format!("{}: {}", remote.model(), file.path),
            hasher: file.hasher(),
            start,
            offset: start,
        }
    }

    /// The offset of the next byte.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads the next bytes; 0 at the end of the file alone.
    ///
    /// # Errors
    /// Those of the network, after all retries.
    pub fn read_next(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let count = self.pull.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.offset += count as u64;
        Ok(count)
    }

    /// Verifies that the whole file was read, and its hash.
    ///
    /// # Errors
    /// `Malformed` for bytes that differ from those of the hub's list.
    pub fn finish(self) -> Result<()> {
        if self.offset != self.file.size {
            return Err(Error::malformed(self.place, "not read to its end")
                .expected(format!("{} bytes", self.file.size), self.offset));
        }
        verify(self.file, self.hasher, &self.place)
    }

    /// Ends the reading of a range, which is verified if it is the whole file: there is no hash of a range.
    ///
    /// # Errors
    /// `Malformed` for bytes of a whole file that differ from those of the hub's list.
    pub fn finish_range(self) -> Result<()> {
        if self.start == 0 && self.offset == self.file.size { self.finish() } else { Ok(()) }
    }
}

impl Read for FileStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_next(buffer).map_err(io::Error::other)
    }
}

impl fmt::Debug for FileStream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileStream({} at {})", self.place, self.offset)
    }
}

/// Compares the hash of received bytes with that of the hub's list.
pub(crate) fn verify(file: &RemoteFile, hasher: Hasher, place: &str) -> Result<()> {
    let found = hasher.finish();
    if found == file.etag() {
        return Ok(());
    }
    let name = if file.sha256.is_some() { "SHA-256" } else { "SHA-1 of the git blob" };
    Err(Error::malformed(place, format!("the received bytes have the wrong {name}"))
        .expected(file.etag(), found)
        .help("The transfer or a server on the way is damaged. Nothing was kept; run again."))
}
