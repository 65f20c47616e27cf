//! `draft`: draft models for speculative decoding.

use gemma_convert::Result;

use super::convert;
use crate::cli::args::{self, DraftCommand};
use crate::cli::invocation;
use crate::cli::outcome::Output;
use crate::cli::progress::Console;
use crate::cli::reports::Reports;

pub(crate) fn run(args: &args::Draft) -> Result<Output> {
    let converted = match &args.command {
        DraftCommand::Convert(args) => args.job()?.run(&Console::default())?,
        DraftCommand::Extract(args) => args.job()?.run(&Console::default())?,
        DraftCommand::Measure(args) => return measure(args),
    };
    Ok(Output::new(convert::text(&converted), convert::document(&converted)))
}

fn measure(args: &args::DraftMeasure) -> Result<Output> {
    let files = Reports::open(&args.reports, &[])?;
    let mut report = args.job()?.run(&Console::default())?;
    invocation::record(&mut report.run);
    let json = serde_json::to_value(&report).expect("a report is plain data");
    let unwritten = files.write(&json, || report::draft_html(&report), || report::draft_markdown(&report));
    Ok(Output { text: report::draft_text(&report), json, passed: report.measured.same_text, unwritten })
}
