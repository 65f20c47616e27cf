//! The limits of a verification.

use plan::Thresholds;
use verify::{Finding, Report, Severity, Step, Threshold};

/// Compares the figures with the limits. Unmeasured figures fail only the limits that were given.
pub(super) fn check(asked: Thresholds, of_recipe: Thresholds, report: &mut Report) {
    let unmeasured_is_failure = !failed(report);
    let kld = report.kld.as_ref().map(|kld| kld.mean);
    let ratio = report.perplexity.as_ref().and_then(|perplexity| perplexity.ratio);
    let features = report.features.iter().map(|features| features.relative_rms).max_by(f64::total_cmp);
    let at_most = f64::le as fn(&f64, &f64) -> bool;
    let figures = [
        ("kld.mean", asked.max_kld, of_recipe.max_kld, kld, at_most),
        ("perplexity.ratio", asked.max_ppl_ratio, of_recipe.max_ppl_ratio, ratio, at_most),
        ("top1", asked.min_top1, of_recipe.min_top1, report.top1, f64::ge),
        ("features.relative_rms", asked.max_feature_error, of_recipe.max_feature_error, features, at_most),
    ];
    for (figure, asked, of_recipe, found, holds) in figures {
        let Some(limit) = asked.or(of_recipe) else { continue };
        let finding = |problem: &str| Finding::new(Severity::Failure, Step::Thresholds, figure, problem);
        match found {
            Some(found) => {
                let holds = holds(&found, &limit);
                report.thresholds.push(Threshold { figure: figure.to_owned(), limit, found, holds });
                if !holds {
                    let (sign, word) = if figure == "top1" { ("<", "at least") } else { (">", "at most") };
                    let problem = format!("{found:.4} {sign} limit {limit}");
                    report.findings.push(finding(&problem).expected(format!("{word} {limit}"), found));
                }
            }
            None if asked.is_some() && unmeasured_is_failure => {
                report
                    .findings
                    .push(finding("has a limit, and was not measured: ‹against› and ‹text› are needed"));
            }
            None => {}
        }
    }
}

/// Whether a finding is a failure.
pub(super) fn failed(report: &Report) -> bool {
    report.findings.iter().any(|finding| finding.severity == Severity::Failure)
}
