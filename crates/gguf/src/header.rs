//! Reads the part of a file before the first tensor byte, and checks every length.
//!
//! Accepts the files that `gguf_init_from_reader` of ggml's `gguf.cpp` accepts, and is stricter in five points: version
//! 3 only; text is UTF-8 and names contain no NUL; booleans are 0 or 1; tensors have dimensions; the file contains all
//! their bytes. As in ggml, tensors must be packed in the order of their records, so no two can overlap.

use std::collections::HashSet;
use std::io::Read;

use gguf_rs_lib::error::GGUFError;
use gguf_rs_lib::format::GGUFHeader;
use tensor::{Error, Result, TensorDesc};

use crate::dtype::dtype_of;
use crate::input::Input;
use crate::layout::{MAX_DIMS, MAX_KEY, MAX_NAME, Placed, alignment, padded_end, unusable};
use crate::metadata::Metadata;
use crate::value::Value;

/// Minimum bytes of a key-value pair: length and one byte of key, type, one byte of value.
const MIN_PAIR: u64 = 8 + 1 + 4 + 1;
/// Minimum bytes of a tensor record: length and one byte of name, count and one dimension, type, offset.
const MIN_RECORD: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// Maximum number of pairs and of tensors: each takes more memory than bytes in the file. The largest Gemma files have
/// 100 and 1,200.
const MAX_PAIRS: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 18;

/// The metadata of a file and the positions of its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// The key-value pairs, in file order.
    pub metadata: Metadata,
    /// The tensors, in file order. Each lies entirely within the file.
    pub tensors: Vec<Placed>,
    /// Byte offset in the file of the end of the tensor records. Padding follows, up to `data_start`.
    pub records_end: u64,
    /// Byte offset in the file of the first tensor byte.
    pub data_start: u64,
}

impl Header {
    /// Reads the header of a file of `file_len` bytes, and nothing beyond the header.
    ///
    /// # Errors
    /// `Malformed`, `Unsupported` (big-endian, other versions, types that this crate lacks), `Limit` (metadata beyond
    /// 256 MiB) or `Io`. The place is a key or a tensor; the caller adds the file.
    pub fn read(from: &mut dyn Read, file_len: u64) -> Result<Header> {
        let mut input = Input::new(from, file_len);
        let counts = read_counts(&mut input)?;
        let metadata = read_metadata(&mut input, counts.metadata_kv_count)?;
        let alignment = alignment(&metadata)?;
        let mut tensors = read_tensors(&mut input, counts.tensor_count, alignment)?;

        let records_end = input.position();
        let data_start = records_end.next_multiple_of(alignment);
        for tensor in &mut tensors {
            tensor.offset += data_start;
            let end = tensor.offset + tensor.desc.byte_len();
            if end > file_len {
                return Err(Error::malformed(
                    format!("tensor {}", tensor.desc.name),
                    "the file ends before the tensor does: it is cut short or not fully downloaded",
                )
                .expected(format!("{end} bytes"), file_len));
            }
        }
        Ok(Header { metadata, tensors, records_end, data_start })
    }
}

fn read_counts(input: &mut Input) -> Result<GGUFHeader> {
    let bytes: [u8; 24] = input.bytes()?;
    GGUFHeader::read_from(&mut bytes.as_slice()).map_err(|e| match e {
        GGUFError::InvalidMagic { .. } => {
            input.malformed("not a GGUF file").expected("GGUF", bytes[..4].escape_ascii())
        }
        GGUFError::UnsupportedVersion(v) if (1..=3).contains(&v.swap_bytes()) => {
            Error::unsupported(&input.place, "a big-endian GGUF file").help("Convert the model again.")
        }
        GGUFError::UnsupportedVersion(v) => {
            Error::unsupported(&input.place, "a GGUF version that this tool does not read").expected(3, v)
        }
        other => input.malformed(other),
    })
}

fn expect_few(input: &Input, count: u64, most: u64) -> Result<()> {
    if count > most {
        return Err(
            Error::limit(&input.place, "implausibly many entries").expected(format!("at most {most}"), count)
        );
    }
    Ok(())
}

fn read_metadata(input: &mut Input, count: u64) -> Result<Metadata> {
    input.place = "metadata".into();
    input.expect(count, MIN_PAIR)?;
    expect_few(input, count, MAX_PAIRS)?;
    let mut seen = HashSet::new();
    let mut pairs = Vec::new();
    for number in 0..count {
        input.place = format!("key number {number}");
        let key = input.string(MAX_KEY as u64)?;
        if let Some(problem) = unusable(&key) {
            return Err(input.malformed(problem));
        }
        input.place = format!("key {key}");
        if !seen.insert(key.clone()) {
            return Err(input.malformed("the key occurs twice"));
        }
        let value = Value::read(input)?;
        pairs.push((key, value));
    }
    Ok(Metadata::from_unique(pairs))
}

/// The tensors, with offsets relative to the first tensor byte.
fn read_tensors(input: &mut Input, count: u64, alignment: u64) -> Result<Vec<Placed>> {
    input.place = "tensor records".into();
    input.expect(count, MIN_RECORD)?;
    expect_few(input, count, MAX_TENSORS)?;
    let mut seen = HashSet::new();
    let mut tensors = Vec::new();
    let mut end = 0;
    for number in 0..count {
        input.place = format!("tensor number {number}");
        let tensor = read_record(input)?;
        if !seen.insert(tensor.desc.name.clone()) {
            return Err(input.malformed("there are two tensors of this name"));
        }
        if tensor.offset != end {
            return Err(input
                .malformed("its offset does not follow from the tensors before it")
                .expected(format!("offset {end}"), tensor.offset));
        }
        end = padded_end(&tensor.desc, end, alignment)?;
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn read_record(input: &mut Input) -> Result<Placed> {
    let name = input.string(MAX_NAME as u64)?;
    if let Some(problem) = unusable(&name) {
        return Err(input.malformed(problem));
    }
    input.place = format!("tensor {name}");
    let dims = input.u32()? as usize;
    if !(1..=MAX_DIMS).contains(&dims) {
        return Err(input.malformed("number of dimensions").expected(format!("1 to {MAX_DIMS}"), dims));
    }
    let mut shape = Vec::with_capacity(dims);
    for _ in 0..dims {
        shape.push(input.u64()?);
    }
    if shape.iter().any(|&d| d > i64::MAX as u64) {
        return Err(input.malformed(format!("an impossible shape {shape:?}")));
    }
    shape.reverse();
    let dtype = dtype_of(input.u32()?).map_err(|e| e.within(&input.place))?;
    let offset = input.u64()?;
    Ok(Placed { desc: TensorDesc::new(name, dtype, shape)?, offset })
}
