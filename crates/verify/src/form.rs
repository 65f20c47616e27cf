//! In what a folder is not as transformers saves one: what is read nevertheless, and files that nobody reads.

use checkpoint::{Checkpoint, Topic};

use crate::{Finding, Severity, Step};

/// What there is to say about the form of an artifact's folder. Names that transformers does not know are a failure: it would
/// make up those weights.
pub fn form(folder: &Checkpoint) -> Vec<Finding> {
    let place = folder.dir().display().to_string();
    let finding = |severity, text: &str| Finding::new(severity, Step::Structure, &place, text);
    let notes = folder.notes().iter().map(|note| match note.topic {
        Topic::Names => finding(Severity::Failure, &note.text),
        Topic::Place | Topic::Form | Topic::Config => finding(Severity::Warning, &note.text),
    });
    let beside = folder.beside_note().map(|text| finding(Severity::Warning, &text));
    notes.chain(beside).collect()
}
