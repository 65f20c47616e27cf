//! The contents of a report, independent of the form: verdict, findings, models, steps.

use eval::{EvaluatedText, ModelInfo};
use text::{Protocol, Scored};
use verify::{Finding, Outcome, Report, Severity, Step};

use super::number;
use base::grouped;

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
    /// A remark behind the text, on a page.
    pub(super) note: Option<String>,
    /// The definition of what the text explains, on a page.
    pub(super) link: Option<&'static str>,
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
            (!report.features.is_empty(), "features"),
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
