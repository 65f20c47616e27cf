//! The files of a folder against those that its manifests list.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use crate::manifest::{all, inside};
use crate::{Finding, Severity, Step};

/// Compares a folder with its manifests: a listed file that is missing is a failure, a file that no manifest lists a warning.
/// `files` are the GGUFs of models in the folder; those that were found by their content have the names that the manifest
/// gives them. Without a manifest there are no findings.
pub fn contents(folder: &Path, files: &BTreeMap<String, Option<String>>) -> Vec<Finding> {
    let manifests = all(folder);
    let mut findings = Vec::new();
    let mut listed = HashSet::new();
    for (path, manifest) in &manifests {
        for file in manifest.artifacts.iter().flat_map(|entry| &entry.outputs) {
            let is_renamed = || files.values().flatten().any(|was| *was == file.name);
            let is_missing = || inside(folder, &file.name).is_ok_and(|found| found.is_none());
            if listed.insert(file.name.as_str()) && !is_renamed() && is_missing() {
                let problem = format!("missing: {} lists it, and the folder lacks it", path.display());
                findings.push(finding(Severity::Failure, &file.name, problem));
            }
        }
    }
    let unlisted = files.iter().filter(|(name, was)| was.is_none() && !listed.contains(name.as_str()));
    if !manifests.is_empty() {
        findings.extend(unlisted.map(|(name, _)| {
            finding(Severity::Warning, name, "no manifest of the folder lists it".to_owned())
        }));
    }
    findings
}

fn finding(severity: Severity, file: &str, problem: String) -> Finding {
    Finding::new(severity, Step::Structure, file, problem)
}
