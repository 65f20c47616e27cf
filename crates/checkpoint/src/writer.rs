//! Writes one safetensors file: header first, then rows in any order, from any thread.
//!
//! Tensors and `__metadata__` keep the order they are given in, so the same input gives the same bytes; the
//! reference implementation sorts the tensors, shuffles the metadata and makes files only their owner may read.
//! The file gets its name when it is whole.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tensor::{Error, Result, TensorDesc, TensorSink};

use crate::header::{DTYPES, MAX_HEADER};
use crate::open::rows_offset;

/// A safetensors file being written. Dropped without [`finish`](Self::finish), it leaves nothing behind.
#[derive(Debug)]
pub struct SafetensorsWriter {
    file: File,
    path: PathBuf,
    /// Where the bytes are until the file is whole; empty afterwards.
    partial: PathBuf,
    tensors: Vec<TensorDesc>,
    offsets: Vec<u64>,
    data_len: u64,
    written: AtomicU64,
}

impl SafetensorsWriter {
    /// Writes the header for `tensors` and `metadata`, in the order given, and reserves the space for the data.
    /// The bytes go to `path` with `.partial` appended until [`finish`](Self::finish).
    ///
    /// # Errors
    /// `Target` if the file cannot be made, `Unsupported` for block types, `Malformed` for a name that occurs
    /// twice, `Limit` for a header longer than readers accept.
    pub fn create(
        path: impl AsRef<Path>,
        tensors: Vec<TensorDesc>,
        metadata: &[(&str, &str)],
    ) -> Result<SafetensorsWriter> {
        let path = path.as_ref().to_owned();
        let SafetensorsLayout { header, offsets, len } =
            SafetensorsLayout::new(&tensors, metadata).map_err(|e| e.within(path.display()))?;
        let mut partial = OsString::from(&path);
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let place = |e| Error::write(partial.display(), &e);
        let file = File::create(&partial).map_err(place)?;
        // From here on, dropping the writer removes the file.
        let writer = SafetensorsWriter {
            file,
            path,
            partial,
            tensors,
            offsets,
            data_len: len - header.len() as u64,
            written: AtomicU64::new(0),
        };
        let place = |e| Error::write(writer.partial.display(), &e);
        writer.file.set_len(len).map_err(place)?;
        writer.file.write_all_at(&header, 0).map_err(place)?;
        Ok(writer)
    }

    /// The tensors, in the order of the file.
    pub fn tensors(&self) -> &[TensorDesc] {
        &self.tensors
    }

    /// Gives the file its name, once all rows have been written.
    ///
    /// # Errors
    /// `Target` if rows are missing or the file cannot be renamed.
    pub fn finish(self) -> Result<()> {
        let written = self.written.load(Ordering::Relaxed);
        if written != self.data_len {
            return Err(Error::target(self.path.display(), "not every row was written exactly once")
                .expected(format!("{} bytes of data", self.data_len), written));
        }
        self.finish_with_holes()
    }

    /// As [`finish`](Self::finish), but rows that were not written read as zeros and take no space on disk:
    /// for benchmarks with tensors that matter only by their size.
    ///
    /// # Errors
    /// `Target` if the file cannot be renamed.
    pub fn finish_with_holes(mut self) -> Result<()> {
        let place = |e| Error::write(self.path.display(), &e);
        self.file.sync_all().map_err(place)?;
        fs::rename(&self.partial, &self.path).map_err(place)?;
        self.partial.clear();
        Ok(())
    }
}

impl TensorSink for SafetensorsWriter {
    fn write_rows(&self, index: usize, first: u64, rows: &[u8]) -> Result<()> {
        let (Some(desc), Some(start)) = (self.tensors.get(index), self.offsets.get(index)) else {
            return Err(Error::target(self.path.display(), format!("there is no tensor number {index}")));
        };
        let offset = rows_offset(desc, first, rows.len()).map_err(|e| e.within(self.path.display()))?;
        self.file.write_all_at(rows, start + offset).map_err(|e| Error::write(self.partial.display(), &e))?;
        self.written.fetch_add(rows.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for SafetensorsWriter {
    fn drop(&mut self) {
        if !self.partial.as_os_str().is_empty() {
            // Nobody is left to be told if this fails.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Where everything in a file lies, before anything is written.
#[derive(Clone, Debug)]
pub struct SafetensorsLayout {
    /// Everything before the first tensor: the length, and the JSON padded to a multiple of eight.
    pub header: Vec<u8>,
    /// Offset of each tensor in the file.
    pub offsets: Vec<u64>,
    /// Bytes of the whole file.
    pub len: u64,
}

impl SafetensorsLayout {
    /// Lays out `tensors` without gaps, in the order given. SFP8 goes by the name of `U8`.
    ///
    /// # Errors
    /// `Unsupported` for block types, `Malformed` for a name that occurs twice, `Limit` for a header longer than
    /// readers accept.
    pub fn new(tensors: &[TensorDesc], metadata: &[(&str, &str)]) -> Result<SafetensorsLayout> {
        let mut names = HashSet::from(["__metadata__"]);
        let mut offsets = Vec::with_capacity(tensors.len());
        let mut end = 0u64;
        let mut entries = Vec::with_capacity(tensors.len() + 1);
        if !metadata.is_empty() {
            let pairs: Vec<_> = metadata.iter().map(|(k, v)| format!("{}:{}", quote(k), quote(v))).collect();
            entries.push(format!("\"__metadata__\":{{{}}}", pairs.join(",")));
        }
        for desc in tensors {
            let err = |fault, problem: &str| Error::new(fault, format!("tensor {}", desc.name), problem);
            if !names.insert(&desc.name) {
                return Err(err(tensor::Fault::Malformed, "the name is taken"));
            }
            let Some((_, dtype)) = DTYPES.iter().find(|d| d.0 == desc.dtype) else {
                return Err(err(tensor::Fault::Unsupported, "safetensors has no such type")
                    .expected("a plain type", desc.dtype));
            };
            let start = end;
            end = start
                .checked_add(desc.byte_len())
                .filter(|&e| e <= i64::MAX as u64 - MAX_HEADER - 16)
                .ok_or_else(|| err(tensor::Fault::Limit, "the file would be too large"))?;
            offsets.push(start);
            let shape: Vec<_> = desc.shape.iter().map(u64::to_string).collect();
            entries.push(format!(
                "{}:{{\"dtype\":\"{dtype}\",\"shape\":[{}],\"data_offsets\":[{start},{end}]}}",
                quote(&desc.name),
                shape.join(","),
            ));
        }
        let mut json = format!("{{{}}}", entries.join(","));
        while json.len() % 8 != 0 {
            json.push(' ');
        }
        if json.len() as u64 > MAX_HEADER {
            return Err(Error::limit("header", "too long")
                .expected(format!("at most {MAX_HEADER} bytes"), json.len()));
        }
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.extend_from_slice(json.as_bytes());
        let start = header.len() as u64;
        offsets.iter_mut().for_each(|offset| *offset += start);
        Ok(SafetensorsLayout { header, offsets, len: start + end })
    }
}

/// A JSON string.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
