//! Common vocabulary of the crates above: element types, shapes, tensors as rows. Re-exports the error type of `base`.
//!
//! ```
//! use tensor::{DType, TensorDesc};
//!
//! let desc = TensorDesc::new("blk.0.attn_q.weight", DType::Q4_0, [2048, 1536])?;
//! assert_eq!((desc.rows(), desc.cols(), desc.row_bytes()), (2048, 1536, 864));
//! assert_eq!("Q4_0".parse::<DType>()?, desc.dtype);
//!
//! // a row consists of whole blocks, here of 32 elements
//! assert!(TensorDesc::new("blk.0.attn_q.weight", DType::Q4_0, [2048, 33]).is_err());
//! # Ok::<(), tensor::Error>(())
//! ```
//!
//! This crate knows no file format and no model. A tensor is never whole in memory: sources and sinks move whole rows
//! (the last dimension), because the blocks of every quantised type run along a row.

mod compare;
mod dtype;
mod rows;

pub use base::{Error, Fault, Result};
pub use compare::are_equal;
pub use dtype::DType;
pub use rows::{TensorDesc, TensorSink, TensorSource};
