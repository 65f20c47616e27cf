//! Presentation of verification reports and draft model reports: on a terminal, as Markdown, as an HTML page.
//!
//! ```
//! use verify::{Finding, Report, Severity, Step};
//!
//! let problem = "differs from the checkpoint";
//! let finding = Finding::new(Severity::Failure, Step::Tensors, "blk.0.attn_q.weight", problem);
//! let failed = Report { findings: vec![finding], ..Report::default() };
//! assert!(report::markdown(&failed).contains("blk.0.attn"));
//! assert!(report::html(&failed).contains("differs from the checkpoint"));
//! ```
//!
//! | file | idea |
//! |---|---|
//! | `number.rs`, `place.rs` | formatting of numbers; removal of control characters from names; paths without folders |
//! | `tables.rs`, `figures.rs`, `tensors.rs`, `worst.rs` | verdict, tables and tiles, common to all forms |
//! | `text.rs`, `markdown.rs` | the forms for a terminal and as Markdown |
//! | `html.rs`, `tile.rs`, `bar.rs`, `terms.rs`, `invocation.rs` | the elements of a page |
//! | `verification.rs` | the page of a verification |
//! | `scale.rs`, `svg.rs`, `plots/` | the plots of the HTML page, one file per plot |
//! | `draft.rs` | the report of a draft model in all forms |
//! | `set.rs` | the report of several artifacts in all forms |
//!
//! The only inputs are [`Report`](::verify::Report), [`SetReport`](::verify::SetReport) and [`DraftReport`](::draft::DraftReport). The JSON of `--json` is
//! these structures themselves: `docs/report.md`.

mod bar;
mod draft;
mod figures;
mod html;
mod invocation;
mod markdown;
mod number;
mod place;
mod plots;
mod scale;
mod set;
mod svg;
mod table;
mod tables;
mod tensors;
mod terms;
mod text;
mod tile;
mod verification;
mod worst;

pub use self::draft::{draft_html, draft_markdown, draft_text};
pub use self::markdown::markdown;
pub use self::set::{set_html, set_markdown, set_text};
pub use self::table::Table;
pub use self::text::{Detail, text};
pub use self::verification::html;
pub use base::grouped;
