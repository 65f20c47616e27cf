//! The files of a folder against those that its manifests list.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use tensor::Result;

use crate::artifact::name;
use crate::manifest::{all, inside};
use crate::{Finding, Severity, Step};

/// Compares the files of a folder with its manifests: a listed file that is missing is a failure, a GGUF that no manifest
/// lists a warning. `renamed` has the names in the manifests by the names of files that were found by their content.
/// Without a manifest there are no findings.
///
/// # Errors
/// `Io`.
pub fn contents(folder: &Path, renamed: &HashMap<String, String>) -> Result<Vec<Finding>> {
    let manifests = all(folder);
    let mut findings = Vec::new();
    let mut listed = HashSet::new();
    for (path, manifest) in &manifests {
        for file in manifest.artifacts.iter().flat_map(|entry| &entry.outputs) {
            let is_known =
                !listed.insert(file.name.as_str()) || renamed.values().any(|was| *was == file.name);
            if !is_known && inside(folder, &file.name).is_ok_and(|found| found.is_none()) {
                let problem = format!("missing: {} lists it, and the folder lacks it", path.display());
                findings.push(finding(Severity::Failure, &file.name, problem));
            }
        }
    }
    let unlisted = |file: &PathBuf| {
        let name = name(file);
        !listed.contains(name.as_str()) && !renamed.contains_key(&name)
    };
    if !manifests.is_empty() {
        for file in gguf::files_in(folder)?.into_iter().filter(unlisted) {
            let problem = "no manifest of the folder lists it".to_owned();
            findings.push(finding(Severity::Warning, &name(&file), problem));
        }
    }
    Ok(findings)
}

fn finding(severity: Severity, file: &str, problem: String) -> Finding {
    Finding::new(severity, Step::Structure, file, problem)
}
