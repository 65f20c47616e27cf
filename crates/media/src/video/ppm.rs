//! A stream of PPM images, which ffmpeg writes: each says its own size, also after a rotation.

use std::io::{BufRead, Read};

use base::{Error, Result};

use crate::Image;

/// The next image of a stream, or `None` at its end.
pub(super) fn next(stream: &mut impl BufRead) -> Result<Option<Image>> {
    let io = |e| Error::io("frame", &e);
    let mut magic = Vec::new();
    stream.by_ref().take(2).read_to_end(&mut magic).map_err(io)?;
    match magic.as_slice() {
        [] => return Ok(None),
        b"P6" => {}
        _ => return Err(damaged("P6", "other bytes")),
    }
    let width = number(stream)?;
    let height = number(stream)?;
    let levels = number(stream)?;
    if levels != 255 {
        return Err(damaged("255 levels", &levels.to_string()));
    }
    // Checks the size before memory is taken for it.
    crate::image::check_sides(width, height, "frame")?;
    let bytes = width * height * 3;
    let mut rgb = Vec::new();
    stream.by_ref().take(bytes).read_to_end(&mut rgb).map_err(io)?;
    if rgb.len() as u64 != bytes {
        return Err(damaged(&format!("{bytes} bytes"), &rgb.len().to_string()));
    }
    Image::new(width as usize, height as usize, rgb).map(Some)
}

/// A decimal number between white space; the one byte of white space behind it is taken.
fn number(stream: &mut impl BufRead) -> Result<u64> {
    let mut digits = String::new();
    for byte in stream.by_ref().bytes() {
        let byte = byte.map_err(|e| Error::io("frame", &e))?;
        match byte {
            b'0'..=b'9' if digits.len() < 9 => digits.push(byte.into()),
            b' ' | b'\n' | b'\r' | b'\t' if digits.is_empty() => {}
            b' ' | b'\n' | b'\r' | b'\t' => break,
            _ => return Err(damaged("a number", "other bytes")),
        }
    }
    digits.parse().map_err(|_| damaged("a number", "the end of the stream"))
}

fn damaged(expected: &str, found: &str) -> Error {
    Error::malformed("frame", "not an image as ffmpeg writes it").expected(expected, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut stream: &[u8]) -> Result<Vec<Image>> {
        let mut images = Vec::new();
        while let Some(image) = next(&mut stream)? {
            images.push(image);
        }
        Ok(images)
    }

    #[test]
    fn streams_are_read_to_their_end() {
        let images = all(b"P6\n2 1\n255\nabcdefP6 1 1 255\nxyz").unwrap();
        assert_eq!(images.len(), 2);
        assert_eq!((images[0].width(), images[0].height(), images[0].rgb()), (2, 1, &b"abcdef"[..]));
        assert_eq!(all(b"").unwrap(), []);
    }

    #[test]
    fn damaged_streams_are_refused() {
        let streams: [&[u8]; 8] = [
            b"P",
            b"P5\n1 1\n255\nx",
            b"P6\n2 1\n255\nabcde",
            b"P6\n0 1\n255\n",
            b"P6\n1 1\n65535\nabcdef",
            b"P6\n999999999 999999999\n255\n",
            b"P6\n9999999999 1\n255\n",
            b"P6\n1 ",
        ];
        for stream in streams {
            all(stream).unwrap_err();
        }
    }
}
