//! Names of options in errors and notes: the library writes a setting as `‹name›`, the command line shows `--name`.

use gemma_convert::{Finding, Report, SetReport, rename_settings};

/// Replaces the names of settings in a text of the library by options.
pub(crate) fn with_options(text: &str) -> String {
    rename_settings(text, |name| match name {
        "out" => "-o".to_owned(),
        name => format!("--{}", name.replace('_', "-")),
    })
}

/// Replaces the names of settings in the texts of a report by options.
pub(crate) fn in_report(report: &mut Report) {
    in_findings(&mut report.findings);
    for skipped in &mut report.skipped {
        skipped.why = with_options(&skipped.why);
    }
}

/// The same, in the report of a set.
pub(crate) fn in_set_report(set: &mut SetReport) {
    set.reports.iter_mut().for_each(in_report);
    in_findings(&mut set.findings);
}

fn in_findings(findings: &mut [Finding]) {
    for finding in findings {
        finding.problem = with_options(&finding.problem);
    }
}
