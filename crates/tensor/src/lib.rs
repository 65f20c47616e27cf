//! What every other crate speaks: element types, shapes, tensors as rows, one error type; and how a file is written whole.
//!
//! Nothing here knows a file format or a model. A tensor is never whole in memory: sources and sinks
//! move whole rows (the last dimension), because every quantised type blocks along a row.

mod dtype;
mod error;
mod rows;
mod whole;

pub use dtype::DType;
pub use error::{Error, Fault, Result};
pub use rows::{TensorDesc, TensorSink, TensorSource};
pub use whole::write_whole;
