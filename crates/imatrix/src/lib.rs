//! Importance matrices (imatrix) of llama.cpp: read, written and merged.
//!
//! ```
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("imatrix.gguf");
//! use imatrix::{Entry, Importance};
//!
//! // Σx² of two columns, over 512 tokens
//! let mut importance = Importance::new(vec!["calib.txt".to_owned()], 1, 512);
//! importance.insert("blk.0.attn_q.weight", Entry::new(vec![512.0, 1024.0], vec![512])?);
//! importance.write(&path)?;
//!
//! let read = Importance::read(&path)?;
//! assert_eq!(read.get("blk.0.attn_q.weight").unwrap().weights(), [1.0, 2.0]);
//! # Ok::<(), tensor::Error>(())
//! ```
//!
//! For each matrix that the text goes through, a file has Σx² of each column of its input, and the number of summed
//! tokens; their quotient steers the quantization of `llama-quantize --imatrix` and `convert --importance`. Both file
//! formats are read: GGUF (`gguf.rs`) and the older `.dat` (`dat.rs`), which does not contain the number of tokens and
//! therefore cannot be merged or written. For users: docs/importance.md.
//!
//! Not covered: the collection of the sums, and quantization with them.
//!
//! Sources: llama.cpp's `tools/imatrix/imatrix.cpp` (writing, merging), `common/imatrix-loader.cpp` (reading), and
//! `load_imatrix` of `tools/quantize/quantize.cpp` (use of the sums).

mod dat;
mod entry;
mod gguf;
mod merge;
mod statistics;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use base::write_whole;
use tensor::{Error, Result};

pub use entry::Entry;
pub use statistics::Statistics;

/// The importance matrix of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Importance {
    /// Paths of the texts it was computed on, as given.
    pub datasets: Vec<String>,
    /// Number of chunks of text that went through the model.
    pub chunks: u32,
    /// Tokens in a chunk. `None` for a `.dat` file: its sums are means times the number of chunks, which is its count.
    pub chunk_size: Option<u32>,
    entries: BTreeMap<String, Entry>,
}

impl Importance {
    /// An importance matrix without entries.
    pub fn new(datasets: Vec<String>, chunks: u32, chunk_size: u32) -> Importance {
        Importance { datasets, chunks, chunk_size: Some(chunk_size), entries: BTreeMap::new() }
    }

    /// Sets the entry of a tensor, by its name in a GGUF: `blk.0.attn_q.weight`. Returns the old entry.
    pub fn insert(&mut self, name: impl Into<String>, entry: Entry) -> Option<Entry> {
        self.entries.insert(name.into(), entry)
    }

    /// The entry of a tensor, by its name in a GGUF.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// The entries by name, in byte order, which is the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Gives every expert without routed tokens the mean of the experts with tokens, as if for one token: otherwise
    /// `llama-quantize` would use ones, which do not fit the scale of the other sums. Returns the names of the entries
    /// with the numbers of the experts; the file records them, see [`Entry::filled`].
    ///
    /// An entry without any tokens stays as it is.
    pub fn fill_unseen(&mut self) -> Vec<(String, Vec<usize>)> {
        let filled = self.entries.iter_mut().map(|(name, entry)| (name.clone(), entry.fill_unseen()));
        filled.filter(|(_, experts)| !experts.is_empty()).collect()
    }

    /// Reads a file of either format; memory is that of its numbers.
    ///
    /// # Errors
    /// `Malformed`, naming the file and the entry, for files that llama.cpp refuses, and for negative or non-finite
    /// sums; `Io`.
    pub fn read(path: impl AsRef<Path>) -> Result<Importance> {
        let path = path.as_ref();
        match kind(path)? {
            Form::Gguf => self::gguf::read(path),
            Form::Other => dat::read(path).map_err(|e| e.within(path.display())),
        }
    }

    /// True if a file looks like an imatrix: a GGUF with its keys, or the beginning of a `.dat`.
    pub fn is_one(path: impl AsRef<Path>) -> bool {
        let path = path.as_ref();
        match kind(path) {
            Ok(Form::Gguf) => self::gguf::is_one(path),
            Ok(Form::Other) => dat::is_one(path),
            Err(_) => false,
        }
    }

    /// Writes the GGUF format, byte for byte as `llama-imatrix`. The file gets its final name only when it is complete.
    ///
    /// # Errors
    /// `Target` for a file that cannot be written; `Unsupported` for data from a `.dat`, `Limit` for a name that GGUF
    /// cannot hold, `Malformed` if there are no entries.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = self.to_bytes().map_err(|e| e.within(path.display()))?;
        write_whole(path, |file| file.write_all(&bytes))
    }

    /// The bytes of a file in GGUF format.
    ///
    /// # Errors
    /// As [`Importance::write`], except `Target`.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self::gguf::bytes(self)
    }
}

/// Maximum size of a file in bytes. The file of 26B-A4B, with all its experts, has 60 MB.
const MAX_BYTES: u64 = 256 << 20;

fn expect_size(bytes: u64) -> Result<()> {
    if bytes > MAX_BYTES {
        return Err(Error::limit("size", "too large for an imatrix file")
            .expected(format!("at most {MAX_BYTES} bytes"), bytes));
    }
    Ok(())
}

enum Form {
    Gguf,
    Other,
}

fn kind(path: &Path) -> Result<Form> {
    Ok(if base::begins_with(path, b"GGUF")? { Form::Gguf } else { Form::Other })
}
