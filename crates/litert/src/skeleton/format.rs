//! The format of a skeleton, which `xtask/src/cmd/skeleton/record.py` writes: the magic number, the length of what follows as u32, and
//! compressed by zlib the streams, each with its length as u32 before it.
//!
//! A stream is a sequence of numbers of one purpose: varints as in protobuf, zigzag if signed, and bytes after their length. A number
//! that depends on the width is a line: its value at 0 units of width, and what a unit adds.
//!
//! | stream | content |
//! |---|---|
//! | head | units of the full width; numbers of models, strings, vectors, layouts, tables of frequencies; description; header; executor metadata |
//! | models | for each: string with its type, number of buffers, number of operations |
//! | buffers | for each of a model: its [`Content`] |
//! | kinds | for each operation: [`TABLE`] … [`BUFFER`] |
//! | layouts, fields | for each table: its layout; the values of its fields |
//! | references | for references in tables: distance in operations; for vectors of them: number, distance, then steps |
//! | vectors, strings | for each of these operations: which one, as the step from the last of them |
//! | texts | the strings: bytes at the start and at the end that are those of the last one, and what is between them |
//! | numbers, tables, frequencies | the vectors, layouts of tables, frequencies of RoPE |

use std::sync::Arc;

use flate2::read::ZlibDecoder;
use tensor::{Error, Result};

use crate::metadata::varint;

const MAGIC: &[u8; 8] = b"GCSKEL02";
/// Limit of the streams. Those of E2B have 2 MB.
const MAX_BYTES: u32 = 64 << 20;
/// Limit of the bytes of a vector or buffer that is no weight.
const MAX_VALUES: u64 = 1 << 28;

pub(super) const TABLE: u64 = 0;
pub(super) const VECTOR: u64 = 1;
pub(super) const REFERENCES: u64 = 2;
pub(super) const STRING: u64 = 3;
pub(super) const BUFFER: u64 = 4;

/// A number of the width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    start: i64,
    unit: i64,
}

impl Line {
    pub(super) fn at(self, units: u64) -> Result<i64> {
        let value = i128::from(self.start) + i128::from(self.unit) * i128::from(units);
        i64::try_from(value).map_err(|_| wrong())
    }

    /// A number of items of `size` bytes.
    pub(super) fn count(self, units: u64, size: usize) -> Result<usize> {
        let count = u64::try_from(self.at(units)?).map_err(|_| wrong())?;
        let fits = count.checked_mul(size as u64).is_some_and(|bytes| bytes <= MAX_VALUES);
        if fits { Ok(count as usize) } else { Err(wrong()) }
    }
}

/// What a buffer holds.
#[derive(Clone, Debug)]
pub(super) enum Content {
    None,
    /// A tensor of the checkpoint: bits of a value as exported, name.
    Weight(u64, usize),
    Bytes(Vec<u8>),
    Integers(Vec<Line>),
    /// The square root of a width, or its inverse: the width of a unit.
    Root(u64, bool),
    /// One f32, repeated.
    Repeated([u8; 4], Line),
    /// Every n-th value of a table of frequencies.
    Frequencies(usize, Line),
}

/// Values of a vector.
#[derive(Clone, Debug)]
pub(super) enum Values {
    Zeros(Line),
    Lines(Vec<Line>),
    /// Bytes, as of a flexbuffer, and numbers in them: position, bytes, value.
    Words(Vec<u8>, Vec<(usize, usize, Line)>),
}

/// A vector of numbers.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    pub(super) size: usize,
    pub(super) alignment: usize,
    pub(super) values: Values,
}

/// How a field of a table is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Number(usize),
    Reference,
    /// The type of the tensor, which is that of its weights in this buffer.
    Type,
}

/// A model.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) model_type: usize,
    pub(super) buffers: Vec<Content>,
    pub(super) operations: u64,
}

/// All but the operations, which are [`Streams`].
#[derive(Clone, Debug)]
pub(super) struct Parts {
    pub(super) full: u64,
    pub(super) description: Vec<u8>,
    pub(super) header: Vec<u8>,
    pub(super) executor: Vec<u8>,
    pub(super) models: Vec<Model>,
    pub(super) strings: Vec<Vec<u8>>,
    pub(super) vectors: Vec<Numbers>,
    pub(super) layouts: Vec<Vec<(usize, Kind)>>,
    pub(super) frequencies: Vec<Vec<[u8; 4]>>,
}

/// The streams of the operations.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    pub(super) kinds: Stream,
    pub(super) layouts: Stream,
    pub(super) references: Stream,
    pub(super) fields: Stream,
    pub(super) vectors: Stream,
    pub(super) strings: Stream,
}

/// A stream, and how far it was read.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    bytes: Arc<[u8]>,
    at: usize,
    /// What the steps led to.
    index: i64,
}

