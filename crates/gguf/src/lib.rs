//! The GGUF container, version 3, little-endian: metadata, tensor records, and the positions of the tensor data.
//!
//! ```
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("small.gguf");
//! use gguf::{GgufFile, Layout, Metadata};
//! use tensor::{DType, TensorDesc, TensorSource};
//!
//! let mut metadata = Metadata::new();
//! metadata.insert("general.architecture", "gemma4");
//! let layout = Layout::new(&metadata, vec![TensorDesc::new("x", DType::F32, [2, 4])?])?;
//! let mut out = std::fs::File::create(&path).unwrap();
//! layout.write(&mut out, [[0u8; 32]]).unwrap();
//!
//! let file = GgufFile::open(&path)?;
//! assert_eq!(file.metadata().required::<&str>("general.architecture")?, "gemma4");
//! assert_eq!(file.tensors()[0].shape, [2, 4]);
//! # Ok::<(), tensor::Error>(())
//! ```
//!
//! Reading is bounded: every length is checked against the file size before anything is allocated for it, and files
//! that ggml refuses are refused. Writing starts from a [`Layout`], computed before a byte is written, so that rows can
//! be written in any order. [`split`] cuts a model into parts as `llama-gguf-split` does.
//!
//! Not covered: the meaning of keys and tensors, writing of files, the byte order and versions that are no longer
//! written.
//!
//! Sources: ggml's `docs/gguf.md`, `ggml/src/gguf.cpp`, `tools/gguf-split/gguf-split.cpp`, and the split checks of
//! `src/llama-model-loader.cpp`; gguf-py's `gguf_writer.py`. The header's first 24 bytes and the numbers of value
//! and tensor types come from gguf-rs-lib; its metadata (unordered, no hyphens in keys), tensor records (names
//! of 64 bytes) and writer (no padding after the last tensor) do not fit the files that llama.cpp writes.

mod dtype;
mod file;
mod header;
mod input;
mod layout;
mod metadata;
mod set;
mod split;
mod value;

pub use dtype::{dtype_of, type_id};
pub use file::{GgufFile, is_gguf};
pub use header::Header;
pub use layout::{DEFAULT_ALIGNMENT, Layout, Placed, ggml_shape};
pub use metadata::{FromValue, Metadata};
pub use set::{GgufSet, files_in};
pub use split::{SET, SplitBy, SplitPart, group, part_name, part_of, parts, split};
pub use value::{Array, Value};
