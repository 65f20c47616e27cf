//! WAV files: PCM of 8 to 32 bits, and floats.
//!
//! A reader of our own, because a file that contradicts itself must be an error here and is a shorter sound elsewhere.

use std::io::{self, BufReader, Read};

use base::{Error, Result};

use super::Mono;

/// The length of a chunk that a program did not know when it wrote the header: ffmpeg's, for a pipe.
const UNKNOWN: u32 = u32::MAX;

/// Bytes that are decoded at once, about.
const BLOCK: usize = 1 << 16;

const PCM: u16 = 1;
const FLOAT: u16 = 3;
const EXTENSIBLE: u16 = 0xfffe;

/// The end of the identifier that holds a format's number in an extensible header.
const GUID_TAIL: [u8; 14] = [0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71];

/// Reads a file of `length` bytes from its beginning.
pub(super) fn read(source: impl Read, length: u64) -> Result<Mono> {
    let io = |e: io::Error| match e.kind() {
        io::ErrorKind::UnexpectedEof => cut_short("the end of the file inside of a chunk"),
        _ => Error::io("WAV file", &e),
    };
    let mut reader = BufReader::new(source);
    let mut at = 12;
    io::copy(&mut reader.by_ref().take(at), &mut io::sink()).map_err(io)?;
    let mut format = None;
    while length.saturating_sub(at) >= 8 {
        let mut head = [0; 8];
        reader.read_exact(&mut head).map_err(io)?;
        at += 8;
        let [a, b, c, d, size @ ..] = head;
        let size = u32::from_le_bytes(size);
        match &[a, b, c, d] {
            b"fmt " => {
                // Never longer than 40 bytes; what follows is skipped.
                let mut bytes = vec![0; size.min(40) as usize];
                reader.read_exact(&mut bytes).map_err(io)?;
                at += bytes.len() as u64;
                at += skip(&mut reader, padded(size) - bytes.len() as u64).map_err(io)?;
                format = Some(Format::parse(&bytes)?);
            }
            b"data" => {
                let format = format.ok_or_else(|| Error::missing("chunk \"fmt \" before the data"))?;
                let rest = length - at;
                let size = data_size(size, rest)?;
                return samples(&mut reader, &format, size).map_err(|problem| match problem {
                    Problem::Io(e) => io(e),
                    Problem::Other(error) => error,
                });
            }
            _ => at += skip(&mut reader, padded(size)).map_err(io)?,
        }
    }
    Err(cut_short("no chunk \"data\""))
}

fn cut_short(found: &str) -> Error {
    Error::malformed("WAV file", "truncated or damaged").expected("chunks \"fmt \" and \"data\"", found)
}

/// Chunks begin at even places.
fn padded(size: u32) -> u64 {
    u64::from(size) + u64::from(size & 1)
}

fn skip(reader: &mut impl Read, bytes: u64) -> io::Result<u64> {
    io::copy(&mut reader.take(bytes), &mut io::sink())
}

/// Bytes of sound: those that are declared, which must be there.
fn data_size(declared: u32, rest: u64) -> Result<u64> {
    let place = "chunk \"data\"";
    if declared == UNKNOWN {
        return Ok(rest);
    }
    if u64::from(declared) > rest {
        return Err(Error::malformed(place, "truncated: fewer bytes than declared")
            .expected(format!("{declared} bytes"), rest)
            .help("If the file is all there is, write it again: ffmpeg -i FILE -c:a pcm_s16le FILE.wav"));
    }
    if declared == 0 && rest > 0 {
        return Err(Error::malformed(
            place,
            "declared as empty, but bytes follow; its header was not completed",
        )
        .expected("a length", format!("0 before {rest} bytes"))
        .help("Write it again: ffmpeg -ignore_length 1 -i FILE -c:a pcm_s16le FILE.wav"));
    }
    Ok(declared.into())
}

/// The encoding of the samples.
struct Format {
    float: bool,
    channels: usize,
    rate: u32,
    bytes: usize,
}

impl Format {
    fn parse(bytes: &[u8]) -> Result<Format> {
        let place = "chunk \"fmt \"";
        let (pairs, _) = bytes.as_chunks::<2>();
        let fields: Vec<u16> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
        let &[tag, channels, rate_low, rate_high, _, _, frame, bits, ref rest @ ..] = fields.as_slice()
        else {
            return Err(Error::malformed(place, "too short").expected("at least 16 bytes", bytes.len()));
        };
        let tag = match rest {
            // Size of the extension, valid bits, positions of channels, and the number of the format with its tail.
            [_, _, _, _, number, ..] if tag == EXTENSIBLE && bytes.get(26..40) == Some(&GUID_TAIL[..]) => {
                *number
            }
            _ => tag,
        };
        let float = match (tag, bits) {
            (PCM, 8 | 16 | 24 | 32) => false,
            (FLOAT, 32 | 64) => true,
            _ => {
                return Err(Error::unsupported(place, "an encoding that is not read")
                    .expected(
                        "PCM of 8, 16, 24 or 32 bits, or floats of 32 or 64",
                        format!("format {tag} of {bits} bits"),
                    )
                    .help("Convert it: ffmpeg -i FILE -c:a pcm_s16le FILE.wav"));
            }
        };
        let size = usize::from(bits / 8);
        let channels = usize::from(channels);
        if channels == 0 || usize::from(frame) != channels * size {
            return Err(Error::malformed(place, "contradicts itself").expected(
                "bytes of all channels = channels × bytes of a sample",
                format!("{frame} bytes, {channels} channels of {bits} bits"),
            ));
        }
        Ok(Format { float, channels, rate: u32::from(rate_low) | u32::from(rate_high) << 16, bytes: size })
    }

    /// The value of one sample.
    fn value(&self, bytes: &[u8]) -> f32 {
        match (bytes, self.float) {
            (&[a], _) => (f32::from(a) - 128.0) / 128.0,
            (&[a, b], _) => f32::from(i16::from_le_bytes([a, b])) / 32_768.0,
            (&[a, b, c], _) => (i32::from_le_bytes([0, a, b, c]) >> 8) as f32 / 8_388_608.0,
            (&[a, b, c, d], true) => f32::from_le_bytes([a, b, c, d]),
            (&[a, b, c, d], false) => i32::from_le_bytes([a, b, c, d]) as f32 / 2_147_483_648.0,
            (&[a, b, c, d, e, f, g, h], _) => f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32,
            // `parse` accepts no other size.
            _ => f32::NAN,
        }
    }
}

enum Problem {
    Io(io::Error),
    Other(Error),
}

fn samples(reader: &mut impl Read, format: &Format, size: u64) -> Result<Mono, Problem> {
    let frame = format.channels * format.bytes;
    if !size.is_multiple_of(frame as u64) {
        let error = Error::malformed("chunk \"data\"", "no whole number of samples")
            .expected(format!("a multiple of {frame} bytes"), size);
        return Err(Problem::Other(error));
    }
    let mut mono =
        Mono::new(format.rate, format.channels, Some(size / frame as u64)).map_err(Problem::Other)?;
    let block = (BLOCK / frame).max(1) * frame;
    let mut bytes = vec![0; block];
    let mut values = Vec::with_capacity(block / format.bytes);
    let mut rest = size;
    while rest > 0 {
        let bytes = &mut bytes[..rest.min(block as u64) as usize];
        reader.read_exact(bytes).map_err(Problem::Io)?;
        rest -= bytes.len() as u64;
        values.clear();
        values.extend(bytes.chunks_exact(format.bytes).map(|sample| format.value(sample)));
        mono.push(&values).map_err(Problem::Other)?;
    }
    Ok(mono)
}
