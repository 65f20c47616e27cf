//! The report of a draft model in all forms: sentences, tiles, a table of burst sizes, a plot.

use std::fmt::Write;

use draft::DraftReport;

use super::html::{self, Narrow, Verdict};
use super::tables::{Align, Cell, Grid, cell, exact, models_of};
use super::tile::{Tile, tiles};
use super::{invocation, markdown, number, place, plots, terms, text};
use base::grouped;

/// The report for a terminal. The verdict comes last, where it stays visible.
pub fn draft_text(report: &DraftReport) -> String {
    let mut out = text::render(&models(report));
    let _ = write!(
        out,
        "\n{}\n{}\n{}",
        sentences(report).join("\n"),
        text::render(&bursts(report)),
        verdict(report)
    );
    out.push('\n');
    out
}

/// The report as Markdown, for the summary of a CI run.
pub fn draft_markdown(report: &DraftReport) -> String {
    let mut out =
        format!("### {}\n\n{}\n", markdown::escape(&verdict(report)), markdown::render(&models(report)));
    for sentence in sentences(report) {
        let _ = writeln!(out, "- {}", markdown::escape(&sentence));
    }
    let _ = write!(out, "\n{}\n{}\n", markdown::render(&bursts(report)), markdown::escape(&report.tool));
    out
}

/// The report as a self-contained HTML page. Absolute paths become relative.
pub fn draft_html(report: &DraftReport) -> String {
    let mut report = report.clone();
    let mut known = place::Known::default();
    known.model(&mut report.draft);
    known.model(&mut report.target);
    known.invocation(&mut report.run);
    let report = &report;
    let mut page = html::open(&format!("Draft model {}", report.draft.path));
    let mark = match (report.measured.same_text, is_faster(report)) {
        (false, _) => Verdict::Bad,
        (true, false) => Verdict::Mixed,
        (true, true) => Verdict::Good,
    };
    html::verdict(&mut page, mark, &verdict(report));
    tiles(&mut page, &head(report));
    html::figure(&mut page, plots::bursts(report));
    html::fold(&mut page, "Burst sizes", |page| {
        html::table(page, "Burst sizes", &bursts(report), Narrow::Scrolls);
    });
    html::section(&mut page, "Models", &models(report));
    invocation::block(&mut page, &report.run, &[("program", &report.tool)]);
    html::close(&mut page, &report.tool);
    page
}

fn is_faster(report: &DraftReport) -> bool {
    report.measured.speedup > 1.0
}

fn verdict(report: &DraftReport) -> String {
    let best = report.bursts.get(report.best.wrapping_sub(1));
    let implied = best.map_or(0.0, |best| best.implied);
    let same = if report.measured.same_text { "the same text" } else { "DIFFERENT TEXT" };
    format!(
        "{}: {}, {} times as fast as the target alone with {} per burst ({} predicted from the measured costs)",
        if is_faster(report) { "Faster" } else { "Slower" },
        same,
        number::significant(report.measured.speedup),
        number::count(report.best, "draft token", "draft tokens"),
        number::significant(implied),
    )
}

/// The tiles: speed-up, acceptance rate, same token, cost.
fn head(report: &DraftReport) -> Vec<Tile> {
    let measured = &report.measured;
    let tile = |title, value: String, exactly: f64, notes, term| Tile {
        title,
        value: exact(value, exactly),
        unit: "",
        notes,
        verdict: None,
        bar: None,
        term,
    };
    let faster = is_faster(report);
    let says = if faster { "faster than the target alone" } else { "slower than the target alone" };
    vec![
        Tile {
            verdict: Some((faster, says.to_owned())),
            ..tile(
                "Speed-up",
                format!("{}×", number::significant(measured.speedup)),
                measured.speedup,
                vec![
                    format!(
                        "{} tokens in {}, alone {}",
                        grouped(report.said),
                        number::duration(measured.seconds),
                        number::duration(measured.alone_seconds)
                    ),
                    format!(
                        "{} of {} draft tokens accepted",
                        grouped(measured.taken),
                        grouped(measured.drafted)
                    ),
                ],
                &terms::SPEED_UP,
            )
        },
        tile(
            "Acceptance rate",
            number::share(report.acceptance),
            report.acceptance,
            vec!["at temperature 1".to_owned()],
            &terms::ACCEPTANCE,
        ),
        tile(
            "Same top token",
            number::share(report.top1),
            report.top1,
            vec![format!("of {} tokens of text", grouped(report.tokens))],
            &terms::SAME_TOKEN,
        ),
        tile(
            "Cost of a draft token",
            number::percent(report.cost),
            report.cost,
            vec![format!(
                "{}, a step of the target {}",
                time(report.draft_seconds),
                time(report.target_seconds)
            )],
            &terms::COST,
        ),
    ]
}

fn sentences(report: &DraftReport) -> Vec<String> {
    let measured = &report.measured;
    vec![
        format!(
            "the most probable token is the target's at {} of {} tokens of text",
            number::share(report.top1),
            grouped(report.tokens)
        ),
        format!(
            "a draft token sampled at temperature 1 is accepted with a probability of {}",
            number::share(report.acceptance)
        ),
        format!(
            "a draft token takes {}, a step of the target {}: a cost of {}",
            time(report.draft_seconds),
            time(report.target_seconds),
            number::percent(report.cost)
        ),
        format!(
            "{} tokens were generated in {}, by the target alone in {}; {} of {} draft tokens were accepted",
            grouped(report.said),
            number::duration(measured.seconds),
            number::duration(measured.alone_seconds),
            grouped(measured.taken),
            grouped(measured.drafted),
        ),
    ]
}

fn time(seconds: f64) -> String {
    format!("{} ms", number::significant(seconds * 1e3))
}

fn models(report: &DraftReport) -> Grid {
    models_of([("draft", &report.draft), ("target", &report.target)])
}

/// One row per burst size; the best is highlighted.
fn bursts(report: &DraftReport) -> Grid {
    let names = [
        "burst size",
        "accepted",
        "tokens per pass",
        "cost of a pass",
        "speed-up",
        "speed-up if a pass cost 1",
    ];
    let head =
        names.into_iter().chain(["the same at temperature 1"]).map(|name| (name, Align::Right)).collect();
    let figure = |value: f64| exact(number::significant(value), value);
    let row = |burst: &::draft::Burst| {
        let good = (burst.guesses == report.best && burst.implied > 1.0).then_some(true);
        vec![
            cell(burst.guesses.to_string()),
            figure(burst.accepted),
            figure(burst.accepted + 1.0),
            figure(burst.pass_cost),
            Cell { good, ..figure(burst.implied) },
            figure(burst.ideal),
            figure(burst.ideal_sampled),
        ]
    };
    Grid { head, rows: report.bursts.iter().map(row).collect() }
}
