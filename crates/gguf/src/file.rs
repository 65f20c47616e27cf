//! One file on disk as a source of tensors.

use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::path::{Path, PathBuf};

use base::Positioned;
use memmap2::Mmap;
use tensor::{Error, Result, TensorDesc, TensorSource};

use crate::header::Header;
use crate::layout::alignment;
use crate::metadata::Metadata;

/// An open GGUF file. The header is in memory; tensors are read by position, or mapped, so any thread can read them.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    file: File,
    len: u64,
    map: Option<Mmap>,
    metadata: Metadata,
    tensors: Vec<TensorDesc>,
    offsets: Vec<u64>,
    header_len: u64,
    /// Byte range of the padding between the last tensor record and the first tensor.
    before: Range<u64>,
}

/// Whether a regular file begins with the magic of GGUF, whatever its name: blobs of Ollama and of the hub's cache have none that
/// ends in `.gguf`. False if it cannot be read.
pub fn is_gguf(path: impl AsRef<Path>) -> bool {
    base::begins_with(path.as_ref(), b"GGUF").unwrap_or(false)
}

impl GgufFile {
    /// Opens one file and reads its header. A part of a split is opened alone; see [`crate::GgufSet`].
    ///
    /// # Errors
    /// Those of [`Header::read`], naming the file.
    pub fn open(path: impl AsRef<Path>) -> Result<GgufFile> {
        let path = path.as_ref();
        let place = path.display();
        let file = base::open_regular(path)?;
        let len = file.metadata().map_err(|e| Error::io(&place, &e))?.len();
        let header = Header::read(&mut BufReader::new(&file), len)
            .or_else(|e| base::refuse_foreign_model(path).and(Err(e.within(&place))))?;
        let (before, header_len) = (header.records_end..header.data_start, header.data_start);
        let (tensors, offsets) = header.tensors.into_iter().map(|t| (t.desc, t.offset)).unzip();
        let metadata = header.metadata;
        let path = path.into();
        Ok(GgufFile { path, file, len, map: None, metadata, tensors, offsets, before, header_len })
    }

    /// The same file, mapped into the address space of the process if the system can: for weights that are used many times. Pages
    /// of the map count as memory of the process, but the system takes them back where it needs them.
    #[must_use]
    pub fn mapped(self) -> GgufFile {
        // SAFETY: the map is read only. A process that changes the file meanwhile changes the weights, as it would for reads; one
        // that truncates it ends this process with SIGBUS, as it would end llama.cpp.
        let map = unsafe { Mmap::map(&self.file) }.ok();
        GgufFile { map, ..self }
    }

    /// The path with which the file was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the file in bytes when it was opened.
    pub fn file_len(&self) -> u64 {
        self.len
    }

    /// Number of bytes before the first tensor, with padding.
    pub fn header_len(&self) -> u64 {
        self.header_len
    }

    /// The key-value pairs.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Byte offset in the file of each tensor.
    pub fn offsets(&self) -> &[u64] {
        &self.offsets
    }

    /// Byte ranges of the padding, which should be zero: after the header and after each tensor, up to the next
    /// multiple of the alignment.
    pub fn padding(&self) -> Vec<Range<u64>> {
        let align = alignment(&self.metadata).unwrap_or(1);
        let ends = self.offsets.iter().zip(&self.tensors).map(|(offset, desc)| offset + desc.byte_len());
        let behind = ends.map(|end| end..end.next_multiple_of(align).min(self.len));
        let before = self.before.start..self.before.end.min(self.len);
        [before].into_iter().chain(behind).filter(|range| !range.is_empty()).collect()
    }

    /// Number of bytes after the last tensor and its padding.
    pub fn trailing(&self) -> u64 {
        let align = alignment(&self.metadata).unwrap_or(1);
        let end =
            self.offsets.iter().zip(&self.tensors).map(|(offset, desc)| offset + desc.byte_len()).next_back();
        let end = end.unwrap_or(self.before.end).next_multiple_of(align);
        self.len.saturating_sub(end)
    }

    /// Fills `out` with the bytes from `offset` of the file on.
    ///
    /// # Errors
    /// `Io`, also for a range beyond the end of the file.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(out, offset).map_err(|e| Error::io(self.path.display(), &e))
    }
}

impl GgufFile {
    /// The range in the file of `len` bytes of a tensor from row `first` on; `None` if the tensor does not hold them.
    fn range_of(&self, index: usize, first: u64, len: u64) -> Option<Range<u64>> {
        let desc = &self.tensors[index];
        let begin = first.checked_mul(desc.row_bytes())?;
        let end = begin.checked_add(len).filter(|&end| end <= desc.byte_len())?;
        let offset = self.offsets[index];
        Some(offset + begin..offset + end)
    }
}

impl TensorSource for GgufFile {
    fn tensors(&self) -> &[TensorDesc] {
        &self.tensors
    }

    fn read_rows(&self, index: usize, first: u64, out: &mut [u8]) -> Result<()> {
        let Some(desc) = self.tensors.get(index) else {
            return Err(Error::malformed(self.path.display(), format!("there is no tensor number {index}")));
        };
        let place = || format!("{}: tensor {}", self.path.display(), desc.name);
        let (row, len) = (desc.row_bytes(), out.len() as u64);
        match self.range_of(index, first, len) {
            Some(range) if len.is_multiple_of(row) => {
                self.file.read_exact_at(out, range.start).map_err(|e| Error::io(place(), &e))
            }
            _ => Err(Error::malformed(
                place(),
                format!("there are no {len} bytes of whole rows from row {first} on"),
            )),
        }
    }

    fn mapped_rows(&self, index: usize, first: u64, count: u64) -> Option<&[u8]> {
        let len = count.checked_mul(self.tensors.get(index)?.row_bytes())?;
        let range = self.range_of(index, first, len)?;
        self.map.as_deref()?.get(range.start as usize..range.end as usize)
    }
}
