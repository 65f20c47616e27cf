//! `.sbs`, gemma.cpp's single-file format: lists its blobs and its table of contents. Weights are not decoded.
//!
//! All numbers are little endian. A header is a magic, the number of blobs (u32) and the file length (u64). In version
//! 1 it is at the start, before the directory; in version 2 the number of blobs there is 0, and directory and header
//! are at the end. The directory has all keys (16 bytes each, padded with zeros), then the offset and length (u64) of
//! each blob. There is one blob for each tensor, plus `config`, `tokenizer` and `toc`. `toc` has an array of u32 for
//! each tensor, which begins with its own length. Source: google/gemma.cpp 3ed403e2, `io/blob_store.cc`,
//! `io/fields.cc`, `compression/types.h`.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use base::Positioned;
use tensor::{Error, Result};

const MAGIC: [u8; 4] = *b"SBS\n";
const HEADER: u64 = 16;
/// Maximum number of blobs, as in gemma.cpp.
const MAX_BLOBS: u32 = 16384;
/// Maximum bytes of the table of contents, far above what that many blobs need.
const MAX_TOC: u64 = 16 << 20;
/// Type names, indexed by the type number in `toc`.
const TYPES: [&str; 9] = ["unknown", "f32", "bf16", "sfp", "nuq", "f64", "u32", "u64", "i8"];

/// The contents of an `.sbs` file.
#[derive(Clone, Debug, PartialEq)]
pub struct Sbs {
    /// Format version, 1 or 2.
    pub version: u32,
    /// Size of the file in bytes.
    pub len: u64,
    /// The blobs, in directory order.
    pub blobs: Vec<SbsBlob>,
}

/// A named byte range of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct SbsBlob {
    /// Key in the directory.
    pub key: String,
    /// Byte offset in the file.
    pub offset: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// Entry in the table of contents, if the blob is a tensor.
    pub tensor: Option<SbsTensor>,
}

/// A tensor of the table of contents.
#[derive(Clone, Debug, PartialEq)]
pub struct SbsTensor {
    /// gemma.cpp's name of the type: `sfp`, `bf16`, …
    pub kind: &'static str,
    /// Rows and columns.
    pub shape: [u64; 2],
    /// Scale by which the values are multiplied.
    pub scale: f32,
}

/// True if the file begins with the magic of an `.sbs` file.
pub fn is_sbs(path: &Path) -> bool {
    base::begins_with(path, &MAGIC).unwrap_or(false)
}

impl Sbs {
    /// Reads header, directory and table of contents.
    ///
    /// # Errors
    /// `Malformed` for contradictory or truncated contents, `Limit` for more blobs than gemma.cpp allows.
    pub fn open(path: &Path) -> Result<Sbs> {
        let file = File::open(path).map_err(|e| Error::io(path.display(), &e))?;
        let len = file.metadata().map_err(|e| Error::io(path.display(), &e))?.len();
        Sbs::read(&file, len).map_err(|e| e.within(path.display()))
    }

    fn read(file: &File, len: u64) -> Result<Sbs> {
        let first = header(file, len, 0)?;
        let version = if first.blobs == 0 { 2 } else { 1 };
        let real = if version == 2 { header(file, len, len - HEADER)? } else { first };
        if real.len != len {
            return Err(Error::malformed("header", "truncated, or not the file that it describes")
                .expected(format!("{} bytes", real.len), len));
        }
        if real.blobs > MAX_BLOBS {
            return Err(Error::limit("header", "too many blobs").expected(MAX_BLOBS, real.blobs));
        }
        let count = real.blobs as usize;
        let size = 32 * count as u64;
        let start = if version == 2 { len.checked_sub(HEADER + size) } else { Some(HEADER) };
        let start = start.filter(|start| start + size <= len);
        let start = start.ok_or_else(|| Error::malformed("directory", "is longer than the file"))?;
        let directory = bytes(file, start, size, "directory")?;
        let (keys, places) = directory.split_at(16 * count);
        let blobs = keys.as_chunks::<16>().0.iter().zip(places.as_chunks::<16>().0);
        let blobs = blobs.map(|(key, place)| {
            let [offset, bytes] = [0, 8].map(|at| u64::from_le_bytes(part(place, at)));
            let key = String::from_utf8_lossy(key).trim_end_matches('\0').to_owned();
            match offset.checked_add(bytes).filter(|end| *end <= len) {
                Some(_) => Ok(SbsBlob { key, offset, bytes, tensor: None }),
                None => Err(Error::malformed(format!("blob {key}"), "reaches beyond the end of the file")
                    .expected(format!("at most {len}"), format!("{offset} + {bytes}"))),
            }
        });
        let mut sbs = Sbs { version, len, blobs: blobs.collect::<Result<_>>()? };
        if let Some(toc) = sbs.blobs.iter().find(|blob| blob.key == "toc") {
            if toc.bytes > MAX_TOC {
                return Err(Error::limit("blob toc", "too long").expected(MAX_TOC, toc.bytes));
            }
            let words = bytes(file, toc.offset, toc.bytes, "blob toc")?;
            let words: Vec<u32> = words.as_chunks::<4>().0.iter().map(|w| u32::from_le_bytes(*w)).collect();
            let mut tensors = contents(&words)?;
            for blob in &mut sbs.blobs {
                blob.tensor = tensors.remove(&blob.key);
            }
        }
        Ok(sbs)
    }
}

struct Header {
    blobs: u32,
    len: u64,
}

fn header(file: &File, len: u64, at: u64) -> Result<Header> {
    if len < HEADER {
        return Err(Error::malformed("header", "too short for an .sbs file").expected(HEADER, len));
    }
    let bytes = bytes(file, at, HEADER, "header")?;
    if bytes[..4] != MAGIC {
        return Err(Error::malformed(format!("header at byte {at}"), "not that of an .sbs file")
            .expected("SBS", String::from_utf8_lossy(&bytes[..4]).escape_debug()));
    }
    Ok(Header { blobs: u32::from_le_bytes(part(&bytes, 4)), len: u64::from_le_bytes(part(&bytes, 8)) })
}

fn bytes(file: &File, at: u64, len: u64, place: &str) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, at).map_err(|e| Error::io(place, &e))?;
    Ok(bytes)
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}

/// The tensors of a table of contents, by name. Fields added by newer versions of gemma.cpp are skipped.
fn contents(mut words: &[u32]) -> Result<HashMap<String, SbsTensor>> {
    let damaged = || Error::malformed("blob toc", "ends in the middle of an entry");
    let mut tensors = HashMap::new();
    // the blob may be padded with zeros
    while let Some((&len, rest)) = words.split_first().filter(|(len, _)| **len > 0) {
        let (entry, rest) = rest.split_at_checked(len as usize).ok_or_else(damaged)?;
        words = rest;
        let (&count, entry) = entry.split_first().ok_or_else(damaged)?;
        let (name, entry) = entry.split_at_checked(count as usize).ok_or_else(damaged)?;
        let name: Vec<u8> = name.iter().flat_map(|word| word.to_le_bytes()).take_while(|b| *b != 0).collect();
        // type, element_bytes, num_elements, rows, cols, scale, stride
        let &[kind, _, _, rows, cols, scale, ..] = entry else { return Err(damaged()) };
        let tensor = SbsTensor {
            kind: TYPES.get(kind as usize).copied().unwrap_or(TYPES[0]),
            shape: [rows.into(), cols.into()],
            scale: f32::from_bits(scale),
        };
        tensors.insert(String::from_utf8_lossy(&name).into_owned(), tensor);
    }
    Ok(tensors)
}
