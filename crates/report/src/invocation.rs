//! The block that says how to repeat a report: command, date, program, arithmetic, files with their SHA-256.

use std::fmt::Write;

use eval::Invocation;

use super::html::{Narrow, table};
use super::number;
use super::svg::escape;
use super::tables::{Align, Cell, Grid, bytes, cell, name};
use Align::{Left, Right};

/// Writes the block. `facts` are further lines: what they are, and their text; empty texts are left out.
pub(super) fn block(page: &mut String, run: &Invocation, facts: &[(&str, &str)]) {
    page.push_str("<h2>How to repeat this</h2>\n");
    if !run.command.is_empty() {
        let command = escape(&run.command);
        let _ = writeln!(page, "<pre><code>{command}</code></pre>");
    }
    let facts = [("date", run.date.as_str())].into_iter().chain(facts.iter().copied());
    let facts: Vec<_> = facts.filter(|(_, text)| !text.is_empty()).collect();
    if !facts.is_empty() {
        page.push_str("<dl>\n");
        for (what, text) in facts {
            let _ = writeln!(page, "<dt>{}</dt><dd>{}</dd>", escape(what), escape(text));
        }
        page.push_str("</dl>\n");
    }
    table(page, "Files", &files(run), Narrow::Stacks);
}

fn files(run: &Invocation) -> Grid {
    let row = |file: &eval::HashedFile| {
        vec![name(&file.path), bytes(file.bytes), Cell { code: true, ..cell(number::plain(&file.sha256)) }]
    };
    Grid {
        head: vec![("file", Left), ("size", Right), ("SHA-256", Left)],
        rows: run.files.iter().map(row).collect(),
    }
}
