//! The report of a set of artifacts in all forms: a table that compares them, and the findings of each.

use std::fmt::Write;
use std::path::Path;

use eval::Invocation;
use verify::{Finding, Outcome, Report, SetReport, Severity};

use super::html::{Narrow, Verdict};
use super::tables::{self, Align, Cell, Grid, bytes, cell, exact, name};
use super::{Detail, figures, html, invocation, markdown, number, place, plots, tensors, text};
use base::grouped;

/// The most findings that are shown.
const FINDINGS: usize = 60;

/// The report of a set for a terminal: comparison, findings, verdict. [`Detail::Full`] adds notes and steps by file.
pub fn set_text(set: &SetReport, detail: Detail) -> String {
    let mut out = String::new();
    for line in about(set) {
        let _ = writeln!(out, "{line}");
    }
    let _ = write!(out, "\n{}", text::render(&comparison(set)));
    for line in remarks(set) {
        let _ = writeln!(out, "{line}");
    }
    if detail == Detail::Full {
        for (label, report) in labels(set).iter().zip(&set.reports) {
            let _ = writeln!(out, "\n{label}");
            tables::steps(report).iter().for_each(|line| {
                let _ = writeln!(out, "  {line}");
            });
        }
    }
    let found = found(set, detail);
    for Found { finding, files } in found.iter().take(FINDINGS) {
        let [place, problem] = [&finding.place, &finding.problem].map(|text| number::plain(text));
        let (severity, step) = (tables::severity(finding.severity), tables::step(finding.step));
        let files = named(files);
        let _ = writeln!(out, "\n{severity} ({step}): {files}{}{place}\n  {problem}", separator(&files));
        for (what, value) in [("expected", &finding.expected), ("found", &finding.found)] {
            if let Some(value) = value {
                let _ = writeln!(out, "  {what}: {}", number::plain(value));
            }
        }
    }
    out.extend(rest(&found).map(|rest| format!("\n{rest}\n")));
    let _ = writeln!(out, "\n{}", verdict(set));
    out
}

fn separator(files: &str) -> &'static str {
    if files.is_empty() { "" } else { ": " }
}

/// The report of a set as Markdown, for the summary of a CI run.
pub fn set_markdown(set: &SetReport) -> String {
    let mark = match set.outcome {
        Outcome::Passed => "✅",
        Outcome::CheckedAlone => "☑️",
        Outcome::Failed => "❌",
    };
    let mut out = format!("\n### {mark} {}\n\n", markdown::escape(&verdict(set)));
    for line in about(set) {
        let _ = writeln!(out, "- {}", markdown::escape(&line));
    }
    let _ = write!(out, "\n{}", markdown::render(&comparison(set)));
    let remarks = remarks(set);
    if !remarks.is_empty() {
        out.push('\n');
    }
    for line in remarks {
        let _ = writeln!(out, "- {}", markdown::escape(&line));
    }
    let found = found(set, Detail::Short);
    let grid = findings(&found);
    if !grid.rows.is_empty() {
        let _ = write!(out, "\n{}", markdown::render(&grid));
    }
    if let Some(rest) = rest(&found) {
        let _ = writeln!(out, "\n{}", markdown::escape(&rest));
    }
    let _ = writeln!(out, "\n{}\n", markdown::escape(&number::plain(&set.tool)));
    out
}

/// The report of a set as a self-contained HTML page. Absolute paths become relative.
pub fn set_html(set: &SetReport) -> String {
    let set = &place::relative_set(set);
    let mut page =
        html::open(&format!("Verification of {}", number::count(set.reports.len(), "file", "files")));
    let mark = match set.outcome {
        Outcome::Passed => Verdict::Good,
        Outcome::CheckedAlone => Verdict::Mixed,
        Outcome::Failed => Verdict::Bad,
    };
    html::verdict(&mut page, mark, &verdict(set));
    html::section(&mut page, "Comparison", &comparison(set));
    html::list(&mut page, &remarks(set));
    html::figure(&mut page, plots::frontier(set));
    let found = found(set, Detail::Full);
    let findings = findings(&found);
    if !findings.rows.is_empty() {
        page.push_str("<h2>Findings</h2>\n");
        html::table(&mut page, "Findings", &findings, Narrow::Stacks);
    }
    html::list(&mut page, &rest(&found).into_iter().chain(about(set)).collect::<Vec<_>>());
    page.push_str("<h2>Files</h2>\n");
    for (label, report) in labels(set).iter().zip(&set.reports) {
        details(&mut page, label, report);
    }
    invocation::block(&mut page, &run(set), &[("program", &set.tool), ("arithmetic", &set.compute)]);
    html::close(&mut page, &format!("{}.", set.tool));
    page
}

