//! Whether an artifact is what its checkpoint says, and how well.
//!
//! | file | idea |
//! |---|---|
//! | `report.rs` | what is found: the document that everything ends in |
//!
//! Nothing here knows how a report is shown. Work runs on the caller's rayon pool.

mod report;
mod sequences;

pub use report::*;
pub use sequences::Sequence;
