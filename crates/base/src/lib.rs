//! What every other crate stands on: the one error type, the one way to write files, small files that are read whole,
//! text made safe to show.
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
//! | `random.rs` | the one pseudorandom generator |
//! | `read.rs` | small files up to a limit of size |
//! | `progress.rs` | progress of long work |
//! | `visible.rs` | text from files, made safe to show |
//! | `unfinished.rs` | what an interrupted run has to remove |

mod appended;
mod error;
mod folder;
mod kind;
mod output;
mod progress;
mod publication;
mod random;
mod read;
mod unfinished;
mod visible;

pub use appended::AppendedFile;
pub use error::{Error, ErrorKind, Fault, Result};
pub use folder::WorkFolder;
pub use kind::{FileKind, GENERATOR, STORE_KEY};
pub use output::{OutputFile, PARTIAL, write_whole};
pub use progress::{Progress, Silent, Task, Unit};
pub use publication::{OLD, Publication};
pub use random::SplitMix64;
pub use read::{is_plain_name, open_regular, read_all, read_bounded, read_regular};
pub use unfinished::{Listed, abandon, keeps};
pub use visible::{visible, visible_json, visible_line};
