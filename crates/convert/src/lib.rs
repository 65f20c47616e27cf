//! Executes a plan: reads each file of the checkpoint once, from front to back, and writes all artifacts.
//!
//! Workers take row blocks in the order of the input, encode them for every artifact and write each to its
//! place; memory is workers × a block, whatever the model. Nothing here knows what a model means. Output
//! appears under its final name only when it is complete and on disk; hashes are taken on the way.

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
