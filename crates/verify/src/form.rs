//! Findings about the form of a folder: deviations from transformers' layout that are still read, and unused files.

use checkpoint::{Checkpoint, Topic};

use crate::{Finding, Severity, Step};

/// Findings about the form of an artifact's folder. Tensor names that transformers does not know are a failure, because
/// it would initialise those weights randomly, and so are quantised weights that the config does not declare.
pub fn form(folder: &Checkpoint) -> Vec<Finding> {
    let place = folder.dir().display().to_string();
    let finding = |severity, text: &str| Finding::new(severity, Step::Structure, &place, text);
    let notes = folder.notes().iter().map(|note| match note.topic {
        Topic::Names | Topic::Undeclared => finding(Severity::Failure, &note.text),
        Topic::Place | Topic::Form | Topic::Config | Topic::Quantised | Topic::Adapter => {
            finding(Severity::Warning, &note.text)
        }
    });
    let beside = folder.beside_note().map(|text| finding(Severity::Warning, &text));
    notes.chain(beside).collect()
}
