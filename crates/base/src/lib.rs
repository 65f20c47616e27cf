//! Foundation of all other crates: the error type, atomic output files, bounded reading of small files, and text made
//! safe to show.
//!
//! ```
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("report.txt");
//! use std::io::Write;
//!
//! // the file has its name when it is complete, and not before
//! base::write_whole(&path, |file| file.write_all(b"complete"))?;
//! assert_eq!(base::read_bounded(&path, 8)?, b"complete");
//!
//! let error = base::read_bounded(&path, 7).unwrap_err();
//! assert_eq!(error.fault(), base::Fault::Limit);
//! # Ok::<(), base::Error>(())
//! ```
//!
//! This crate knows no model, and of file formats only their first bytes.
//!
//! | file | idea |
//! |---|---|
//! | `output.rs` | atomic output files: the final name appears with the complete file |
//! | `publication.rs` | several output files, renamed together |
//! | `appended.rs` | text appended to a file |
//! | `date.rs` | dates as text |
//! | `digest.rs` | SHA-256 and hexadecimal digits |
//! | `folder.rs` | a temporary folder of one run |
//! | `kind.rs` | the kind of an existing file |
//! | `names.rs` | names of files and of repositories |
//! | `number.rs` | numbers as text |
//! | `part.rs` | a part of a job: its number, and the units of work that it has |
//! | `part_records.rs` | parts on disk: their folder, the records of finished ones, complete jobs |
//! | `random.rs` | the pseudorandom generator |
//! | `read.rs` | small files, up to a size limit |
//! | `system.rs` | what operating systems do differently |
//! | `progress.rs` | progress of long work |
//! | `visible.rs` | text from files, made safe to show |
//! | `unfinished.rs` | cleanup after an interruption |

mod appended;
mod date;
mod digest;
mod error;
mod folder;
mod kind;
mod names;
mod number;
mod output;
mod part;
mod part_records;
mod progress;
mod publication;
mod random;
mod read;
mod system;
mod unfinished;
mod visible;

pub use appended::AppendedFile;
pub use date::utc;
pub use digest::{Sha256, hex, sha256, sha256_file};
pub use error::{Error, ErrorKind, Fault, Result};
pub use folder::WorkFolder;
pub use kind::{FileKind, GENERATOR, STORE_KEY, refuse_foreign_model};
pub use names::{file_name, folder_of, is_hex, is_plain_name, is_repository_id, with_slashes};
pub use number::grouped;
pub use output::{OutputFile, PARTIAL, write_whole};
pub use part::Part;
pub use part_records::{FoundPart, Job, JobParts, PartFolder};
pub use progress::{Progress, Silent, Task, Unit};
pub use publication::{OLD, Publication};
pub use random::SplitMix64;
pub use read::{begins_with, open_regular, read_all, read_bounded, read_regular, read_text};
pub use system::{Positioned, free_space, host_name, lock_folder, symlink, try_lock_folder};
pub use unfinished::{Listed, abandon, keeps};
pub use visible::{visible, visible_json, visible_line};
