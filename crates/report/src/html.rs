//! The report as a self-contained HTML page: no script, no font, no request; images are in the page. Its content security policy
//! makes the browser enforce that, whatever the names in a file contain.

use std::fmt::Write;

use base::GENERATOR;
use base64::prelude::{BASE64_STANDARD, Engine};
use verify::{FeatureErrors, Report};

use super::number;
use super::plots::{self, Plot};
use super::svg::escape;
use super::tables::{self, Align, Cell, Grid};

const STYLE: &str = include_str!("page.css");
/// The most findings that are shown.
const FINDINGS: usize = 100;

/// The HTML page of a verification: verdict, findings, figures, plots, tables.
pub fn html(report: &Report) -> String {
    let title = format!("Verification of {}", report.artifact.path);
    let mut page = open(&title);
    verdict(&mut page, report.passed, &tables::verdict(report));

    let (findings, rest) = tables::findings(report, FINDINGS);
    section(&mut page, "Findings", &findings);
    if let Some(rest) = rest {
        let _ = writeln!(page, "<p>{}</p>", escape(&rest));
    }
    section(&mut page, "Figures", &tables::figures(report));
    section(&mut page, "Features", &tables::features(report));
    pictures(&mut page, &report.features);
    figure(&mut page, plots::towers(&report.features));
    section(&mut page, "Models", &tables::models(report));
    list(&mut page, &tables::steps(report));
    plots_and_tables(&mut page, report);
    let times = match tables::times(report) {
        times if times.is_empty() => String::new(),
        times => format!(" Time: {times}."),
    };
    close(&mut page, &format!("{}.{times}", report.tool));
    page
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

/// The sentence with the verdict.
pub(super) fn verdict(page: &mut String, good: bool, text: &str) {
    let class = if good { "pass" } else { "fail" };
    let _ = writeln!(page, "<p class=\"verdict {class}\">{}</p>", escape(text));
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

fn plots_and_tables(page: &mut String, report: &Report) {
    if let Some(allocation) = &report.allocation {
        figure(page, plots::budget(allocation, report.kld.as_ref().map(|kld| kld.mean)));
    }
    if let Some(text) = &report.text {
        figure(page, plots::along(report, text));
        let documents = tables::documents(text);
        if documents.rows.len() > 1 {
            section(page, "Documents that diverge most", &documents);
        }
    }
    if let Some(delta_p) = &report.delta_p {
        figure(page, plots::delta_p(delta_p));
        section(page, "Quantiles of Δp", &tables::quantiles(&delta_p.quantiles));
    }
    if let Some(tensors) = &report.tensors {
        figure(page, plots::layers(tensors));
        section(page, "Tensors with the largest error", &tables::worst(&tensors.tensors));
        figure(page, plots::sizes(tensors));
        section(page, "Size and error by role", &tables::roles(&tensors.roles));
    }
}

pub(super) fn figure(page: &mut String, plot: Option<Plot>) {
    let Some(Plot { title, caption, svg }) = plot else { return };
    let (heading, caption) = (escape(title), escape(&caption));
    let _ = match svg {
        Some(svg) => writeln!(
            page,
            "<h2>{heading}</h2>\n<figure>\n<figcaption>{caption}</figcaption>\n{}{svg}</section>\n</figure>",
            scroll(title)
        ),
        None => writeln!(page, "<h2>{heading}</h2>\n<p>{caption}</p>"),
    };
}

/// A section that scrolls horizontally, also by keyboard, if its content is wider than the screen.
fn scroll(label: &str) -> String {
    format!("<section class=\"scroll\" tabindex=\"0\" aria-label=\"{}\">\n", escape(label))
}

/// A heading and a table; nothing if the table is empty.
pub(super) fn section(page: &mut String, title: &str, grid: &Grid) {
    if grid.rows.is_empty() {
        return;
    }
    let _ = write!(page, "<h2>{}</h2>\n{}<table>\n<thead><tr>", escape(title), scroll(title));
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
        for (index, (shown, (_, align))) in row.iter().zip(&grid.head).enumerate() {
            let (open, close) = if index == 0 { ("th scope=\"row\"", "th") } else { ("td", "td") };
            // Long text gets a minimum width before the table starts to scroll.
            let prose = *align == Align::Left && shown.text.chars().count() > 24;
            let class = if prose { " class=\"w\"" } else { right(*align) };
            let _ = write!(page, "<{open}{class}{}</{close}>", cell(shown));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table>\n</section>\n");
}

/// The rest of a cell's opening tag, and its content.
fn cell(cell: &Cell) -> String {
    let title = cell.title.as_ref().map(|title| format!(" title=\"{}\"", escape(title))).unwrap_or_default();
    let text = escape(&cell.text);
    let text = match cell.good {
        _ if cell.code => format!("<code>{text}</code>"),
        Some(good) => format!("<span class=\"{}\">{text}</span>", if good { "good" } else { "bad" }),
        None => text,
    };
    format!("{title}>{text}")
}
