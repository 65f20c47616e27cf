//! An output file that is hashed while it is written.
//!
//! Rows arrive in input order, but SHA-256 needs file order. So finished ranges are recorded, and the contiguous
//! prefix is read back (from the page cache, as it was just written). A part of a run cannot know the SHA-256 of the whole file:
//! its ranges get checksums, which cost less, and [`join`](crate::join()) makes the SHA-256.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use base::{OutputFile, Positioned, Sha256};
use rayon::prelude::*;
use tensor::{Error, Result};

use crate::checksum::{Checksum, WrittenRange};

/// Bytes per read when hashing.
const HASH_BYTES: usize = 1 << 20;

pub(crate) struct HashedOutput {
    output: OutputFile,
    len: u64,
    /// Whether several processes write ranges of their own.
    is_shared: bool,
    done: Mutex<Done>,
    hash: Mutex<RangeHash>,
}

/// Written ranges, start → end, disjoint and not adjacent.
#[derive(Default)]
struct Done(BTreeMap<u64, u64>);

/// What a run has written to an output.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Written {
    /// All of it, with this SHA-256 in hexadecimal.
    Whole(String),
    /// As a part of the run: these ranges.
    Ranges(Vec<WrittenRange>),
}

/// The SHA-256 of a range of a file so far.
pub(crate) struct RangeHash {
    state: Sha256,
    /// The end of the range so far.
    end: u64,
    buffer: Vec<u8>,
}

impl RangeHash {
    /// The hash of no bytes yet, of a range that begins there.
    pub(crate) fn from(start: u64) -> RangeHash {
        RangeHash { state: Sha256::new(), end: start, buffer: Vec::new() }
    }

    /// Continues up to `end`, with the bytes in the file.
    pub(crate) fn read_to(&mut self, file: &File, end: u64) -> std::io::Result<()> {
        let state = &mut self.state;
        read_pieces(file, self.end..end, &mut self.buffer, |piece| state.update(piece))?;
        self.end = self.end.max(end);
        Ok(())
    }

    /// The hash so far, in hexadecimal.
    pub(crate) fn hex(&self) -> String {
        base::hex(&self.state.clone().finish())
    }
}

/// Reads a range of a file, a piece at a time.
fn read_pieces(
    file: &File,
    range: Range<u64>,
    buffer: &mut Vec<u8>,
    mut each: impl FnMut(&[u8]),
) -> std::io::Result<()> {
    buffer.resize(HASH_BYTES, 0);
    let mut at = range.start;
    while at < range.end {
        let piece = &mut buffer[..HASH_BYTES.min((range.end - at) as usize)];
        file.read_exact_at(piece, at)?;
        each(piece);
        at += piece.len() as u64;
    }
    Ok(())
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // after a panic elsewhere the data are still valid: plain numbers
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HashedOutput {
    /// Opens the temporary file for `path` with a length of `len` bytes, all zero.
    pub(crate) fn create(path: &Path, len: u64) -> Result<HashedOutput> {
        HashedOutput::of(OutputFile::create(path)?, len, false)
    }

    /// Opens a file of `len` bytes in which several processes write ranges of their own. Bytes that none wrote are zero.
    pub(crate) fn shared(path: &Path, len: u64) -> Result<HashedOutput> {
        HashedOutput::of(OutputFile::shared(path)?, len, true)
    }

    fn of(output: OutputFile, len: u64, is_shared: bool) -> Result<HashedOutput> {
        output.set_len(len)?;
        Ok(HashedOutput {
            output,
            len,
            is_shared,
            done: Mutex::default(),
            hash: Mutex::new(RangeHash::from(0)),
        })
    }

    /// Whether an unfinished file of an earlier run was replaced.
    pub(crate) fn took_over(&self) -> bool {
        self.output.took_over()
    }

    fn fail(&self, error: &std::io::Error) -> Error {
        let fault = self.output.fail(error);
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                fault.expected(format!("room for {} bytes", self.len), "a full disk")
            }
            _ => fault,
        }
    }

    /// Writes `bytes` at `offset` and marks the range up to `end` as done, which covers padding.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8], end: u64) -> Result<()> {
        self.write_provisional(offset, bytes)?;
        self.done(offset, end);
        Ok(())
    }

    /// Writes `bytes` that may be overwritten later, so the range is not marked as done; see [`done`](Self::done).
    pub(crate) fn write_provisional(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.output.file().write_all_at(bytes, offset).map_err(|e| self.fail(&e))
    }

    /// Marks a range as done: it may be hashed from now on.
    pub(crate) fn done(&self, offset: u64, end: u64) {
        locked(&self.done).add(offset, end);
    }

    /// Hashes up to `limit` bytes of the contiguous prefix, unless another worker is hashing.
    pub(crate) fn hash_some(&self, limit: u64) -> Result<()> {
        if self.is_shared {
            return Ok(());
        }
        match self.hash.try_lock() {
            Ok(mut hash) => self.hash_to(&mut hash, limit),
            Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => Ok(()),
        }
    }

    fn hash_to(&self, hash: &mut RangeHash, limit: u64) -> Result<()> {
        let end = locked(&self.done).beginning().min(hash.end.saturating_add(limit));
        hash.read_to(self.output.file(), end).map_err(|e| self.fail(&e))
    }

    /// Flushes the page cache to disk, and waits.
    pub(crate) fn flush(&self) -> Result<()> {
        self.output.file().sync_all().map_err(|e| self.fail(&e))
    }

    /// Hashes the rest. Call it when everything is written.
    ///
    /// # Errors
    /// `Target` for a range that was never written, unless other parts write it.
    pub(crate) fn finish(&self) -> Result<Written> {
        if self.is_shared {
            let ranges: Vec<_> = locked(&self.done).0.iter().map(|(start, end)| *start..*end).collect();
            let ranges = ranges.into_par_iter().map(|range| self.checked(range));
            return ranges.collect::<Result<_>>().map(Written::Ranges);
        }
        if locked(&self.done).beginning() != self.len {
            let written: u64 = locked(&self.done).0.iter().map(|(start, end)| end - start).sum();
            return Err(Error::target(self.output.path().display(), "a range of the file was never written")
                .expected(format!("{} bytes", self.len), written)
                .help("This is a fault of gemma-convert: please report it with the command."));
        }
        let mut hash = locked(&self.hash);
        self.hash_to(&mut hash, u64::MAX)?;
        Ok(Written::Whole(hash.hex()))
    }

    fn checked(&self, range: Range<u64>) -> Result<WrittenRange> {
        let mut checksum = Checksum::default();
        read_pieces(self.output.file(), range.clone(), &mut Vec::new(), |piece| checksum.update(piece))
            .map_err(|e| self.fail(&e))?;
        Ok(WrittenRange { offset: range.start, bytes: range.end - range.start, xxh3: checksum.hex() })
    }

    /// The output file.
    pub(crate) fn output(&self) -> &OutputFile {
        &self.output
    }

    /// The output file, ready to be published.
    pub(crate) fn into_output(self) -> OutputFile {
        self.output
    }
}

