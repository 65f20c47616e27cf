//! `release`: the whole set of files of a model, verified, with model card and checksums.

use std::fmt::Write;

use base::{FileKind, OutputFile};
use gemma_convert::{Released, Result};
use report::Detail;
use serde_json::{Value, json};

use super::{convert, verify};
use crate::cli::args;
use crate::cli::invocation;
use crate::cli::options;
use crate::cli::outcome::Output;
use crate::cli::progress::Console;

/// Names of the reports in the folder of the release.
const PAGE: &str = "report.html";
const REPORT: &str = "report.json";

pub(crate) fn run(args: &args::Release) -> Result<Output> {
    let mut released = args.job()?.run(&Console::default())?;
    options::in_set_report(&mut released.report);
    invocation::record(&mut released.report.run);
    let report = serde_json::to_value(&released.report).expect("a report is plain data");
    let files = [
        (REPORT, FileKind::Report, format!("{report:#}\n")),
        (PAGE, FileKind::Page, report::set_html(&released.report)),
    ];
    let written = files.map(|(name, kind, text)| {
        OutputFile::replacing(&released.folder.join(name), kind, false)?.publish_with(text.as_bytes())
    });
    let unwritten = written.into_iter().filter_map(Result::err).collect();
    verify::annotate(verify::of_set(&released.report));
    let (text, json) = (text(&released, args.repository()), document(&released, report));
    Ok(Output { text, json, passed: released.report.passed, unwritten })
}

fn text(released: &Released, repository: Option<&str>) -> String {
    let mut text: String = released.converted.iter().map(convert::text).collect();
    text.push('\n');
    text.push_str(&report::set_text(&released.report, Detail::Short));
    let (folder, repository) = (released.folder.display(), repository.unwrap_or("OWNER/NAME"));
    let _ = match (&released.card, &released.checksums) {
        (Some(card), Some(sums)) => writeln!(
            text,
            "model card: {}\nchecksums: {}\nupload: hf upload {repository} {folder} .",
            card.display(),
            sums.display()
        ),
        _ => writeln!(text, "no model card and no checksums: the verification failed"),
    };
    text
}

fn document(released: &Released, report: Value) -> Value {
    json!({
        "folder": released.folder,
        "converted": released.converted.iter().map(convert::document).collect::<Vec<_>>(),
        "report": report,
        "card": released.card,
        "checksums": released.checksums,
        "passed": released.report.passed,
        "seconds": released.seconds,
    })
}
