//! Executes a plan: reads each file of the checkpoint once, from front to back, and writes all artifacts.
//!
//! Workers take row blocks in the order of the input, encode them for every artifact and write each to its
//! place; memory is workers × a block, whatever the model. Nothing here knows what a model means. Output
//! appears under its final name only when it is complete and on disk; hashes are taken on the way.

mod blocks;
mod digests;
mod encode;
mod grid_survey;
mod lattice;
mod manifest;
mod pass;
mod prepare;
mod reencode;
mod run;
mod scales;
mod target;

pub use grid_survey::survey_grid;
pub use manifest::file_entry;
pub use prepare::check;
pub use reencode::{Buffers, Encoding, Scales, Steps};
pub use run::{Finished, Options, run};
