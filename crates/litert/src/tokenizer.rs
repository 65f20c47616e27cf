//! The tokenizer section: the length of `tokenizer.json` as u64, then the file, compressed by zlib.

use std::io::Write;

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use tensor::{Error, Result};

/// Limit of both sizes. The tokenizer of Gemma 4 has 32 MB.
const MAX_BYTES: u64 = 256 << 20;

/// Unpacks a section.
///
/// # Errors
/// `Malformed` for damaged data and for another length than promised; `Limit`.
pub fn unpack_tokenizer(section: &[u8]) -> Result<Vec<u8>> {
    let Some((length, packed)) = section.split_first_chunk::<8>() else {
        return Err(Error::malformed("tokenizer", "too short").expected("8 bytes or more", section.len()));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_BYTES {
        return Err(Error::limit("tokenizer", "implausibly large")
            .expected(format!("at most {MAX_BYTES} bytes"), length));
    }
    let json = base::read_all(ZlibDecoder::new(packed), "tokenizer", length)
        .map_err(|e| e.moved(base::Fault::Malformed, "tokenizer"))?;
    if json.len() as u64 != length {
        return Err(Error::malformed("tokenizer", "its length differs from the one promised")
            .expected(format!("{length} bytes"), json.len()));
    }
    Ok(json)
}

/// Packs `tokenizer.json`. Other compressors give other bytes, which unpack to the same.
///
/// # Errors
/// `Limit` for an implausibly large file.
pub fn pack_tokenizer(json: &[u8]) -> Result<Vec<u8>> {
    if json.len() as u64 > MAX_BYTES {
        return Err(Error::limit("tokenizer", "implausibly large")
            .expected(format!("at most {MAX_BYTES} bytes"), json.len()));
    }
    let mut encoder = ZlibEncoder::new((json.len() as u64).to_le_bytes().to_vec(), Compression::best());
    encoder.write_all(json).and_then(|()| encoder.finish()).map_err(|e| Error::io("tokenizer", &e))
}
