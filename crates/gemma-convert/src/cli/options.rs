//! Names of options in errors and notes: the library writes a setting as `‹name›`, the command line shows `--name`.

use gemma_convert::{Report, rename_settings};

/// Replaces the names of settings in a text of the library by options.
pub(crate) fn with_options(text: &str) -> String {
    rename_settings(text, |name| match name {
        "out" => "-o".to_owned(),
        name => format!("--{}", name.replace('_', "-")),
    })
}

/// Replaces the names of settings in the texts of a report by options.
pub(crate) fn in_report(report: &mut Report) {
    for finding in &mut report.findings {
        finding.problem = with_options(&finding.problem);
    }
    for skipped in &mut report.skipped {
        skipped.why = with_options(&skipped.why);
    }
}
