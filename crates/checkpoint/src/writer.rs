//! Writes one safetensors file: the header first, then rows in any order and from any thread.
//!
//! Tensors and `__metadata__` keep the given order, so the same input gives the same bytes; the reference
//! implementation sorts the tensors, shuffles the metadata, and creates files that only their owner may read. The file
//! gets its final name when it is complete.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use base::OutputFile;
use tensor::{Error, Result, TensorDesc, TensorSink};

use crate::header::{DTYPES, MAX_HEADER};
use crate::open::rows_offset;

/// A safetensors file that is being written. Dropped without [`finish`](Self::finish), it leaves no file.
#[derive(Debug)]
pub struct SafetensorsWriter {
    output: OutputFile,
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
    /// `Target` if the file cannot be created, `Unsupported` for block types, `Malformed` for a duplicate name, `Limit`
    /// for a header longer than readers accept.
    pub fn create(
        path: impl AsRef<Path>,
        tensors: Vec<TensorDesc>,
        metadata: &[(&str, &str)],
    ) -> Result<SafetensorsWriter> {
        let path = path.as_ref();
        let SafetensorsLayout { header, offsets, len } =
            SafetensorsLayout::new(&tensors, metadata).map_err(|e| e.within(path.display()))?;
        let output = OutputFile::create(path)?;
        output.set_len(len)?;
        output.write_at(&header, 0)?;
        let data_len = len - header.len() as u64;
        Ok(SafetensorsWriter { output, tensors, offsets, data_len, written: AtomicU64::new(0) })
    }

    /// The tensors, in file order.
    pub fn tensors(&self) -> &[TensorDesc] {
        &self.tensors
    }

    /// Gives the file its final name, once all rows have been written.
    ///
    /// # Errors
    /// `Target` if rows are missing or the file cannot be renamed.
    pub fn finish(self) -> Result<()> {
        let written = self.written.load(Ordering::Relaxed);
        if written != self.data_len {
            return Err(Error::target(
                self.output.path().display(),
                "not every row was written exactly once",
            )
            .expected(format!("{} bytes of data", self.data_len), written));
        }
        self.finish_with_holes()
    }

    /// As [`finish`](Self::finish), but rows that were not written read as zeros and take no space on disk:
    /// for benchmarks with tensors that matter only by their size.
    ///
    /// # Errors
    /// `Target` if the file cannot be renamed.
    pub fn finish_with_holes(self) -> Result<()> {
        self.output.publish()
    }
}

impl TensorSink for SafetensorsWriter {
    fn write_rows(&self, index: usize, first: u64, rows: &[u8]) -> Result<()> {
        let (Some(desc), Some(start)) = (self.tensors.get(index), self.offsets.get(index)) else {
            return Err(Error::target(
                self.output.path().display(),
                format!("there is no tensor number {index}"),
            ));
        };
        let offset =
            rows_offset(desc, first, rows.len()).map_err(|e| e.within(self.output.path().display()))?;
        self.output.write_at(rows, start + offset)?;
        self.written.fetch_add(rows.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// Positions of all contents of a file, computed before anything is written.
#[derive(Clone, Debug)]
pub struct SafetensorsLayout {
    /// All bytes before the first tensor: the length, and the JSON padded to a multiple of eight.
    pub header: Vec<u8>,
    /// Byte offset in the file of each tensor.
    pub offsets: Vec<u64>,
    /// Size of the whole file in bytes.
    pub len: u64,
}

impl SafetensorsLayout {
    /// Lays out `tensors` without gaps, in the given order. SFP8 is written with the type name `U8`.
    ///
    /// # Errors
    /// `Unsupported` for block types, `Malformed` for a duplicate name, `Limit` for a header longer than readers
    /// accept.
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

/// `text` as a JSON string, with quotes and escapes.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
