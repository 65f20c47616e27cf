//! The contents of a report, independent of the form: verdict and tables.

use eval::{EvaluatedText, ModelInfo};
use text::{Protocol, Scored};
use verify::{Compared, Finding, Outcome, Report, RoleError, Severity, Step, TensorError};

use super::number;
use crate::table::grouped;

/// The most tensors in the list of the largest errors.
const WORST: usize = 20;
/// The most documents in the list of the largest divergences.
const DOCUMENTS: usize = 10;

/// A table, which each form renders.
pub(super) struct Grid {
    pub(super) head: Vec<(&'static str, Align)>,
    pub(super) rows: Vec<Vec<Cell>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}
use Align::{Left, Right};

#[derive(Default)]
pub(super) struct Cell {
    pub(super) text: String,
    /// Tooltip with the exact number.
    pub(super) title: Option<String>,
    /// Whether the text is a name.
    pub(super) code: bool,
    /// Whether the value is good or bad for the artifact.
    pub(super) good: Option<bool>,
}

pub(super) fn cell(text: impl Into<String>) -> Cell {
    Cell { text: text.into(), ..Cell::default() }
}

pub(super) fn name(text: &str) -> Cell {
    Cell { text: number::plain(text), code: true, ..Cell::default() }
}

pub(super) fn bytes(count: u64) -> Cell {
    Cell { title: Some(number::exact_bytes(count)), ..cell(number::bytes(count)) }
}

pub(super) fn exact(text: String, value: f64) -> Cell {
    Cell { title: Some(value.to_string()), ..cell(text) }
}

/// The artifact and its main figures:
/// `model-q4_0.gguf: KL divergence 0.0044, 95.05 % same token, 4.93 bits per weight`.
pub(super) fn headline(report: &Report) -> String {
    let path = std::path::Path::new(&report.artifact.path);
    let name =
        path.file_name().map_or(report.artifact.path.as_str(), |name| name.to_str().unwrap_or_default());
    let mut figures = Vec::new();
    if let Some(kld) = &report.kld {
        figures.push(format!("KL divergence {}", number::significant(kld.mean)));
    }
    if let Some(top1) = report.top1 {
        figures.push(format!("{} same token", number::share(top1)));
    }
    if report.artifact.weights > 0 {
        figures.push(format!("{:.2} bits per weight", report.artifact.bits_per_weight()));
    }
    format!("{}: {}", number::plain(name), figures.join(", "))
}

/// The verdict in a sentence.
pub(super) fn verdict(report: &Report) -> String {
    let count = |severity| report.findings.iter().filter(|f| f.severity == severity).count();
    let (failures, warnings) = (count(Severity::Failure), count(Severity::Warning));
    let mut parts = Vec::new();
    if !report.passed {
        parts.push(number::count(failures, "failure", "failures"));
    }
    if warnings > 0 {
        parts.push(number::count(warnings, "warning", "warnings"));
    }
    if report.passed {
        let ran = [
            (report.structure.is_some(), "structure"),
            (report.tensors.is_some() || report.seconds.contains_key("tensors"), "tensors"),
            (report.text.is_some(), "text"),
        ];
        let ran: Vec<_> = ran.iter().filter(|(ran, _)| *ran).map(|(_, step)| *step).collect();
        parts.push(if ran.is_empty() {
            "nothing was checked".into()
        } else {
            format!("{} checked", ran.join(", "))
        });
    }
    let hold = report.thresholds.iter().filter(|threshold| threshold.holds).count();
    match report.thresholds.len() {
        0 => {}
        1 => parts.push(format!("its limit {}", if hold == 1 { "holds" } else { "does not hold" })),
        all => parts.push(format!("{hold} of {all} limits hold")),
    }
    let skipped: Vec<_> = report.skipped.iter().map(|skipped| step(skipped.step)).collect();
    if !skipped.is_empty() {
        parts.push(format!("not run: {}", skipped.join(", ")));
    }
    let outcome = match report.outcome {
        Outcome::Passed => "Passed",
        Outcome::CheckedAlone => "Checked alone, not compared with a checkpoint",
        Outcome::Failed if !report.compared => "Failed, not compared with a checkpoint",
        Outcome::Failed => "Failed",
    };
    format!("{outcome}: {}", parts.join("; "))
}

/// Soft tokens of images and sounds: errors relative to the base.
pub(super) fn features(report: &Report) -> Grid {
    let share = |value: f64| exact(format!("{:.3} %", 100.0 * value), value);
    let rows = report.features.iter().map(|features| {
        vec![
            name(&features.file),
            cell(grouped(features.soft_tokens)),
            share(features.relative_rms),
            share(features.worst),
            cell(grouped(features.worst_token)),
            exact(format!("{:.6}", features.cosine), features.cosine),
            features.reader_rms.map_or_else(Cell::default, share),
        ]
    });
    Grid {
        head: vec![
            ("image or sound", Left),
            ("soft tokens", Right),
            ("relative RMS error", Right),
            ("worst soft token", Right),
            ("number", Right),
            ("cosine", Right),
            ("llama.cpp from transformers", Right),
        ],
        rows: rows.collect(),
    }
}

pub(super) fn step(step: Step) -> &'static str {
    match step {
        Step::Structure => "structure",
        Step::Tensors => "tensors",
        Step::Features => "features",
        Step::Text => "text",
        Step::Thresholds => "thresholds",
    }
}

