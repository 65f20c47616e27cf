//! Faults planted in good artifacts, one at a time: `verify` names each of them, without a manifest by what is wrong and
//! with one at least by the file. A new kind of artifact gets a table here too. `broken.rs` has the mistakes that
//! llama.cpp runs without a word, with their causes.

mod draft;
pub(crate) mod edit;
mod folder;
mod gguf_file;
mod split;

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{self, fixture};
use checkpoint::Checkpoint;
use gguf::GgufSet;
use quant::Simd;
use tensor::{Result, TensorSource};
use verify::{Expected, Finding, Provenance, Severity};

/// A fault.
pub(crate) struct Fault {
    name: String,
    /// What must be in a warning, a failure or a refusal; one of several, divided by `|`.
    word: String,
    /// What is planted changes nothing that is computed: a warning is enough.
    harmless: bool,
    /// Changes a copy of the good folder.
    make: Box<dyn Fn(&Path)>,
}

pub(crate) fn fault(name: impl ToString, word: impl ToString, make: impl Fn(&Path) + 'static) -> Fault {
    Fault { name: name.to_string(), word: word.to_string(), harmless: false, make: Box::new(make) }
}

impl Fault {
    pub(crate) fn harmless(self) -> Fault {
        Fault { harmless: true, ..self }
    }
}

/// A good artifact: the name of its file in its folder, empty for the folder itself.
pub(crate) struct Good {
    home: tempfile::TempDir,
    file: String,
    against: PathBuf,
}

impl Good {
    /// What a run of the binary writes into `out`.
    pub(crate) fn new(checkpoint: &str, file: &str, args: impl FnOnce(&Path) -> Vec<String>) -> Good {
        let home = tempfile::tempdir().unwrap();
        let against = fixture(checkpoint);
        support::run(args(&home.path().join("out"))).good();
        Good { home, file: file.to_owned(), against }
    }

    pub(crate) fn converted(checkpoint: &str, file: &str, more: &[&str]) -> Good {
        Good::new(checkpoint, file, |out| support::convert_args(&fixture(checkpoint), out, more))
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.home.path().join("out")
    }

    /// A path in `folder`, a copy of the good one.
    fn artifact(&self, folder: &Path) -> PathBuf {
        if self.file.is_empty() { folder.to_owned() } else { folder.join(&self.file) }
    }

    /// Plants the faults, and asserts that each is named.
    #[track_caller]
    pub(crate) fn all_are_named(&self, faults: &[Fault]) {
        for manifest in [true, false] {
            let copy = self.copy(manifest);
            let says = says(&self.artifact(copy.path()), &self.against);
            assert_eq!(says, (String::new(), false), "the good artifact");
        }
        let mut silent = Vec::new();
        for fault in faults {
            for manifest in [false, true] {
                let copy = self.copy(manifest);
                (fault.make)(copy.path());
                let (said, failed) = says(&self.artifact(copy.path()), &self.against);
                let named = match manifest {
                    true => !said.is_empty(),
                    false => fault.word.split('|').any(|word| said.contains(word)),
                };
                if !named || !(failed || fault.harmless) {
                    let manifest = if manifest { "with" } else { "without" };
                    silent.push(format!(
                        "{} ({manifest} a manifest): {:?} not in {said:?}",
                        fault.name, fault.word
                    ));
                }
            }
        }
        assert!(silent.is_empty(), "{} of {}:\n{}", silent.len(), faults.len(), silent.join("\n"));
    }

    fn copy(&self, manifest: bool) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        for name in support::names(&self.out()) {
            if manifest || !name.ends_with("manifest.json") {
                fs::copy(self.out().join(&name), copy.path().join(&name)).unwrap();
            }
        }
        copy
    }
}

/// Warnings and failures, or the refusal; and whether it is more than warnings.
fn says(artifact: &Path, against: &Path) -> (String, bool) {
    match verified(artifact, against) {
        Err(error) => (error.to_string(), true),
        Ok(findings) => {
            let grave = findings.iter().filter(|finding| finding.severity > Severity::Note);
            let failed = findings.iter().any(|finding| finding.severity == Severity::Failure);
            let line = |f: &Finding| format!("{}: {} {:?} {:?}\n", f.place, f.problem, f.expected, f.found);
            (grave.map(line).collect(), failed)
        }
    }
}

/// The findings of the steps that need no text, each only if those before found no failure.
fn verified(artifact: &Path, against: &Path) -> Result<Vec<Finding>> {
    let (set, folder);
    let mut form = Vec::new();
    let artifact: verify::Artifact = if artifact.is_dir() {
        folder = Checkpoint::open(artifact)?;
        form = verify::form(&folder);
        (&folder).into()
    } else {
        set = GgufSet::open(artifact)?;
        (&set).into()
    };
    let mut from = Provenance::of(artifact)?;
    let mut findings = std::mem::take(&mut from.findings);
    findings.extend(from.check_files(artifact, &|_| {})?.1);
    let checkpoint = Checkpoint::open(against)?;
    let model = gemma::ModelSpec::open_any(&checkpoint)?;
    let expected = Expected::of_checkpoint(&checkpoint, &model, &from, Simd::detect())?;
    let failed = |findings: &[Finding]| findings.iter().any(|f| f.severity == Severity::Failure);
    if !failed(&findings) {
        findings.extend(form);
        findings.extend(verify::structure(artifact, &expected)?.1);
    }
    if !failed(&findings) {
        let base: &dyn TensorSource = &checkpoint;
        findings.extend(verify::tensor_errors(artifact, base, &expected, Simd::detect(), &|_| {})?.1);
    }
    Ok(findings)
}
