//! The report on a terminal: compact, the verdict last, where it is seen.

use std::fmt::Write;

use verify::Report;

use super::number;
use super::tables::{self, Align, Grid};
use crate::table::Table;

/// The most findings that are shown.
const FINDINGS: usize = 30;

/// What was verified, findings, errors by role, figures with intervals and limits, verdict.
pub fn text(report: &Report) -> String {
    let mut text = render(&tables::models(report));
    text.push('\n');
    for line in tables::steps(report) {
        let _ = writeln!(text, "{line}");
    }
    if let Some(tensors) = &report.tensors {
        let _ = write!(text, "\n{}", render(&tables::roles(&tensors.roles)));
    }
    let figures = tables::figures(report);
    if !figures.rows.is_empty() {
        let _ = write!(text, "\n{}", render(&figures));
    }
    findings(report, &mut text);
    let times = tables::times(report);
    if !times.is_empty() {
        let _ = writeln!(text, "\ntime: {times}");
    }
    let _ = writeln!(text, "\n{}", tables::verdict(report));
    text
}

/// A paragraph each: a problem is a sentence, too long for a table.
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
    // The table aligns whole numbers by itself; the others come as wide as their column.
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
