//! A JPEG file has its end. The decoder fills missing data with grey, as browsers do, which no measurement would notice.
//!
//! Missing data before a premature end marker are not found; Pillow accepts such files, too.

use base::{Error, Result};

const START_OF_IMAGE: u8 = 0xd8;
const END_OF_IMAGE: u8 = 0xd9;
const TEMPORARY: u8 = 0x01;

/// Walks through the segments of a file to its end marker.
pub(super) fn expect_whole(bytes: &[u8]) -> Result<()> {
    let mut at = 0;
    // Thumbnails have end markers as well; they are inside of segments, which have lengths.
    while let Some(marker) = next_marker(bytes, &mut at) {
        match marker {
            END_OF_IMAGE => return Ok(()),
            START_OF_IMAGE | TEMPORARY => {}
            _ => {
                let Some(length) = bytes.get(at..at + 2) else { break };
                let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
                if length < 2 {
                    return Err(Error::malformed("JPEG image", "a segment with an impossible length")
                        .expected("at least 2 bytes", length));
                }
                at += length;
            }
        }
    }
    Err(Error::malformed("JPEG image", "truncated")
        .expected("an end marker", format!("the end of the file after {} bytes", bytes.len()))
        .help("Get the file again; it was not transferred or saved to its end."))
}

/// The next marker that is no part of compressed data, and the place behind it.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        let rest = bytes.get(*at..)?;
        *at += rest.iter().position(|byte| *byte == 0xff)? + 1;
        match bytes.get(*at)? {
            // A stuffed byte, or restart markers, of compressed data.
            0x00 | 0xd0..=0xd7 => *at += 1,
            // Fill bytes may precede a marker.
            0xff => {}
            marker => {
                *at += 1;
                return Some(*marker);
            }
        }
    }
}