impl Done {
    fn add(&mut self, mut start: u64, mut end: u64) {
        if let Some((&before, &until)) = self.0.range(..=start).next_back()
            && until >= start
        {
            start = before;
            end = end.max(until);
        }
        while let Some((&next, &until)) = self.0.range(start..).next().filter(|(next, _)| **next <= end) {
            end = end.max(until);
            self.0.remove(&next);
        }
        self.0.insert(start, end);
    }

    /// Length of the contiguous prefix in bytes.
    fn beginning(&self) -> u64 {
        self.0.first_key_value().filter(|(start, _)| **start == 0).map_or(0, |(_, end)| *end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_join() {
        let mut done = Done::default();
        done.add(10, 20);
        done.add(30, 40);
        assert_eq!(done.beginning(), 0);
        done.add(0, 10);
        assert_eq!(done.beginning(), 20);
        done.add(20, 30);
        assert_eq!(done.beginning(), 40);
        assert_eq!(done.0.len(), 1);
    }

    #[test]
    fn a_target_appears_only_when_published() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gguf");
        let target = HashedOutput::create(&path, 64).unwrap();
        target.write(32, &[1; 32], 64).unwrap();
        assert!(
            target.finish().unwrap_err().to_string().contains("never written (expected 64 bytes, found 32)")
        );
        target.write(0, &[2; 8], 32).unwrap();
        assert!(HashedOutput::create(&path, 64).err().unwrap().problem().contains("another run"));
        let bytes = [[2; 8].as_slice(), &[0; 24], &[1; 32]].concat();
        assert_eq!(target.finish().unwrap(), Written::Whole(base::hex(&Sha256::of(&bytes))));
        assert!(!path.exists());
        target.into_output().publish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn ranges_of_a_part_have_checksums() {
        let dir = tempfile::tempdir().unwrap();
        let target = HashedOutput::shared(&dir.path().join("x.gguf"), 64).unwrap();
        target.write(32, &[1; 32], 64).unwrap();
        target.write(0, b"abc", 3).unwrap();
        let Written::Ranges(ranges) = target.finish().unwrap() else { panic!("a part") };
        let found: Vec<_> =
            ranges.iter().map(|range| (range.offset, range.bytes, range.xxh3.as_str())).collect();
        // by the Python package xxhash: xxhash.xxh3_128_hexdigest(b"abc"), …(b"\1" * 32)
        let expected =
            [(0, 3, "06b05ab6733a618578af5f94892f3950"), (32, 32, "3d411a54e9a6d8bcc0640a240b5e5a41")];
        assert_eq!(found, expected);
    }
}
