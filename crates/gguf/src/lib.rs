//! The GGUF container, version 3, little-endian: what a file says before its first tensor byte, and where those bytes lie.
//!
//! Reading is bounded: every length is held against the file's size before anything is allocated for it, and the
//! files that ggml refuses are refused. Writing is a [`Layout`], computed before a byte is written, so that
//! rows can go to their places in any order. [`split`] cuts a model into parts as `llama-gguf-split` does.
//!
//! Left out: what keys and tensors mean, writing of files, and the byte order and versions nobody writes any more.
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
pub use file::GgufFile;
pub use header::Header;
pub use layout::{DEFAULT_ALIGNMENT, Layout, Placed, ggml_shape};
pub use metadata::{FromValue, Metadata};
pub use set::GgufSet;
pub use split::{SET, SplitBy, SplitPart, group, part_name, parts, split};
pub use value::{Array, Value};
