//! For tests only: what the tests of several crates share.
//!
//! | file | idea |
//! |---|---|
//! | `fixtures.rs` | where fixtures are, and how they are read |
//! | `log.rs` | the record of levels and kernels that ran, skipped tests and retries |
//! | `memory.rs` | tensors in memory as a source |
//! | `need.rs` | programs and processor features that a machine may lack: a test skips, or fails where they are required |
//! | `random.rs` | the pseudorandom numbers of all tests |
//!
//! Only dev-dependencies point here, those of `xtask` excepted.

mod fixtures;
mod log;
mod memory;
mod need;

pub use base::SplitMix64;
pub use fixtures::{fixtures, floats, json, read, root};
pub use log::{Log, VARIABLE, ran, retried, skip};
pub use memory::MemoryTensors;
pub use need::{Need, available};