pub(super) fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Failure => "failure",
    }
}

/// Findings by severity, most severe first; otherwise in their order.
pub(super) fn sorted(findings: &[Finding]) -> Vec<&Finding> {
    let mut sorted: Vec<_> = findings.iter().collect();
    sorted.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    sorted
}

/// The first findings, and a sentence about the others.
pub(super) fn findings(report: &Report, most: usize) -> (Grid, Option<String>) {
    let sorted = sorted(&report.findings);
    let mut head = vec![("severity", Left), ("step", Left), ("place", Left), ("problem", Left)];
    let details = sorted.iter().any(|f| f.expected.is_some() || f.found.is_some());
    if details {
        head.extend([("expected", Left), ("found", Left)]);
    }
    let row = |finding: &&Finding| {
        let good = (finding.severity == Severity::Failure).then_some(false);
        let mut row = vec![
            Cell { good, ..cell(severity(finding.severity)) },
            cell(step(finding.step)),
            name(&finding.place),
            cell(number::plain(&finding.problem)),
        ];
        if details {
            let shown = |text: &Option<String>| cell(number::plain(text.as_deref().unwrap_or_default()));
            row.extend([shown(&finding.expected), shown(&finding.found)]);
        }
        row
    };
    let rest = sorted.len().saturating_sub(most);
    let rest = (rest > 0).then(|| {
        format!(
            "… and {}; the JSON report has them all.",
            number::count(rest, "more finding", "more findings")
        )
    });
    (Grid { head, rows: sorted.iter().take(most).map(row).collect() }, rest)
}

/// The models of a verification: artifact and base.
pub(super) fn models(report: &Report) -> Grid {
    let base = report.base.as_ref().map(|base| ("base", base));
    models_of(std::iter::once(("artifact", &report.artifact)).chain(base))
}

/// A table of models, each with its role in the report.
pub(super) fn models_of<'a>(models: impl IntoIterator<Item = (&'static str, &'a ModelInfo)>) -> Grid {
    let head =
        vec![("", Left), ("model", Left), ("variant", Left), ("size", Right), ("bits per weight", Right)];
    let head = head.into_iter().chain([("types", Left)]).collect();
    let row = |(what, model): (&'static str, &ModelInfo)| {
        let mut types: Vec<_> = model.types.iter().collect();
        types.sort_by_key(|(_, bytes)| std::cmp::Reverse(**bytes));
        let types: Vec<_> = types
            .iter()
            .map(|(dtype, bytes)| format!("{} {}", number::plain(dtype), number::bytes(**bytes)))
            .collect();
        vec![
            cell(what),
            name(&model.path),
            cell(number::plain(model.variant.as_deref().unwrap_or("none published"))),
            bytes(model.bytes),
            exact(format!("{:.2}", model.bits_per_weight()), model.bits_per_weight()),
            cell(types.join(", ")),
        ]
    };
    Grid { head, rows: models.into_iter().map(row).collect() }
}

/// The comparisons, one line per step.
pub(super) fn steps(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(structure) = &report.structure {
        let hashed = match structure.hashed {
            0 => String::new(),
            files => format!(", {} by its SHA-256", number::count(files as usize, "file", "files")),
        };
        let agree = if report.compared { "as planned" } else { "agree with each other" };
        lines.push(format!(
            "structure: {} and {} {agree} ({}){hashed}",
            number::count(structure.keys as usize, "key", "keys"),
            number::count(structure.tensors as usize, "tensor", "tensors"),
            number::plain(&structure.plan),
        ));
    }
    if let Some(tensors) = &report.tensors {
        lines.push(format!("tensors: {} compared with the base", grouped(tensors.tensors.len() as u64)));
    } else if !report.compared && report.seconds.contains_key("tensors") {
        lines.push("tensors: checked for values that are not finite and for blocks of zeros".to_owned());
    }
    lines.extend(report.text.as_ref().map(text));
    for skipped in &report.skipped {
        lines.push(format!("{}: not run: {}", step(skipped.step), number::plain(&skipped.why)));
    }
    lines
}

