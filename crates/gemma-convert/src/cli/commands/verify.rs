//! `verify`: comparison of artifacts with their checkpoint, and the report in its forms.

use gemma_convert::{Error, Finding, Part, Report, Result, SetReport, Severity, Verify};
use report::Detail;

use super::join;
use crate::cli::args;
use crate::cli::invocation;
use crate::cli::options;
use crate::cli::outcome::{Output, tell};
use crate::cli::progress::{self, Console};
use crate::cli::reports::Reports;

pub(crate) fn run(args: &args::Verify) -> Result<Output> {
    let set = args.set_job()?;
    let job = args.job()?;
    let part = args.part.part()?;
    if set.is_some() && (part.is_some() || !args.join.is_empty()) {
        return Err(Error::recipe("‹part›, ‹join›", "several artifacts are verified by one process")
            .help("Verify each of them in parts."));
    }
    if let Some(part) = part {
        return measure(args, &job, part);
    }
    let files = Reports::open(&args.reports, &[args.save_logits.as_ref()])?;
    let console = Console::default();
    let detail = if progress::is_verbose() { Detail::Full } else { Detail::Short };
    Ok(match set {
        Some(set) => {
            let mut report = set.run(&console)?;
            options::in_set_report(&mut report);
            invocation::record(&mut report.run);
            let json = serde_json::to_value(&report).expect("a report is plain data");
            let unwritten =
                files.write(&json, || report::set_html(&report), || report::set_markdown(&report));
            annotate(of_set(&report));
            Output { text: report::set_text(&report, detail), json, passed: report.passed, unwritten }
        }
        None => {
            let mut report = match &args.join[..] {
                [] => job.run(&console)?,
                folders => job.join(folders, &console)?,
            };
            options::in_report(&mut report);
            invocation::record(&mut report.run);
            let json = serde_json::to_value(&report).expect("a report is plain data");
            let unwritten = files.write(&json, || report::html(&report), || report::markdown(&report));
            annotate(of_artifact(&report));
            Output { text: report::text(&report, detail), json, passed: report.passed, unwritten }
        }
    })
}

/// Measures a part.
fn measure(args: &args::Verify, job: &Verify, part: Part) -> Result<Output> {
    let Some(folder) = &args.out else {
        return Err(
            Error::recipe("‹part›", "no folder for what the part measures").help("Give it with ‹out›.")
        );
    };
    let reports = &args.reports;
    let files = [&reports.report_json, &reports.html, &reports.markdown];
    if files.iter().any(|file| file.is_some()) {
        return Err(Error::recipe(format!("‹part› {part}"), "a part makes no report")
            .help("Give the names of reports to the command that joins the parts."));
    }
    let made = job.run_part(part, folder, &Console::default())?;
    let folder = folder.display();
    Ok(join::part(
        &made,
        &format!("the same command with --join {folder}, in place of --part and -o, makes the report"),
    ))
}

/// The findings of an artifact, each with the path of the artifact.
fn of_artifact(report: &Report) -> impl Iterator<Item = (&str, &Finding)> {
    report.findings.iter().map(|finding| (report.artifact.path.as_str(), finding))
}

pub(super) fn of_set(report: &SetReport) -> impl Iterator<Item = (&str, &Finding)> {
    let own = report.findings.iter().map(|finding| (finding.place.as_str(), finding));
    own.chain(report.reports.iter().flat_map(of_artifact))
}

/// Prints failures as annotations of a GitHub workflow, if the process runs in one.
pub(super) fn annotate<'r>(findings: impl Iterator<Item = (&'r str, &'r Finding)>) {
    /// GitHub shows ten annotations per step.
    const MOST: usize = 10;
    if std::env::var_os("GITHUB_ACTIONS").is_none_or(|value| value != "true") {
        return;
    }
    let failures = findings.filter(|(_, finding)| finding.severity == Severity::Failure);
    for (artifact, finding) in failures.take(MOST) {
        let line = |text: &str| {
            base::visible_line(text).replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
        };
        let title = line(artifact).replace(':', "%3A").replace(',', "%2C");
        tell(&format!("::error title={title}::{}: {}\n", line(&finding.place), line(&finding.problem)));
    }
}
