//! What every other crate stands on: the one error type, and files that are written whole or not at all.
//!
//! Nothing here knows a file format or a model.

mod error;
mod whole;

pub use error::{Error, Fault, Result};
pub use whole::write_whole;
