//! SHA-256 of streams, and bytes in hexadecimal.

use std::io::{self, ErrorKind, Read};
use std::path::Path;

use ring::digest::{Context, SHA256};

use crate::{Error, Result, open_regular};

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// Bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from(DIGITS[usize::from(digit)]));
    bytes.iter().flat_map(digits).collect()
}

/// A SHA-256 in progress. The code for processors without SHA instructions is what decides for this library: see
/// docs/decisions/sha-256.md.
#[derive(Clone)]
pub struct Sha256(Context);

impl Default for Sha256 {
    fn default() -> Sha256 {
        Sha256(Context::new(&SHA256))
    }
}

impl Sha256 {
    /// The hash of no bytes yet.
    pub fn new() -> Sha256 {
        Sha256::default()
    }

    /// The hash of these bytes.
    pub fn of(bytes: impl AsRef<[u8]>) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(bytes);
        hash.finish()
    }

    /// Appends bytes.
    pub fn update(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.update(bytes.as_ref());
    }

    /// The hash of all bytes.
    pub fn finish(self) -> [u8; 32] {
        let mut digest = [0; 32];
        digest.copy_from_slice(self.0.finish().as_ref());
        digest
    }
}

/// Reads a stream to its end: its length in bytes, and its SHA-256 in hexadecimal. `progress` gets byte counts.
///
/// # Errors
/// Those of the stream.
pub fn sha256(mut from: impl Read, progress: &(dyn Fn(u64) + Sync)) -> io::Result<(u64, String)> {
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; PIECE]);
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok((bytes, hex(&hash.finish()))),
            Ok(count) => {
                hash.update(&buffer[..count]);
                bytes += count as u64;
                progress(count as u64);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// The length of a file in bytes, and its SHA-256 in hexadecimal. `progress` gets byte counts.
///
/// # Errors
/// `Malformed` for anything but a regular file; `Io`.
pub fn sha256_file(path: &Path, progress: &(dyn Fn(u64) + Sync)) -> Result<(u64, String)> {
    sha256(open_regular(path)?, progress).map_err(|e| Error::io(path.display(), &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All lengths around a block, in one piece and in two, against another library.
    #[test]
    fn digests_are_those_of_sha2() {
        use sha2::Digest;
        let bytes: Vec<u8> = (0..300u32).map(|n| ((n * n) >> 3) as u8).collect();
        for len in 0..=bytes.len() {
            let expected: [u8; 32] = sha2::Sha256::digest(&bytes[..len]).into();
            let mut parts = Sha256::new();
            parts.update(&bytes[..len / 3]);
            parts.update(&bytes[len / 3..len]);
            assert_eq!((Sha256::of(&bytes[..len]), parts.finish()), (expected, expected), "{len} bytes");
        }
    }

    #[test]
    fn digests_are_those_of_sha256sum() {
        let found = sha256(&b"abc"[..], &|_| ()).unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(found, (3, expected.to_owned()));
        assert_eq!(hex(&[0, 0x0f, 0xf0, 0xff]), "000ff0ff");
    }
}
