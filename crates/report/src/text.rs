//! The report for a terminal: compact, with the verdict last, where it stays visible.

use std::fmt::Write;

use verify::Report;

use super::number;
use super::tables::{self, Align, Grid};
use super::{figures, tensors};
use crate::table::Table;

/// The amount of detail of a text report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// Models, figures, findings, verdict.
    #[default]
    Short,
    /// The same, with the steps and the errors by role.
    Full,
}

/// The most findings that are shown.
const FINDINGS: usize = 30;

/// The text of a verification: models, figures with intervals and limits, findings, verdict. [`Detail::Full`] adds
/// steps, errors by role and times.
pub fn text(report: &Report, detail: Detail) -> String {
    let mut text = render(&tables::models(report));
    if detail == Detail::Full {
        text.push('\n');
        for line in tables::steps(report) {
            let _ = writeln!(text, "{line}");
        }
        if let Some(tensors) = &report.tensors {
            let _ = write!(text, "\n{}", render(&tensors::roles(&tensors.roles)));
        }
    }
    let figures = figures::figures(report);
    if !figures.rows.is_empty() {
        let _ = write!(text, "\n{}", render(&figures));
    }
    if !report.features.is_empty() {
        let _ = write!(text, "\n{}", render(&tables::features(report)));
    }
    findings(report, &mut text);
    let times = tables::times(report);
    if !times.is_empty() && detail == Detail::Full {
        let _ = writeln!(text, "\ntime: {times}");
    }
    let _ = writeln!(text, "\n{}", tables::verdict(report));
    text
}

/// Findings as paragraphs, because a problem is too long for a table.
fn findings(report: &Report, text: &mut String) {
    for finding in tables::sorted(&report.findings).into_iter().take(FINDINGS) {
        let [place, problem] = [&finding.place, &finding.problem].map(|text| number::plain(text));
        let (severity, step) = (tables::severity(finding.severity), tables::step(finding.step));
        let _ = writeln!(text, "\n{severity} ({step}): {place}\n  {problem}");
        for (what, value) in [("expected", &finding.expected), ("found", &finding.found)] {
            if let Some(value) = value {
                let _ = writeln!(text, "  {what}: {}", number::plain(value));
            }
        }
    }
    if let Some(rest) = tables::findings(report, FINDINGS).1 {
        let _ = writeln!(text, "\n{rest}");
    }
}

pub(super) fn render(grid: &Grid) -> String {
    // The table right-aligns whole numbers only; other numbers are padded here.
    let cells = |column: usize| grid.rows.iter().filter_map(move |row| row.get(column));
    let width = |column: usize| {
        let head = grid.head[column].0.chars().count();
        cells(column).map(|cell| cell.text.chars().count()).fold(head, usize::max)
    };
    let fitted = |column: usize, text: &str| match grid.head[column].1 {
        Align::Right => format!("{text:>width$}", width = width(column)),
        Align::Left => text.to_owned(),
    };
    let head: Vec<_> = grid.head.iter().enumerate().map(|(column, (text, _))| fitted(column, text)).collect();
    let mut table = Table::new(&head.iter().map(String::as_str).collect::<Vec<_>>());
    for row in &grid.rows {
        table.row(row.iter().enumerate().map(|(column, cell)| fitted(column, &cell.text)).collect());
    }
    table.render()
}