fn text(text: &EvaluatedText) -> String {
    let documents = text.documents.len();
    let (how, what) = match text.protocol {
        Protocol::Raw => ("plain", number::count(documents, "chunk", "chunks")),
        Protocol::Chat => {
            ("through the chat template", number::count(documents, "conversation", "conversations"))
        }
    };
    let scored = if text.scored == Some(Scored::Answers) { " of answers" } else { "" };
    format!(
        "text: {}, {how}: {what} of at most {} tokens, {}{scored} scored",
        number::plain(&text.files.join(", ")),
        grouped(text.context as u64),
        number::count(text.tokens as usize, "token", "tokens"),
    )
}

/// The format of a figure.
#[derive(Clone, Copy)]
enum Unit {
    /// A divergence.
    Plain,
    Perplexity,
    Ratio,
    Share,
    /// A change of a probability.
    Change,
}

impl Unit {
    fn write(self, value: f64) -> String {
        match self {
            Unit::Plain => number::significant(value),
            Unit::Perplexity => number::perplexity(value),
            Unit::Ratio => number::ratio(value),
            Unit::Share => number::share(value),
            Unit::Change => number::percent(value),
        }
    }
}

type Get = fn(&Report) -> Option<f64>;

/// Key in the JSON, name, unit, accessor.
const FIGURES: &[(&str, &str, Unit, Get)] = &[
    ("perplexity.base", "perplexity of the base", Unit::Perplexity, |r| r.perplexity.as_ref()?.base),
    ("perplexity.artifact", "perplexity of the artifact", Unit::Perplexity, |r| {
        Some(r.perplexity.as_ref()?.artifact)
    }),
    ("perplexity.ratio", "perplexity, artifact / base", Unit::Ratio, |r| r.perplexity.as_ref()?.ratio),
    ("kld.mean", "KL divergence, mean (nats)", Unit::Plain, |r| Some(r.kld.as_ref()?.mean)),
    ("kld.median", "KL divergence, median (nats)", Unit::Plain, |r| Some(r.kld.as_ref()?.median)),
    ("kld.p99", "KL divergence, 99 % (nats)", Unit::Plain, |r| Some(r.kld.as_ref()?.p99)),
    ("kld.p999", "KL divergence, 99.9 % (nats)", Unit::Plain, |r| Some(r.kld.as_ref()?.p999)),
    ("kld.max", "KL divergence, largest (nats)", Unit::Plain, |r| Some(r.kld.as_ref()?.max)),
    ("top1", "same most probable token", Unit::Share, |r| r.top1),
    ("delta_p.mean", "Δp, mean", Unit::Change, |r| Some(r.delta_p.as_ref()?.mean)),
    ("delta_p.rms", "Δp, RMS", Unit::Change, |r| Some(r.delta_p.as_ref()?.rms)),
];

/// Figures with intervals and limits.
pub(super) fn figures(report: &Report) -> Grid {
    let mut head = vec![("figure", Left), ("value", Right), ("95 % interval", Right)];
    if !report.thresholds.is_empty() {
        head.push(("limit", Left));
    }
    let row = |key: &str, label: Cell, unit: Unit, value: f64| {
        let interval = report.intervals.get(key).map(|[low, high]| Cell {
            title: Some(format!("{low} to {high}")),
            ..cell(format!("{} to {}", unit.write(*low), unit.write(*high)))
        });
        let mut row = vec![label, exact(unit.write(value), value), interval.unwrap_or_default()];
        if !report.thresholds.is_empty() {
            row.push(limit(report, key, unit));
        }
        row
    };
    let mut rows = Vec::new();
    for (key, label, unit, get) in FIGURES {
        let label = Cell { title: Some((*key).to_owned()), ..cell(*label) };
        rows.extend(get(report).map(|value| row(key, label, *unit, value)));
    }
    for threshold in &report.thresholds {
        if !FIGURES.iter().any(|(key, _, _, get)| *key == threshold.figure && get(report).is_some()) {
            rows.push(row(&threshold.figure, name(&threshold.figure), Unit::Plain, threshold.found));
        }
    }
    Grid { head, rows }
}

fn limit(report: &Report, key: &str, unit: Unit) -> Cell {
    let Some(threshold) = report.thresholds.iter().find(|threshold| threshold.figure == key) else {
        return Cell::default();
    };
    let (sign, says) =
        (if key == "top1" { "≥" } else { "≤" }, if threshold.holds { "holds" } else { "FAILS" });
    Cell {
        good: Some(threshold.holds),
        ..exact(format!("{sign} {} {says}", unit.write(threshold.limit)), threshold.limit)
    }
}

