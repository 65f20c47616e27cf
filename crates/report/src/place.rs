//! Paths on a page: none says where on a machine a file was. A relative path stays, an absolute one becomes the name of
//! the file, and a folder in the hub's cache becomes the id of the model.

use std::path::{Component, Path};

use eval::{Invocation, ModelInfo};
use verify::{Finding, Report, SetReport};

/// A report with no absolute path.
pub(super) fn relative(report: &Report) -> Report {
    let mut report = report.clone();
    let mut known = Known::default();
    known.model(&mut report.artifact);
    report.base.iter_mut().for_each(|base| known.model(base));
    if let Some(text) = &mut report.text {
        text.files.iter_mut().for_each(|file| known.path(file));
    }
    report.features.iter_mut().for_each(|features| known.path(&mut features.file));
    known.invocation(&mut report.run);
    report.findings.iter_mut().for_each(|finding| known.finding(finding));
    for skipped in &mut report.skipped {
        known.text(&mut skipped.why);
    }
    if let Some(structure) = &mut report.structure {
        known.text(&mut structure.plan);
    }
    report
}

/// A report of a set with no absolute path.
pub(super) fn relative_set(set: &SetReport) -> SetReport {
    let mut set = set.clone();
    let mut known = Known::default();
    set.base.iter_mut().for_each(|base| known.model(base));
    for report in &set.reports {
        known.path(&mut report.artifact.path.clone());
    }
    set.unverified.iter_mut().for_each(|file| known.path(&mut file.path));
    set.findings.iter_mut().for_each(|finding| known.finding(finding));
    set.unverified.iter_mut().for_each(|file| known.text(&mut file.why));
    set.reports.iter_mut().for_each(|report| *report = relative(report));
    set
}

/// The absolute paths of a report, for texts that name them.
#[derive(Default)]
pub(super) struct Known(Vec<(String, String)>);

impl Known {
    pub(super) fn model(&mut self, model: &mut ModelInfo) {
        self.path(&mut model.path);
    }

    pub(super) fn invocation(&mut self, run: &mut Invocation) {
        run.files.iter_mut().for_each(|file| self.path(&mut file.path));
    }

    /// Shortens a path, and remembers it.
    pub(super) fn path(&mut self, path: &mut String) {
        let Some(short) = shortened(Path::new(path.as_str())) else { return };
        if let Some(folder) = Path::new(path.as_str()).parent().and_then(Path::to_str) {
            let inside = Path::new(folder).join("");
            self.0.push((inside.display().to_string(), String::new()));
        }
        self.0.push((path.clone(), short.clone()));
        // a folder stands in texts before the folder that it is in
        self.0.sort_by_key(|(long, _)| std::cmp::Reverse(long.len()));
        *path = short;
    }

    fn finding(&self, finding: &mut Finding) {
        self.text(&mut finding.place);
        self.text(&mut finding.problem);
        finding.expected.iter_mut().chain(&mut finding.found).for_each(|text| self.text(text));
    }

    /// Shortens the paths in a text.
    fn text(&self, text: &mut String) {
        for (long, short) in self.0.iter().filter(|(long, _)| long.len() > 1) {
            if text.contains(long.as_str()) {
                *text = text.replace(long.as_str(), short);
            }
        }
    }
}

/// The short form of an absolute path; `None` for a relative one.
fn shortened(path: &Path) -> Option<String> {
    if !path.is_absolute() {
        return None;
    }
    let names: Vec<&str> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect();
    if let [.., repository, "snapshots", commit] = names[..]
        && let Some(id) = repository.strip_prefix("models--")
    {
        let commit: String = commit.chars().take(12).collect();
        return Some(format!("{}@{commit}", id.replacen("--", "/", 1)));
    }
    Some(names.last().copied().unwrap_or("/").to_owned())
}

#[cfg(test)]
mod tests {
    use verify::{Severity, Step};

    use super::*;

    #[test]
    fn absolute_paths_become_names() {
        let cases = [
            ("/srv/u/out/model.gguf", Some("model.gguf")),
            ("/srv/u/gemma-4-E2B/", Some("gemma-4-E2B")),
            ("/", Some("/")),
            ("out/model.gguf", None),
            (
                "/srv/u/.cache/huggingface/hub/models--google--gemma-4-E2B-it/snapshots/0123456789abcdef",
                Some("google/gemma-4-E2B-it@0123456789ab"),
            ),
        ];
        for (path, short) in cases {
            assert_eq!(shortened(Path::new(path)).as_deref(), short, "{path}");
        }
    }

    #[test]
    fn findings_do_not_say_where_a_file_was() {
        let problem = "/srv/u/models/base/config.json is not what /srv/u/out/manifest.json names";
        let place = "/srv/u/models/base";
        let mut report = Report {
            findings: vec![Finding::new(Severity::Note, Step::Structure, place, problem)],
            ..Report::default()
        };
        report.artifact.path = "/srv/u/out/model.gguf".to_owned();
        report.base = Some(ModelInfo { path: "/srv/u/models/base".to_owned(), ..ModelInfo::default() });
        let short = relative(&report);
        assert_eq!((short.artifact.path.as_str(), short.base.unwrap().path.as_str()), ("model.gguf", "base"));
        assert_eq!(short.findings[0].place, "base");
        assert_eq!(short.findings[0].problem, "base/config.json is not what manifest.json names");
    }
}
