//! For tests only: what the tests of several crates share.
//!
//! ```
//! use tensor::TensorSource;
//! use testkit::MemoryTensors;
//!
//! let config = testkit::json("checkpoints/e2b/config.json");
//! assert_eq!(config["model_type"], "gemma4");
//!
//! let mut source = MemoryTensors::new();
//! let index = source.add_f32("x", &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
//! let mut row = [0; 8];
//! source.read_rows(index, 1, &mut row).unwrap();
//! assert_eq!(testkit::floats(&row), [3.0, 4.0]);
//! ```
//!
//! | file | idea |
//! |---|---|
//! | `fixtures.rs` | where fixtures are, and how they are read |
//! | `hub.rs`, `hub/` | a Hugging Face hub on loopback, with faults |
//! | `log.rs` | the record of levels and kernels that ran, skipped tests and retries |
//! | `memory.rs` | tensors in memory as a source |
//! | `need.rs` | programs and processor features that a machine may lack: a test skips, or fails where they are required |
//!
//! Only dev-dependencies point here, those of `xtask` excepted.

mod fixtures;
pub mod hub;
mod log;
mod memory;
mod need;

pub use base::SplitMix64;
pub use fixtures::{fixtures, floats, json, read, root};
pub use log::{Log, VARIABLE, ran, retried, skip};
pub use memory::MemoryTensors;
pub use need::{Need, available};
