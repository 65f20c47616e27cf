//! Checksums of what a part of a run has written: against damage on the way to [`join`](crate::join()), which makes the SHA-256 of the
//! whole file. XXH3 with 128 bits costs a tenth of a SHA-256.

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

/// A range of an output that a part has written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct WrittenRange {
    /// Offset of the first byte.
    pub(crate) offset: u64,
    /// Length in bytes.
    pub(crate) bytes: u64,
    /// XXH3 with 128 bits, seed 0, in hexadecimal.
    pub(crate) xxh3: String,
}

/// The checksum of bytes so far.
#[derive(Default)]
pub(crate) struct Checksum(XxHash3_128);

impl Checksum {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    pub(crate) fn hex(&self) -> String {
        format!("{:032x}", self.0.finish_128())
    }
}
