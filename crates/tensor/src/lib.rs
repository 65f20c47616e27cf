//! Common vocabulary of the crates above: element types, shapes, tensors as rows. Re-exports the error type of `base`.
//!
//! This crate knows no file format and no model. A tensor is never whole in memory: sources and sinks move whole rows
//! (the last dimension), because the blocks of every quantised type run along a row.

mod dtype;
mod rows;

pub use base::{Error, Fault, Result};
pub use dtype::DType;
pub use rows::{TensorDesc, TensorSink, TensorSource};
