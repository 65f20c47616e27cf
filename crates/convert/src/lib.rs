//! Executes a plan: reads each file of the checkpoint once, sequentially, and writes all artifacts.
//!
//! Workers take row blocks in input order, encode them for every artifact and write each result at its offset; memory
//! is workers × a block, whatever the model's size. The crate knows nothing of model architectures. An output gets
//! its final name only when it is complete and on disk; hashes are computed in the same pass.

mod digests;
mod encode;
mod fp8_scales;
mod grid_survey;
mod hashed_output;
mod manifest;
mod pipeline;
mod preflight;
mod reencode;
mod repack_counts;
mod run;
mod schedule;

pub use grid_survey::survey_grid;
pub use manifest::file_entry;
pub use preflight::{check, finished};
pub use reencode::{Buffers, Encoding, Scales, Steps};
pub use run::{Finished, Options, run};
