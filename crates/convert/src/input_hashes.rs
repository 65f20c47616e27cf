//! SHA-256 of the input, of each contiguous range that is read: one a file, or more in a part of a run.

use base::Sha256;
use plan::{FileEntry, FileRange, InputFile};

/// Hashes of ranges, in reading order.
#[derive(Default)]
pub(crate) struct InputHashes(Vec<Hashed>);

struct Hashed {
    file: usize,
    offset: u64,
    bytes: u64,
    state: Sha256,
}

impl InputHashes {
    /// Adds bytes of a file at an offset. Those that follow the last ones belong to the same range.
    pub(crate) fn add(&mut self, file: usize, offset: u64, bytes: &[u8]) {
        let follows = |last: &Hashed| last.file == file && last.offset + last.bytes == offset;
        if !self.0.last().is_some_and(follows) {
            self.0.push(Hashed { file, offset, bytes: 0, state: Sha256::new() });
        }
        if let Some(last) = self.0.last_mut() {
            last.bytes += bytes.len() as u64;
            last.state.update(bytes);
        }
    }

    /// The entries of the files, in order.
    pub(crate) fn finish(self, files: &[InputFile]) -> Vec<FileEntry> {
        let mut ranges = vec![Vec::new(); files.len()];
        for Hashed { file, offset, bytes, state } in self.0 {
            ranges[file].push(FileRange { offset, bytes, sha256: base::hex(&state.finish()) });
        }
        let entry =
            |(file, ranges): (&InputFile, _)| FileEntry::of_ranges(file.name.clone(), file.bytes, ranges);
        files.iter().zip(ranges).map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_hashed_apart_and_joined_where_they_touch() {
        let mut hashes = InputHashes::default();
        hashes.add(0, 0, b"ab");
        hashes.add(0, 2, b"c");
        hashes.add(1, 1, b"abc");
        hashes.add(1, 7, b"abc");
        let files = [("a", 3), ("b", 10)].map(|(name, bytes)| InputFile { name: name.into(), bytes });
        let [whole, ranges] = &hashes.finish(&files)[..] else { panic!("two files") };
        let sha256 = base::hex(&Sha256::of(b"abc"));
        assert_eq!((&whole.sha256, whole.ranges.len()), (&sha256, 0));
        assert_eq!(ranges.sha256, "");
        let found: Vec<_> = ranges.ranges.iter().map(|r| (r.offset, r.bytes, &r.sha256)).collect();
        assert_eq!(found, [(1, 3, &sha256), (7, 3, &sha256)]);
    }
}