/// Types of a role, the largest first: `Q4_0, F32`.
pub(super) fn types(role: &RoleError) -> String {
    let mut types: Vec<_> = role.types.iter().collect();
    types.sort_by_key(|(_, bytes)| std::cmp::Reverse(**bytes));
    types.iter().map(|(dtype, _)| number::plain(dtype)).collect::<Vec<_>>().join(", ")
}

/// Table of sizes and errors by role.
pub(super) fn roles(roles: &[RoleError]) -> Grid {
    let head = [("role", Left), ("tensors", Right), ("type", Left), ("base", Right), ("artifact", Right)];
    let errors = [("relative error", Right), ("RMSE", Right), ("cosine", Right)];
    let row = |role: &RoleError| {
        vec![
            name(&role.role),
            cell(grouped(role.tensors)),
            cell(types(role)),
            bytes(role.base_bytes),
            bytes(role.bytes),
            exact(number::percent(role.relative), role.relative),
            exact(number::significant(role.rmse), role.rmse),
            exact(number::cosine(role.cosine), role.cosine),
        ]
    };
    Grid { head: head.into_iter().chain(errors).collect(), rows: roles.iter().map(row).collect() }
}

/// Table of the tensors with the largest relative errors; exact tensors are left out.
pub(super) fn worst(tensors: &[TensorError]) -> Grid {
    let head =
        [("tensor", Left), ("type", Left), ("size", Right), ("relative error", Right), ("RMSE", Right)];
    let more = [("cosine", Right), ("worst block", Right), ("at row, column", Right), ("compared", Left)];
    let mut worst: Vec<_> = tensors.iter().filter(|tensor| tensor.relative > 0.0).collect();
    worst.sort_by(|a, b| b.relative.total_cmp(&a.relative));
    let row = |tensor: &&TensorError| {
        let block = &tensor.worst_block;
        vec![
            name(&tensor.name),
            cell(number::plain(&tensor.dtype)),
            bytes(tensor.bytes),
            exact(number::percent(tensor.relative), tensor.relative),
            exact(number::significant(tensor.rmse), tensor.rmse),
            exact(number::cosine(tensor.cosine), tensor.cosine),
            exact(number::percent(block.relative), block.relative),
            cell(format!("{}, {}", grouped(block.row), grouped(block.column))),
            cell(match tensor.compared {
                Compared::Bytes => "bytes".to_owned(),
                Compared::Limits => "limits".to_owned(),
            }),
        ]
    };
    Grid { head: head.into_iter().chain(more).collect(), rows: worst.iter().take(WORST).map(row).collect() }
}

/// Table of the documents with the largest KL divergence.
pub(super) fn documents(text: &EvaluatedText) -> Grid {
    let head = [("document", Right), ("tokens", Right), ("perplexity of the base", Right)];
    let more =
        [("of the artifact", Right), ("KL divergence (nats)", Right), ("same most probable token", Right)];
    let mut worst: Vec<_> =
        text.documents.iter().enumerate().filter(|(_, document)| document.kld > Some(0.0)).collect();
    worst.sort_by(|(_, a), (_, b)| b.kld.unwrap_or(0.0).total_cmp(&a.kld.unwrap_or(0.0)));
    let number =
        |value: Option<f64>| value.map(|value| exact(number::significant(value), value)).unwrap_or_default();
    let rows = worst.iter().take(DOCUMENTS).map(|(index, document)| {
        vec![
            cell(grouped(*index as u64)),
            cell(grouped(document.tokens)),
            number(document.base),
            number(Some(document.artifact)),
            number(document.kld),
            document.top1.map(|share| exact(number::share(share), share)).unwrap_or_default(),
        ]
    });
    Grid { head: head.into_iter().chain(more).collect(), rows: rows.collect() }
}

/// Table of the quantiles of Δp.
pub(super) fn quantiles(quantiles: &[[f64; 2]]) -> Grid {
    let row = |[share, value]: &[f64; 2]| {
        vec![cell(format!("{} %", number::tick(share * 100.0))), exact(number::percent(*value), *value)]
    };
    Grid {
        head: vec![("share of tokens", Right), ("Δp at most", Right)],
        rows: quantiles.iter().map(row).collect(),
    }
}

/// Times of the steps: `structure 80 ms, tensors 3.4 s`.
pub(super) fn times(report: &Report) -> String {
    let mut steps: Vec<_> = report.seconds.iter().collect();
    let order = ["structure", "tensors", "text"];
    steps.sort_by_key(|(step, _)| order.iter().position(|known| known == step).unwrap_or(order.len()));
    let steps = steps
        .iter()
        .map(|(step, seconds)| format!("{} {}", number::plain(step), number::duration(**seconds)));
    steps.collect::<Vec<_>>().join(", ")
}
