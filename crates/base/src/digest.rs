//! SHA-256 of streams, and bytes in hexadecimal.

use std::io::{self, ErrorKind, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{Error, Result, open_regular};

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// Bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from(DIGITS[usize::from(digit)]));
    bytes.iter().flat_map(digits).collect()
}

/// Reads a stream to its end: its length in bytes, and its SHA-256 in hexadecimal. `progress` gets byte counts.
///
/// # Errors
/// Those of the stream.
pub fn sha256(mut from: impl Read, progress: &(dyn Fn(u64) + Sync)) -> io::Result<(u64, String)> {
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; PIECE]);
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok((bytes, hex(&hash.finalize()))),
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

    #[test]
    fn digests_are_those_of_sha256sum() {
        let found = sha256(&b"abc"[..], &|_| ()).unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(found, (3, expected.to_owned()));
        assert_eq!(hex(&[0, 0x0f, 0xf0, 0xff]), "000ff0ff");
    }
}
