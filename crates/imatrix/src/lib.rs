//! How much each column of each matrix matters: llama.cpp's importance matrices ("imatrix"), read, written and merged.
//!
//! For every matrix that text goes through, a file holds Σx² of each column of its input and the number of tokens that
//! were summed; their quotient steers how `llama-quantize --imatrix`, and `convert --importance`, round. Both forms of
//! file are read: GGUF (`gguf.rs`) and the older `.dat` (`dat.rs`), which does not say how many tokens its counts
//! are of and so is not merged or written. docs/importance.md is the page for users.
//!
//! Left out: how the sums are collected, and what is quantised by them.
//!
//! Sources: llama.cpp's `tools/imatrix/imatrix.cpp` (writing, merging), `common/imatrix-loader.cpp` (reading), and
//! `load_imatrix` of `tools/quantize/quantize.cpp` (what becomes of a sum).

mod dat;
mod entry;
mod gguf;
mod merge;
mod statistics;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use base::write_whole;
use tensor::{Error, Result};

pub use entry::Entry;
pub use statistics::Statistics;

/// The importance of a model's columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Importance {
    /// The texts that it was made of, by the paths that were given.
    pub datasets: Vec<String>,
    /// Chunks of text that went through the model.
    pub chunks: u32,
    /// Tokens of a chunk. `None` of a `.dat` file: its sums are means, each times the chunks that are its count.
    pub chunk_size: Option<u32>,
    entries: BTreeMap<String, Entry>,
}

impl Importance {
    /// Without entries yet.
    pub fn new(datasets: Vec<String>, chunks: u32, chunk_size: u32) -> Importance {
        Importance { datasets, chunks, chunk_size: Some(chunk_size), entries: BTreeMap::new() }
    }

    /// Sets the entry of a tensor, called by its name in a GGUF: `blk.0.attn_q.weight`. Returns the old one.
    pub fn insert(&mut self, name: impl Into<String>, entry: Entry) -> Option<Entry> {
        self.entries.insert(name.into(), entry)
    }

    /// The entry of a tensor.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// The entries by name, in the order of bytes, which is that of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Gives every expert that no token was routed to the mean of those that saw some, as one token of it: else
    /// `llama-quantize` would take ones, which are no measure beside Σx² of the others. Returns the names of the entries
    /// with the numbers of the experts; a reader of the file can tell them too, see [`Entry::filled`].
    ///
    /// An entry that no token at all went through stays as it is.
    pub fn fill_unseen(&mut self) -> Vec<(String, Vec<usize>)> {
        let filled = self.entries.iter_mut().map(|(name, entry)| (name.clone(), entry.fill_unseen()));
        filled.filter(|(_, experts)| !experts.is_empty()).collect()
    }

    /// Reads a file of either form; memory is that of its numbers.
    ///
    /// # Errors
    /// `Malformed`, naming the file and the entry: what llama.cpp refuses, and sums that are negative or not finite.
    /// `Io`.
    pub fn read(path: impl AsRef<Path>) -> Result<Importance> {
        let path = path.as_ref();
        match kind(path)? {
            Form::Gguf => self::gguf::read(path),
            Form::Other => dat::read(path).map_err(|e| e.within(path.display())),
        }
    }

    /// Whether a file looks like one of importance: a GGUF that says so, or what a `.dat` begins with.
    pub fn is_one(path: impl AsRef<Path>) -> bool {
        let path = path.as_ref();
        match kind(path) {
            Ok(Form::Gguf) => self::gguf::is_one(path),
            Ok(Form::Other) => dat::is_one(path),
            Err(_) => false,
        }
    }

    /// Writes the GGUF form, byte for byte as `llama-imatrix` does, under its final name only when it is complete.
    ///
    /// # Errors
    /// `Target` for a place that cannot be written; `Unsupported` for what was read from a `.dat`, `Limit` for a name
    /// that GGUF cannot hold, `Malformed` without entries.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = self.to_bytes().map_err(|e| e.within(path.display()))?;
        write_whole(path, |file| file.write_all(&bytes))
    }

    /// The bytes of the GGUF form.
    ///
    /// # Errors
    /// As [`Importance::write`], but `Target`.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self::gguf::bytes(self)
    }
}

/// The most bytes of a file. That of 26B-A4B, with all its experts, has 60 MB.
const MAX_BYTES: u64 = 256 << 20;

fn expect_size(bytes: u64) -> Result<()> {
    if bytes > MAX_BYTES {
        return Err(Error::limit("size", "too large for a file of importance")
            .expected(format!("at most {MAX_BYTES} bytes"), bytes));
    }
    Ok(())
}

enum Form {
    Gguf,
    Other,
}

fn kind(path: &Path) -> Result<Form> {
    let io = |e| Error::io(path.display(), &e);
    let mut magic = Vec::new();
    base::open_regular(path)?.take(4).read_to_end(&mut magic).map_err(io)?;
    Ok(if magic == b"GGUF" { Form::Gguf } else { Form::Other })
}
