//! The page of a verification: verdict, tiles, findings, plots with their tables folded, and how to repeat it.

use std::fmt::Write;

use base64::prelude::{BASE64_STANDARD, Engine};
use eval::EvaluatedText;
use verify::{FeatureErrors, Outcome, Report, Severity};

use super::figures;
use super::html::{self, Narrow, Verdict, figure, fold, section, table};
use super::invocation;
use super::number;
use super::place;
use super::plots;
use super::svg::escape;
use super::tables;
use super::tensors;
use super::terms;
use super::tile::tiles;
use super::worst;

/// The most findings that are shown.
const FINDINGS: usize = 100;
/// The tokens that are shown without unfolding.
const TOKENS: usize = 5;

/// The HTML page of a verification. Absolute paths become relative.
pub fn html(report: &Report) -> String {
    let report = &place::relative(report);
    let mut page = html::open(&format!("Verification of {}", report.artifact.path));
    html::verdict(&mut page, verdict(report), &tables::verdict(report));
    tiles(&mut page, &figures::tiles(report));
    findings(&mut page, report);
    fold(&mut page, "All figures", |page| {
        table(page, "All figures", &figures::explained(report), Narrow::Stacks);
        if !report.intervals.is_empty() {
            let term = &terms::INTERVAL;
            let _ =
                writeln!(page, "<p class=\"meaning\">{} {}</p>", escape(term.meaning), html::link(term.link));
        }
    });
    section(&mut page, "Features", &tables::features(report));
    pictures(&mut page, &report.features);
    figure(&mut page, plots::towers(&report.features));
    predictions(&mut page, report);
    weights(&mut page, report);
    if let Some(allocation) = &report.allocation {
        figure(&mut page, plots::budget(allocation, report.kld.as_ref().map(|kld| kld.mean)));
    }
    section(&mut page, "Models", &tables::models(report));
    html::list(&mut page, &tables::steps(report));
    invocation::block(
        &mut page,
        &report.run,
        &[("program", &report.tool), ("arithmetic", &report.compute), ("time", &tables::times(report))],
    );
    html::close(&mut page, &format!("{}.", report.tool));
    page
}

fn verdict(report: &Report) -> Verdict {
    let warned = report.findings.iter().any(|finding| finding.severity == Severity::Warning);
    match report.outcome {
        Outcome::Failed => Verdict::Bad,
        Outcome::CheckedAlone => Verdict::Mixed,
        Outcome::Passed if warned => Verdict::Mixed,
        Outcome::Passed => Verdict::Good,
    }
}

/// Findings; notes alone are folded.
fn findings(page: &mut String, report: &Report) {
    let (grid, rest) = tables::findings(report, FINDINGS);
    let write = |page: &mut String| {
        table(page, "Findings", &grid, Narrow::Stacks);
        if let Some(rest) = &rest {
            let _ = writeln!(page, "<p>{}</p>", escape(rest));
        }
    };
    if report.findings.iter().all(|finding| finding.severity == Severity::Note) {
        fold(page, &number::count(report.findings.len(), "note", "notes"), write);
    } else {
        page.push_str("<h2>Findings</h2>\n");
        write(page);
    }
}

/// The images and the spectrograms of the sounds, each with its error.
fn pictures(page: &mut String, features: &[FeatureErrors]) {
    if features.iter().all(|file| file.picture.is_empty()) {
        return;
    }
    page.push_str("<div class=\"pictures\">\n");
    for file in features.iter().filter(|file| !file.picture.is_empty()) {
        let (name, data) = (escape(&file.file), BASE64_STANDARD.encode(&file.picture));
        let error = number::percent(file.relative_rms);
        let _ = writeln!(
            page,
            "<figure><img src=\"data:image/png;base64,{data}\" alt=\"{name}\"><figcaption>{name}: {error}</figcaption></figure>"
        );
    }
    page.push_str("</div>\n");
}

/// The predictions: along the text, the tokens that diverge most, the change of probabilities.
fn predictions(page: &mut String, report: &Report) {
    if let Some(text) = &report.text {
        figure(page, plots::along(report, text));
        worst_tokens(page, text);
    }
    if let Some(delta_p) = &report.delta_p {
        figure(page, plots::delta_p(delta_p));
        fold(page, "Quantiles of Δp", |page| {
            table(page, "Quantiles of Δp", &figures::quantiles(&delta_p.quantiles), Narrow::Scrolls);
        });
    }
}

/// The tokens that diverge most; all but the first are folded.
fn worst_tokens(page: &mut String, text: &EvaluatedText) {
    let label = "Tokens that diverge most";
    let (first, rest) = text.worst.split_at(text.worst.len().min(TOKENS));
    if !first.is_empty() {
        let _ = writeln!(page, "<h2>{label}</h2>");
        table(page, label, &worst::tokens(first), Narrow::Stacks);
        fold(page, &number::count(rest.len(), "more token", "more tokens"), |page| {
            table(page, label, &worst::tokens(rest), Narrow::Stacks);
        });
    }
}

/// The weights: error of each tensor, size of each role.
fn weights(page: &mut String, report: &Report) {
    let Some(errors) = &report.tensors else { return };
    figure(page, plots::layers(errors));
    fold(page, "Tensors with the largest error", |page| {
        table(page, "Tensors with the largest error", &tensors::worst(&errors.tensors), Narrow::Scrolls);
    });
    figure(page, plots::sizes(errors));
    fold(page, "Size and error by role", |page| {
        table(page, "Size and error by role", &tensors::roles(&errors.roles), Narrow::Scrolls);
    });
}
