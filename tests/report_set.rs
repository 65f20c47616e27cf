//! The report of a set in all forms: what a reader compares, which files are worse than others, names of strangers.

use report::Detail;
use verify::{Finding, Outcome, SCHEMA, SetReport, Severity, Step, Unverified};

use crate::support::reports;

/// Files of one model with these sizes in bytes and divergences, and one that failed.
fn set(files: &[(&str, u64, f64)]) -> SetReport {
    let good = reports::good();
    let of = |&(name, bytes, kld): &(&str, u64, f64)| {
        let mut report = good.clone();
        report.artifact.path = format!("release/{name}");
        report.artifact.file_bytes = bytes;
        report.kld.as_mut().unwrap().mean = kld;
        report.intervals.insert("kld.mean".to_owned(), [kld * 0.9, kld * 1.1]);
        report
    };
    let mut failed = good.clone();
    failed.artifact.path = "release/broken.gguf".to_owned();
    (failed.kld, failed.top1, failed.perplexity, failed.text) = (None, None, None, None);
    (failed.passed, failed.outcome) = (false, Outcome::Failed);
    let problem = "holds the values of attn_k";
    failed.findings = vec![Finding::new(Severity::Failure, Step::Tensors, "blk.0.attn_q.weight", problem)];
    let set = SetReport {
        schema: SCHEMA,
        tool: "gemma-convert 0.1.0".to_owned(),
        base: good.base.clone(),
        reports: files.iter().map(of).chain([failed]).collect(),
        unverified: vec![Unverified { path: "release/imatrix.gguf".to_owned(), why: "no model".to_owned() }],
        ..SetReport::default()
    };
    set.concluded()
}

const FILES: &[(&str, u64, f64)] = &[
    ("model-q4_0.gguf", 3_200_000_000, 0.033),
    ("model-q8_0.gguf", 5_100_000_000, 0.0009),
    ("model-q5_0.gguf", 3_900_000_000, 0.04),
];

fn forms(set: &SetReport) -> [String; 3] {
    [report::set_text(set, Detail::Short), report::set_markdown(set).replace('\\', ""), report::set_html(set)]
}

#[test]
fn every_form_compares_the_files() {
    let set = set(FILES);
    assert_eq!((set.passed, set.outcome), (false, Outcome::Failed));
    for form in forms(&set) {
        for word in [
            "model-q4_0.gguf",
            "model-q8_0.gguf",
            "0.0330",
            "0.0297 to 0.0363",
            "2.98 GiB",
            "model-q5_0.gguf is no smaller than model-q4_0.gguf, and diverges more",
            "holds the values of attn_k",
            "imatrix.gguf was not verified: no model",
            "Failed: 1 of 4 files",
            "checkpoints/model",
        ] {
            assert!(form.contains(word), "{word}: {form}");
        }
        assert!(!form.contains("model-q8_0.gguf is no smaller"), "{form}");
    }
    let markdown = report::set_markdown(&set);
    let bars = |line: &str| line.matches('|').count() - line.matches("\\|").count();
    let rows: Vec<_> = markdown.lines().filter(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 6 && rows.windows(2).filter(|pair| bars(pair[0]) != bars(pair[1])).count() <= 1);
}

#[test]
fn a_plot_needs_two_files_with_figures() {
    let drawn = |files: &[(&str, u64, f64)]| report::set_html(&set(files)).contains("KL divergence by size");
    assert!(drawn(FILES));
    assert!(drawn(&[("a.gguf", 100, 0.0), ("b.gguf", 100, 0.5)]));
    assert!(!drawn(&FILES[..1]));
    // nothing to draw on a log scale
    assert!(!drawn(&[("a.gguf", 100, 0.0), ("b.gguf", 200, 0.0)]));
}

/// Two files of one name have their folders; names are shown and not acted on.
#[test]
fn names_are_told_apart_and_shown() {
    let mut set = set(FILES);
    set.reports[0].artifact.path = "a/model.gguf".to_owned();
    set.reports[1].artifact.path = "b/model.gguf".to_owned();
    set.reports[2].artifact.path = "<script>\u{1b}[2J.gguf".to_owned();
    let [text, _, html] = forms(&set);
    for form in [&text, &html] {
        assert!(form.contains("a/model.gguf") && form.contains("b/model.gguf"), "{form}");
        assert!(!form.contains('\u{1b}'));
    }
    assert!(!html.contains("<script"));
}

#[test]
fn a_finding_of_many_files_is_shown_once() {
    let mut set = set(FILES);
    let warning = Finding::new(Severity::Warning, Step::Text, "protocol", "plain text meets a chat model");
    set.reports.iter_mut().take(3).for_each(|report| report.findings = vec![warning.clone()]);
    for form in forms(&set) {
        let findings = form.split("<h2>Files</h2>").next().unwrap();
        assert_eq!(findings.matches("plain text meets a chat model").count(), 1, "{form}");
        assert!(findings.contains("3 files"), "{form}");
    }
    set.reports.truncate(3);
    set.findings = vec![Finding::new(Severity::Failure, Step::Structure, "x.gguf", "missing")];
    let set = set.concluded();
    assert!(!set.passed);
    assert!(
        report::set_text(&set, Detail::Short).ends_with("Failed: the files are not those of the manifest\n")
    );
}