/// A file with its figures, folded.
fn details(page: &mut String, label: &str, report: &Report) {
    html::fold(page, &format!("{label}: {}", tables::verdict(report)), |page| {
        html::list(page, &tables::steps(report));
        html::section(page, "Figures", &figures::explained(report));
        html::section(page, "Features", &tables::features(report));
        if let Some(errors) = &report.tensors {
            html::section(page, "Tensors with the largest error", &tensors::worst(&errors.tensors));
            html::section(page, "Size and error by role", &tensors::roles(&errors.roles));
        }
    });
}

/// The command, and the files of all reports, each once.
fn run(set: &SetReport) -> Invocation {
    let mut run = set.run.clone();
    for file in set.reports.iter().flat_map(|report| &report.run.files) {
        if !run.files.contains(file) {
            run.files.push(file.clone());
        }
    }
    run
}

/// The names of the files: without folders, unless two files then have one name.
pub(super) fn labels(set: &SetReport) -> Vec<String> {
    let path = |report: &Report| report.artifact.path.clone();
    let short = |report: &Report| match Path::new(&report.artifact.path).file_name() {
        Some(name) => name.to_string_lossy().into_owned(),
        None => path(report),
    };
    let names: Vec<String> = set.reports.iter().map(short).collect();
    let is_single = |name: &String| names.iter().filter(|other| *other == name).count() == 1;
    let label =
        |(name, report): (&String, &Report)| if is_single(name) { name.clone() } else { path(report) };
    names.iter().zip(&set.reports).map(label).map(|label| number::plain(&label)).collect()
}

fn verdict(set: &SetReport) -> String {
    let count = |outcome| set.reports.iter().filter(|report| report.outcome == outcome).count();
    let (failed, alone) = (count(Outcome::Failed), count(Outcome::CheckedAlone));
    let all = number::count(set.reports.len(), "file", "files");
    let compared = match alone {
        0 => String::new(),
        alone => format!("; {alone} not compared with a checkpoint"),
    };
    match (set.outcome, failed) {
        (Outcome::Failed, 0) => format!("Failed: the files are not those of the manifest{compared}"),
        (Outcome::Failed, failed) => format!("Failed: {failed} of {all}{compared}"),
        (Outcome::CheckedAlone, _) => format!("Checked: {all}{compared}"),
        (Outcome::Passed, _) => format!("Passed: {all}"),
    }
}

/// Base and text in a sentence each.
fn about(set: &SetReport) -> Vec<String> {
    let base = set.base.as_ref().map(|base| {
        let variant = base.variant.as_deref().map(|variant| format!(", {variant}")).unwrap_or_default();
        number::plain(&format!("base: {}{variant}, {}", base.path, number::bytes(base.bytes)))
    });
    let text = set
        .reports
        .iter()
        .filter(|report| report.text.is_some())
        .find_map(|report| tables::steps(report).into_iter().find(|line| line.starts_with("text: ")));
    base.into_iter().chain(text).collect()
}

/// The files side by side.
fn comparison(set: &SetReport) -> Grid {
    let head = [("file", Align::Left), ("size", Align::Right), ("bits per weight", Align::Right)];
    let figures = ["KL divergence (nats)", "95 % interval", "same top token", "perplexity ratio"];
    let head = head.into_iter().chain(figures.map(|figure| (figure, Align::Right)));
    let row = |(label, report): (String, &Report)| {
        let ratio = report.perplexity.as_ref().and_then(|perplexity| perplexity.ratio);
        let bits = (report.artifact.weights > 0).then(|| report.artifact.bits_per_weight());
        let (word, good) = match report.outcome {
            Outcome::Passed => ("passed", Some(true)),
            Outcome::CheckedAlone => ("checked alone", None),
            Outcome::Failed => ("failed", Some(false)),
        };
        let figure = |value: Option<f64>, write: &dyn Fn(f64) -> String| {
            value.map_or_else(Cell::default, |value| exact(write(value), value))
        };
        let interval = report.intervals.get("kld.mean").map(|[low, high]| {
            let [low, high] = [*low, *high].map(number::significant);
            cell(format!("{low} to {high}"))
        });
        vec![
            name(&label),
            bytes(report.artifact.file_bytes),
            figure(bits, &|bits| format!("{bits:.2}")),
            figure(report.kld.as_ref().map(|kld| kld.mean), &number::significant),
            interval.unwrap_or_default(),
            figure(report.top1, &number::share),
            figure(ratio, &number::ratio),
            Cell { good, ..cell(word) },
        ]
    };
    Grid {
        head: head.chain([("verdict", Align::Left)]).collect(),
        rows: labels(set).into_iter().zip(&set.reports).map(row).collect(),
    }
}

