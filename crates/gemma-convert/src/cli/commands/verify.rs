//! `verify`: an artifact against its checkpoint, and the report in its forms.

use gemma_convert::Result;

use crate::cli::args;
use crate::cli::options;
use crate::cli::outcome::Output;
use crate::cli::progress::Console;
use crate::cli::reports::Reports;

pub(crate) fn run(args: &args::Verify) -> Result<Output> {
    let job = args.job()?;
    job.thresholds.check()?;
    let files = Reports::open(&args.reports, &[args.save_logits.as_ref()])?;
    let mut report = job.run(&Console::default())?;
    options::in_report(&mut report);
    let json = serde_json::to_value(&report).expect("a report is plain data");
    let unwritten = files.write(&json, || report::html(&report), || report::markdown(&report));
    Ok(Output { text: report::text(&report), json, passed: report.passed, unwritten })
}
