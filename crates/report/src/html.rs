//! The elements of a self-contained HTML page: no script, no font, no request; images are in the page. Its content
//! security policy makes the browser enforce that, whatever the names in a file contain.

use std::fmt::Write;

use base::GENERATOR;

use super::plots::Plot;
use super::svg::escape;
use super::tables::{Align, Cell, Grid};

const STYLE: &str = include_str!("page.css");

/// The beginning of a page, up to its heading.
pub(super) fn open(title: &str) -> String {
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         {GENERATOR}\n<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         img-src data:\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
    )
}

/// What a page says first: good, bad, or good with a reservation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    Mixed,
    Bad,
}

/// The sentence with the verdict, and a sign.
pub(super) fn verdict(page: &mut String, verdict: Verdict, text: &str) {
    let (class, sign) = match verdict {
        Verdict::Good => ("pass", "✓"),
        Verdict::Mixed => ("mixed", "!"),
        Verdict::Bad => ("fail", "✗"),
    };
    let _ = writeln!(page, "<p class=\"verdict {class}\">{sign} {}</p>", escape(text));
}

/// A link to a definition.
pub(super) fn link(address: &str) -> String {
    format!("<a href=\"{}\" rel=\"noreferrer\">definition</a>", escape(address))
}

/// Content that the reader unfolds; nothing if it is empty.
pub(super) fn fold(page: &mut String, summary: &str, content: impl FnOnce(&mut String)) {
    let mut inner = String::new();
    content(&mut inner);
    if !inner.is_empty() {
        let _ = write!(page, "<details>\n<summary>{}</summary>\n{inner}</details>\n", escape(summary));
    }
}

/// A list of sentences; nothing if there are none.
pub(super) fn list(page: &mut String, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    page.push_str("<ul>\n");
    for line in lines {
        let _ = writeln!(page, "<li>{}</li>", escape(line));
    }
    page.push_str("</ul>\n");
}

/// The end of a page.
pub(super) fn close(page: &mut String, foot: &str) {
    let _ = writeln!(page, "</main>\n<footer>{}</footer>\n</body>\n</html>", escape(foot));
}

/// A plot with its heading, and what it shows in words.
pub(super) fn figure(page: &mut String, plot: Option<Plot>) {
    let Some(Plot { title, term, caption, drawings }) = plot else { return };
    let (heading, caption) = (escape(title), escape(&caption));
    let caption = format!("{} {}<br>{caption}", escape(term.meaning), link(term.link));
    let _ = match drawings {
        Some([wide, narrow]) => writeln!(
            page,
            "<h2>{heading}</h2>\n<figure>\n<figcaption>{caption}</figcaption>\n{wide}{narrow}</figure>"
        ),
        None => writeln!(page, "<h2>{heading}</h2>\n<p>{caption}</p>"),
    };
}

/// A heading and a table that scrolls; nothing if the table is empty.
pub(super) fn section(page: &mut String, title: &str, grid: &Grid) {
    if !grid.rows.is_empty() {
        let _ = writeln!(page, "<h2>{}</h2>", escape(title));
        table(page, title, grid, Narrow::Scrolls);
    }
}

/// What becomes of a table that is wider than the screen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Narrow {
    /// It scrolls sideways, also by keyboard.
    Scrolls,
    /// Each row becomes a list of names and values.
    Stacks,
}

/// A table; nothing if it is empty. `label` names it for screen readers.
pub(super) fn table(page: &mut String, label: &str, grid: &Grid, narrow: Narrow) {
    if grid.rows.is_empty() {
        return;
    }
    let label = escape(label);
    let _ = match narrow {
        Narrow::Scrolls => {
            write!(page, "<section class=\"scroll\" tabindex=\"0\" aria-label=\"{label}\">\n<table>\n")
        }
        Narrow::Stacks => {
            write!(page, "<section class=\"scroll\" aria-label=\"{label}\">\n<table class=\"stack\">\n")
        }
    };
    page.push_str("<thead><tr>");
    let right = |align| if align == Align::Right { " class=\"r\"" } else { "" };
    for (name, align) in &grid.head {
        let _ = match *name {
            "" => write!(page, "<td></td>"),
            name => write!(page, "<th scope=\"col\"{}>{}</th>", right(*align), escape(name)),
        };
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in &grid.rows {
        page.push_str("<tr>");
        for (index, (shown, (name, align))) in row.iter().zip(&grid.head).enumerate() {
            let (open, close) = if index == 0 { ("th scope=\"row\"", "th") } else { ("td", "td") };
            // Long text gets a minimum width before the table starts to scroll.
            let prose = *align == Align::Left && shown.text.chars().count() > 24;
            let class = if prose { " class=\"w\"" } else { right(*align) };
            let names = narrow == Narrow::Stacks && index > 0 && !shown.text.is_empty();
            let name = if names { format!(" data-name=\"{}\"", escape(name)) } else { String::new() };
            let _ = write!(page, "<{open}{class}{name}{}</{close}>", cell(shown));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table>\n</section>\n");
}

/// The rest of a cell's opening tag, and its content.
fn cell(cell: &Cell) -> String {
    let title = cell.title.as_ref().map(|title| format!(" title=\"{}\"", escape(title))).unwrap_or_default();
    let mut text = escape(&cell.text);
    if cell.code {
        text = format!("<code>{text}</code>");
    }
    if let Some(good) = cell.good {
        let (class, sign) = if good { ("good", "✓") } else { ("bad", "✗") };
        text = format!("<span class=\"{class}\">{sign} {text}</span>");
    }
    if let Some(note) = &cell.note {
        text += &format!(" <small>{}</small>", escape(note));
    }
    if let Some(address) = cell.link {
        text += &format!(" {}", link(address));
    }
    format!("{title}>{text}")
}
