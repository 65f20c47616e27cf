//! Reports for people, of a verification and of a draft model: on a terminal, as Markdown, as one HTML page.
//!
//! | file | idea |
//! |---|---|
//! | `number.rs` | how numbers are written, and which characters of a stranger's name are not |
//! | `tables.rs` | what is said: the verdict and the tables, the same in each form |
//! | `text.rs`, `markdown.rs`, `html.rs` | the three forms |
//! | `scale.rs`, `svg.rs`, `plots/` | the plots of the page, one file a plot |
//! | `draft.rs` | the report of a draft model in all forms |
//!
//! [`Report`](::verify::Report) is the only input of the first, [`DraftReport`](::draft::DraftReport) of the other. The JSON of `--json` is that structure itself: `docs/report.md`.

mod draft;
mod html;
mod markdown;
mod number;
mod plots;
mod scale;
mod svg;
mod table;
mod tables;
mod text;

pub use self::draft::{draft_html, draft_markdown, draft_text};
pub use self::html::html;
pub use self::markdown::markdown;
pub use self::table::{Table, grouped};
pub use self::text::text;
