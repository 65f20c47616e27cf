//! What every other crate stands on: the one error type, and the one way to write files.
//!
//! Nothing here knows a model, and of formats only how files begin.
//!
//! | file | idea |
//! |---|---|
//! | `output.rs` | a file that has its name only when it is complete |
//! | `publication.rs` | several of them that get their names together |
//! | `appended.rs` | a text that is added to a file |
//! | `folder.rs` | a temporary folder of one run |
//! | `kind.rs` | what a file is that is there already |
//! | `unfinished.rs` | what an interrupted run has to remove |

mod appended;
mod error;
mod folder;
mod kind;
mod output;
mod publication;
mod unfinished;

pub use appended::AppendedFile;
pub use error::{Error, Fault, Result};
pub use folder::WorkFolder;
pub use kind::{GENERATOR, Kind, STORE_KEY};
pub use output::{OutputFile, PARTIAL, write_whole};
pub use publication::{OLD, Publication};
pub use unfinished::{Listed, abandon, keeps};
