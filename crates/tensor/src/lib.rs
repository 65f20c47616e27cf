//! What every crate above speaks: element types, shapes, tensors as rows. The error type of `base` goes by these names too.
//!
//! Nothing here knows a file format or a model. A tensor is never whole in memory: sources and sinks
//! move whole rows (the last dimension), because every quantised type blocks along a row.

mod dtype;
mod rows;

pub use base::{Error, Fault, Result};
pub use dtype::DType;
pub use rows::{TensorDesc, TensorSink, TensorSource};
