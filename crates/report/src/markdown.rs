//! The report as short GitHub Markdown, for the summary of a CI run.

use std::fmt::Write;

use verify::{Outcome, Report};

use super::number;
use super::tables::{self, Align, Cell, Grid};
use super::{figures, tensors};

/// The most findings that are shown; a summary may have 1 MiB.
const FINDINGS: usize = 20;

/// The Markdown of a verification: headline, verdict, models, figures, findings; steps, roles and times are folded.
pub fn markdown(report: &Report) -> String {
    let mark = match report.outcome {
        Outcome::Passed => "✅",
        Outcome::CheckedAlone => "☑️",
        Outcome::Failed => "❌",
    };
    // a summary may have text before and after: a heading needs empty lines around it
    let mut text = format!(
        "\n### {mark} {}\n\n{}\n\n{}",
        escape(&tables::headline(report)),
        escape(&tables::verdict(report)),
        render(&tables::models(report))
    );
    let (findings, rest) = tables::findings(report, FINDINGS);
    for grid in [figures::figures(report), tables::features(report), findings] {
        if !grid.rows.is_empty() {
            let _ = write!(text, "\n{}", render(&grid));
        }
    }
    if let Some(rest) = rest {
        let _ = writeln!(text, "\n{}", escape(&rest));
    }
    text.push_str("\n<details><summary>Steps and roles</summary>\n\n");
    for line in tables::steps(report) {
        let _ = writeln!(text, "- {}", escape(&line));
    }
    if let Some(tensors) = &report.tensors {
        let _ = write!(text, "\n{}", render(&tensors::roles(&tensors.roles)));
    }
    let _ = writeln!(
        text,
        "\n{}; {}\n\n</details>\n",
        escape(&number::plain(&report.tool)),
        escape(&tables::times(report))
    );
    text
}

pub(super) fn render(grid: &Grid) -> String {
    let mut text = String::new();
    let rule = |align| if align == Align::Right { "--:" } else { ":--" };
    let _ = writeln!(text, "| {} |", grid.head.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" | "));
    let _ =
        writeln!(text, "|{}|", grid.head.iter().map(|(_, align)| rule(*align)).collect::<Vec<_>>().join("|"));
    for row in &grid.rows {
        let _ = writeln!(text, "| {} |", row.iter().map(cell).collect::<Vec<_>>().join(" | "));
    }
    text
}

fn cell(cell: &Cell) -> String {
    match (cell.code, cell.good) {
        (true, _) => code(&base::visible_line(&cell.text)),
        (_, Some(false)) => format!("**{}**", escape(&base::visible_line(&cell.text))),
        _ => escape(&base::visible_line(&cell.text)),
    }
}

/// A name as code in a table, in more backticks than the longest run of them in the name.
fn code(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let text = text.replace('|', "\\|");
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let gap = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{gap}{text}{gap}{fence}")
}

/// Text with escaped Markdown characters.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in base::visible(text).chars() {
        if matches!(c, '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '<' | '&' | '#' | '|' | '~' | '$') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}