impl Stream {
    fn take(&mut self, len: u64) -> Result<&[u8]> {
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len));
        let bytes = end.and_then(|end| self.bytes.get(self.at..end)).ok_or_else(wrong)?;
        self.at += bytes.len();
        Ok(bytes)
    }

    pub(super) fn number(&mut self) -> Result<u64> {
        let mut rest = &self.bytes[self.at..];
        let value = varint(&mut rest).map_err(|_| wrong())?;
        self.at = self.bytes.len() - rest.len();
        Ok(value)
    }

    pub(super) fn index(&mut self) -> Result<usize> {
        usize::try_from(self.number()?).map_err(|_| wrong())
    }

    pub(super) fn signed(&mut self) -> Result<i64> {
        let value = self.number()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// An index, which is written as the step from the last one.
    pub(super) fn step(&mut self) -> Result<usize> {
        self.index = self.index.checked_add(self.signed()?).ok_or_else(wrong)?;
        usize::try_from(self.index).map_err(|_| wrong())
    }

    /// A string that begins and ends as the last one.
    fn text(&mut self, last: &[u8]) -> Result<Vec<u8>> {
        let (start, end, own) = (self.index()?, self.index()?, self.blob()?);
        let start = last.get(..start).ok_or_else(wrong)?;
        let end = last.len().checked_sub(end).ok_or_else(wrong)?;
        Ok([start, &own, &last[end..]].concat())
    }

    fn line(&mut self) -> Result<Line> {
        Ok(Line { start: self.signed()?, unit: self.signed()? })
    }

    fn blob(&mut self) -> Result<Vec<u8>> {
        let len = self.number()?;
        self.take(len).map(<[u8]>::to_vec)
    }

    /// As many items as the stream says next.
    fn list<T>(&mut self, mut item: impl FnMut(&mut Stream) -> Result<T>) -> Result<Vec<T>> {
        let count = self.number()?;
        (0..count).map(|_| item(self)).collect()
    }

    fn content(&mut self) -> Result<Content> {
        Ok(match self.number()? {
            0 => Content::None,
            1 => Content::Weight(self.number()?, self.index()?),
            2 => Content::Bytes(self.blob()?),
            3 => Content::Integers(self.list(Stream::line)?),
            4 => Content::Root(self.number()?, self.number()? != 0),
            5 => Content::Repeated((self.number()? as u32).to_le_bytes(), self.line()?),
            6 => Content::Frequencies(self.index()?, self.line()?),
            _ => return Err(wrong()),
        })
    }

    fn numbers(&mut self) -> Result<Numbers> {
        let (size, alignment, kind) = (self.index()?, self.index()?, self.number()?);
        let is_size = |n| matches!(n, 1 | 2 | 4 | 8);
        if !is_size(size) || !is_size(alignment) {
            return Err(wrong());
        }
        let count = self.line()?;
        let values = match kind {
            0 => {
                let count = count.count(0, size)?;
                Values::Lines((0..count).map(|_| self.line()).collect::<Result<_>>()?)
            }
            1 => Values::Zeros(count),
            _ => {
                let bytes = self.blob()?;
                let words = self.list(|stream| Ok((stream.index()?, stream.index()?, stream.line()?)))?;
                let fits = |(at, len, _): &(usize, usize, Line)| {
                    *len <= size_of::<i64>() && at.checked_add(*len).is_some_and(|end| end <= bytes.len())
                };
                if size != 1 || !words.iter().all(fits) {
                    return Err(wrong());
                }
                Values::Words(bytes, words)
            }
        };
        Ok(Numbers { size, alignment, values })
    }

    fn layout(&mut self) -> Result<Vec<(usize, Kind)>> {
        self.list(|stream| {
            let slot = stream.index()?;
            let kind = match stream.number()? {
                n @ 0..4 => Kind::Number(1 << n),
                4 => Kind::Reference,
                5 => Kind::Type,
                _ => return Err(wrong()),
            };
            if slot < 64 { Ok((slot, kind)) } else { Err(wrong()) }
        })
    }
}

/// Unpacks a skeleton.
pub(super) fn read(packed: &[u8]) -> Result<(Parts, Streams)> {
    let not_one =
        || Error::malformed("skeleton", "not a graph skeleton").expected("GCSKEL02", "another start");
    let rest = packed.strip_prefix(MAGIC).ok_or_else(not_one)?;
    let (len, rest) = rest.split_first_chunk().ok_or_else(wrong)?;
    let len = u32::from_le_bytes(*len);
    if len > MAX_BYTES {
        return Err(Error::limit("skeleton", "implausibly large").expected(MAX_BYTES, len));
    }
    let bytes = base::read_all(ZlibDecoder::new(rest), "skeleton", len.into())
        .map_err(|e| e.moved(base::Fault::Malformed, "skeleton"))?;
    let mut bytes = &bytes[..];
    let mut stream = || {
        let (len, rest) = bytes.split_first_chunk().ok_or_else(wrong)?;
        let (stream, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or_else(wrong)?;
        bytes = rest;
        Ok(Stream { bytes: stream.into(), at: 0, index: 0 })
    };
    let mut head = stream()?;
    let (mut models, mut buffers) = (stream()?, stream()?);
    let (kinds, layouts, references, fields) = (stream()?, stream()?, stream()?, stream()?);
    let (vectors, strings) = (stream()?, stream()?);
    let (mut texts, mut numbers, mut tables, mut frequencies) = (stream()?, stream()?, stream()?, stream()?);

    let mut last = Vec::new();
    let full = head.number()?;
    let [of_models, of_strings, of_vectors, of_layouts, of_frequencies] =
        [head.number()?, head.number()?, head.number()?, head.number()?, head.number()?];
    let parts = Parts {
        full,
        description: head.blob()?,
        header: head.blob()?,
        executor: head.blob()?,
        models: times(of_models, || {
            let (model_type, count, operations) = (models.index()?, models.number()?, models.number()?);
            Ok(Model { model_type, buffers: times(count, || buffers.content())?, operations })
        })?,
        strings: times(of_strings, || {
            last = texts.text(&last)?;
            Ok(last.clone())
        })?,
        vectors: times(of_vectors, || numbers.numbers())?,
        layouts: times(of_layouts, || tables.layout())?,
        frequencies: times(of_frequencies, || Ok(frequencies.blob()?.as_chunks().0.to_vec()))?,
    };
    Ok((parts, Streams { kinds, layouts, references, fields, vectors, strings }))
}

fn times<T>(count: u64, mut item: impl FnMut() -> Result<T>) -> Result<Vec<T>> {
    (0..count).map(|_| item()).collect()
}

pub(super) fn wrong() -> Error {
    Error::malformed("skeleton", "it is damaged")
}
