//! `verify`: comparison of an artifact with its checkpoint, and the report in its forms.

use gemma_convert::{Report, Result, Severity};
use report::Detail;

use crate::cli::args;
use crate::cli::invocation;
use crate::cli::options;
use crate::cli::outcome::{Output, tell};
use crate::cli::progress::{self, Console};
use crate::cli::reports::Reports;

pub(crate) fn run(args: &args::Verify) -> Result<Output> {
    let job = args.job()?;
    let files = Reports::open(&args.reports, &[args.save_logits.as_ref()])?;
    let mut report = job.run(&Console::default())?;
    options::in_report(&mut report);
    invocation::record(&mut report.run);
    let json = serde_json::to_value(&report).expect("a report is plain data");
    let unwritten = files.write(&json, || report::html(&report), || report::markdown(&report));
    let detail = if progress::is_verbose() { Detail::Full } else { Detail::Short };
    annotate(&report);
    Ok(Output { text: report::text(&report, detail), json, passed: report.passed, unwritten })
}

/// Prints failures as annotations of a GitHub workflow, if the process runs in one.
fn annotate(report: &Report) {
    /// GitHub shows ten annotations per step.
    const MOST: usize = 10;
    if std::env::var_os("GITHUB_ACTIONS").is_none_or(|value| value != "true") {
        return;
    }
    let failures = report.findings.iter().filter(|finding| finding.severity == Severity::Failure);
    for finding in failures.take(MOST) {
        let line = |text: &str| {
            base::visible_line(text).replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
        };
        let title = line(&report.artifact.path).replace(':', "%3A").replace(',', "%2C");
        tell(&format!("::error title={title}::{}: {}\n", line(&finding.place), line(&finding.problem)));
    }
}
