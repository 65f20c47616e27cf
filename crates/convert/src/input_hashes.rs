//! SHA-256 of the input, of each contiguous range that is read: one a file, or more in a part of a run.

use std::str::FromStr;

use base::Sha256;
use checkpoint::Shard;
use plan::{FileEntry, FileRange, InputFile, VerifiedBy};
use tensor::Error;

/// Whether files of weights are hashed as they are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashInput {
    /// All of them.
    Always,
    /// Those whose SHA-256 is not known from a [download](Shard::recorded_sha256).
    #[default]
    Known,
    /// None: the manifest has their sizes alone.
    Never,
}

impl HashInput {
    const NAMES: [(&str, HashInput); 3] =
        [("always", HashInput::Always), ("known", HashInput::Known), ("never", HashInput::Never)];
}

impl FromStr for HashInput {
    type Err = Error;

    fn from_str(text: &str) -> Result<HashInput, Error> {
        let found = HashInput::NAMES.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, value)| value).ok_or_else(|| {
            Error::recipe("‹hash_input›", "not a way to hash the input")
                .expected(HashInput::NAMES.map(|(name, _)| name).join(", "), format!("{text:?}"))
        })
    }
}

/// Hashes of ranges, in reading order.
pub(crate) struct InputHashes {
    ranges: Vec<Hashed>,
    /// For each file, where its hash comes from.
    sources: Vec<Source>,
}

enum Source {
    Content,
    Record(String),
    Nothing,
}

struct Hashed {
    file: usize,
    offset: u64,
    bytes: u64,
    state: Sha256,
}

impl InputHashes {
    /// No hashes yet of the files `shards`. `streamed` has the SHA-256 that a stream verifies, by file name.
    pub(crate) fn new(
        hash: HashInput,
        shards: &[Shard],
        streamed: impl Fn(&str) -> Option<String>,
    ) -> InputHashes {
        let source = |shard: &Shard| match hash {
            HashInput::Always => Source::Content,
            HashInput::Known => {
                let known = streamed(&shard.name).or_else(|| shard.recorded_sha256());
                known.map_or(Source::Content, Source::Record)
            }
            HashInput::Never => Source::Nothing,
        };
        InputHashes { ranges: Vec::new(), sources: shards.iter().map(source).collect() }
    }

    /// Adds bytes of a file at an offset. Those that follow the last ones belong to the same range.
    pub(crate) fn add(&mut self, file: usize, offset: u64, bytes: &[u8]) {
        if !matches!(self.sources[file], Source::Content) {
            return;
        }
        let follows = |last: &Hashed| last.file == file && last.offset + last.bytes == offset;
        if !self.ranges.last().is_some_and(follows) {
            self.ranges.push(Hashed { file, offset, bytes: 0, state: Sha256::new() });
        }
        if let Some(last) = self.ranges.last_mut() {
            last.bytes += bytes.len() as u64;
            last.state.update(bytes);
        }
    }

    /// The entries of the files, in order.
    pub(crate) fn finish(self, files: &[InputFile]) -> Vec<FileEntry> {
        let mut ranges = vec![Vec::new(); files.len()];
        for Hashed { file, offset, bytes, state } in self.ranges {
            ranges[file].push(FileRange { offset, bytes, sha256: base::hex(&state.finish()) });
        }
        let entry = |((file, ranges), source): ((&InputFile, _), _)| {
            let (name, bytes) = (file.name.clone(), file.bytes);
            match source {
                Source::Content => FileEntry::of_ranges(name, bytes, ranges),
                Source::Record(sha256) => {
                    let verified_by = Some(VerifiedBy::Download);
                    FileEntry { name, bytes, sha256, verified_by, ..FileEntry::default() }
                }
                Source::Nothing => FileEntry { name, bytes, ..FileEntry::default() },
            }
        };
        files.iter().zip(ranges).zip(self.sources).map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(sources: Vec<Source>) -> InputHashes {
        InputHashes { ranges: Vec::new(), sources }
    }

    fn files() -> [InputFile; 2] {
        [("a", 3), ("b", 10)].map(|(name, bytes)| InputFile { name: name.into(), bytes })
    }

    #[test]
    fn ranges_are_hashed_apart_and_joined_where_they_touch() {
        let mut hashes = hashes(vec![Source::Content, Source::Content]);
        hashes.add(0, 0, b"ab");
        hashes.add(0, 2, b"c");
        hashes.add(1, 1, b"abc");
        hashes.add(1, 7, b"abc");
        let [whole, ranges] = &hashes.finish(&files())[..] else { panic!("two files") };
        let sha256 = base::hex(&Sha256::of(b"abc"));
        assert_eq!((&whole.sha256, whole.ranges.len()), (&sha256, 0));
        assert_eq!(ranges.sha256, "");
        let found: Vec<_> = ranges.ranges.iter().map(|r| (r.offset, r.bytes, &r.sha256)).collect();
        assert_eq!(found, [(1, 3, &sha256), (7, 3, &sha256)]);
    }

    #[test]
    fn known_hashes_are_taken_and_said_to_be() {
        let mut hashes = hashes(vec![Source::Record("abc".into()), Source::Nothing]);
        hashes.add(0, 0, b"abc");
        hashes.add(1, 0, b"abc");
        let [recorded, nothing] = &hashes.finish(&files())[..] else { panic!("two files") };
        assert_eq!((recorded.sha256.as_str(), recorded.verified_by), ("abc", Some(VerifiedBy::Download)));
        assert_eq!((nothing.sha256.as_str(), nothing.bytes, nothing.ranges.len()), ("", 10, 0));
    }
}