/// Files of which another one is better in size and KL divergence, and files that were not verified.
fn remarks(set: &SetReport) -> Vec<String> {
    let labels = labels(set);
    let dominated = dominated(set)
        .into_iter()
        .map(|(at, by)| format!("{} is no smaller than {}, and diverges more", labels[at], labels[by]));
    let unverified = set
        .unverified
        .iter()
        .map(|file| number::plain(&format!("{} was not verified: {}", file.path, file.why)));
    dominated.chain(unverified).collect()
}

/// The files that are larger than another one, or as large, and diverge more: each with the best of those.
pub(super) fn dominated(set: &SetReport) -> Vec<(usize, usize)> {
    let point = |report: &Report| {
        let kld = report.kld.as_ref().filter(|_| report.passed)?.mean;
        Some((report.artifact.file_bytes, kld))
    };
    let points: Vec<_> = set.reports.iter().map(point).collect();
    let better = |at: usize| {
        let (bytes, kld) = points[at]?;
        let others = points.iter().enumerate().filter_map(|(by, point)| Some((by, (*point)?)));
        let better =
            others.filter(|(_, (others_bytes, others_kld))| *others_bytes <= bytes && *others_kld < kld);
        better.min_by(|(_, (_, a)), (_, (_, b))| a.total_cmp(b)).map(|(by, _)| (at, by))
    };
    (0..points.len()).filter_map(better).collect()
}

/// A finding, and the files that have it.
struct Found<'r> {
    finding: &'r Finding,
    files: Vec<String>,
}

/// The names of a few files, or the number of many.
fn named(files: &[String]) -> String {
    if files.len() <= 2 { files.join(", ") } else { number::count(files.len(), "file", "files") }
}

/// The findings of the set and of its files, most severe first, each once. A short list leaves notes out.
fn found(set: &SetReport, detail: Detail) -> Vec<Found<'_>> {
    let mut all: Vec<Found<'_>> = Vec::new();
    let files = labels(set).into_iter().zip(&set.reports);
    let of_files =
        files.flat_map(|(label, report)| report.findings.iter().map(move |f| (Some(label.clone()), f)));
    let of_set = set.findings.iter().map(|finding| (None, finding));
    for (file, finding) in of_set.chain(of_files) {
        if finding.severity == Severity::Note && detail == Detail::Short {
            continue;
        }
        match all.iter_mut().find(|found| found.finding == finding) {
            Some(found) => found.files.extend(file),
            None => all.push(Found { finding, files: file.into_iter().collect() }),
        }
    }
    all.sort_by_key(|found| std::cmp::Reverse(found.finding.severity));
    all
}

fn findings(found: &[Found<'_>]) -> Grid {
    let head = ["file", "severity", "step", "place", "problem", "expected", "found"];
    let row = |Found { finding, files }: &Found<'_>| {
        let shown = |text: &Option<String>| cell(number::plain(text.as_deref().unwrap_or_default()));
        vec![
            name(&named(files)),
            Cell {
                good: (finding.severity == Severity::Failure).then_some(false),
                ..cell(tables::severity(finding.severity))
            },
            cell(tables::step(finding.step)),
            name(&finding.place),
            cell(number::plain(&finding.problem)),
            shown(&finding.expected),
            shown(&finding.found),
        ]
    };
    Grid {
        head: head.map(|name| (name, Align::Left)).to_vec(),
        rows: found.iter().take(FINDINGS).map(row).collect(),
    }
}

fn rest(found: &[Found<'_>]) -> Option<String> {
    let rest = found.len().checked_sub(FINDINGS + 1)? as u64 + 1;
    Some(format!("… and {} more; the JSON report has them all.", grouped(rest)))
}
