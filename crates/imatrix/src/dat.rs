//! The older format, `.dat`, little-endian: the number of entries (i32); for each entry the length of its name, the
//! name, the number of chunks (i32), the number of values (i32) and the values, each a mean times the number of chunks
//! (f32). Newer files end with the total number of chunks (i32), and the length and the path of the text.
//!
//! The format has neither matrices nor the size of a chunk: the count of an entry is its number of chunks.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;

use tensor::{Error, Result};

use crate::{Entry, Importance};

/// Minimum bytes of an entry: a name of one byte, one value.
const MIN_ENTRY: u64 = 4 + 1 + 4 + 4 + 4;
/// Maximum bytes of a name, far above those of real tensors.
const MAX_NAME: i32 = 1024;
/// Maximum bytes of a path on Linux.
const MAX_PATH: i32 = 4096;

/// True if the file begins like a `.dat`: a number of entries, and the name of a weight.
pub(crate) fn is_one(path: &Path) -> bool {
    let name = || {
        let mut input = Input::open(path)?;
        input.entries()?;
        input.text("name", MAX_NAME)
    };
    name().is_ok_and(|name| name.ends_with(".weight"))
}

pub(crate) fn read(path: &Path) -> Result<Importance> {
    let mut input = Input::open(path)?;
    let entries = input.entries().map_err(|e| {
        e.help("An imatrix file is a GGUF, or an older .dat that begins with the number of its entries.")
    })?;
    let mut importance = Importance { chunk_size: None, ..Importance::new(Vec::new(), 0, 0) };
    for number in 0..entries {
        input.place = format!("entry number {number}");
        let name = input.text("its name", MAX_NAME)?;
        input.place = format!("entry {name}");
        let chunks = input.i32()?;
        if chunks < 0 {
            return Err(
                Error::malformed(&input.place, "not a number of chunks").expected("0 or more", chunks)
            );
        }
        let values = input.count("values", i32::MAX)?;
        let bytes = input.bytes(values as u64 * 4)?;
        let values = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        // llama.cpp uses the values unchanged if there are no chunks
        let entry = Entry::new(values, vec![chunks.max(1) as u64]).map_err(|e| e.within(&input.place))?;
        if importance.insert(&name, entry).is_some() {
            return Err(Error::malformed(&input.place, "there are two entries of this name"));
        }
    }
    input.place = "the end".into();
    if input.left > 0 {
        importance.chunks = u32::try_from(input.i32()?).unwrap_or(0);
    }
    if input.left > 0 {
        importance.datasets.push(input.text("the path of the text", MAX_PATH)?);
        importance.datasets.retain(|text| !text.is_empty());
    }
    match input.left {
        0 => Ok(importance),
        left => Err(Error::malformed(input.place, "trailing bytes")
            .expected("the end of the file", format!("{left} bytes"))),
    }
}

/// A sequential reader of a file, which knows the number of bytes left.
struct Input {
    from: BufReader<File>,
    left: u64,
    place: String,
}

impl Input {
    fn open(path: &Path) -> Result<Input> {
        let io = |e| Error::io("header", &e);
        let file = base::open_regular(path)?;
        let left = file.metadata().map_err(io)?.len();
        crate::expect_size(left)?;
        Ok(Input { from: BufReader::new(file), left, place: "header".into() })
    }

    /// Reads `count` bytes; allocates no more than the file has left.
    fn bytes(&mut self, count: u64) -> Result<Vec<u8>> {
        if count > self.left {
            return Err(Error::malformed(&self.place, "the file is too short")
                .expected(format!("{count} bytes"), self.left));
        }
        let mut bytes = vec![0; count as usize];
        self.from.read_exact(&mut bytes).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => {
                Error::malformed(&self.place, "the file ended while it was being read")
            }
            _ => Error::io(&self.place, &e),
        })?;
        self.left -= count;
        Ok(bytes)
    }

    fn i32(&mut self) -> Result<i32> {
        let bytes = self.bytes(4)?;
        Ok(i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn entries(&mut self) -> Result<i32> {
        let most = i32::try_from(self.left / MIN_ENTRY).unwrap_or(i32::MAX);
        self.count("entries", most.max(1))
    }

    /// Reads a number of items, from 1 to `most`.
    fn count(&mut self, what: &str, most: i32) -> Result<i32> {
        match self.i32()? {
            count if (1..=most).contains(&count) => Ok(count),
            count => Err(Error::malformed(&self.place, format!("an impossible number of {what}"))
                .expected(format!("1 to {most}"), count)),
        }
    }

    fn text(&mut self, what: &str, most: i32) -> Result<String> {
        let len = self.i32()?;
        if !(0..=most).contains(&len) {
            return Err(Error::malformed(&self.place, format!("an impossible length of {what}"))
                .expected(format!("at most {most} bytes"), len));
        }
        String::from_utf8(self.bytes(len as u64)?)
            .map_err(|_| Error::malformed(&self.place, format!("{what} is not valid UTF-8")))
    }
}
