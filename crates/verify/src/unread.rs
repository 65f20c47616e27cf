//! Parts of a GGUF that llama.cpp does not read and that a writer can get wrong: padding, bytes behind the last tensor,
//! and keys in the later parts of a split.
//!
//! They do not change the model, but show that the file was edited or joined. Tools that read each part alone (the
//! hub's parser, gguf-py) do use the keys of later parts.

use gguf::{GgufFile, GgufSet};
use tensor::Result;

use crate::values::{difference, show};
use crate::{Finding, Severity, Step, keys};

/// Bytes per read.
const PIECE: usize = 1 << 16;

/// Findings about all files of `set`.
///
/// # Errors
/// `Io`.
pub(crate) fn unread(set: &GgufSet) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for part in set.parts() {
        findings.extend(padding(part)?);
        findings.extend(trailing(part));
    }
    for part in set.parts().iter().skip(1) {
        findings.extend(of_later_part(part, set));
    }
    Ok(findings)
}

fn finding(severity: Severity, place: impl ToString, problem: impl ToString) -> Finding {
    Finding::new(severity, Step::Structure, place, problem)
}

fn name(part: &GgufFile) -> String {
    crate::artifact::name(part.path())
}

/// One finding for all non-zero bytes of padding.
fn padding(part: &GgufFile) -> Result<Option<Finding>> {
    let (mut count, mut first) = (0, None);
    let mut piece = vec![0; PIECE];
    for range in part.padding() {
        // an alignment may be anything up to 2 GiB
        for start in range.clone().step_by(PIECE) {
            let bytes = &mut piece[..(range.end - start).min(PIECE as u64) as usize];
            part.read_at(start, bytes)?;
            for (at, &byte) in (start..).zip(&*bytes).filter(|(_, byte)| **byte != 0) {
                count += 1;
                first.get_or_insert((at, byte));
            }
        }
    }
    Ok(first.map(|(at, byte)| {
        let problem =
            format!("{count} bytes of padding are not zero, which changes nothing that is computed");
        finding(Severity::Warning, format!("{}: byte {at}", name(part)), problem).expected(0, byte)
    }))
}

fn trailing(part: &GgufFile) -> Option<Finding> {
    let count = part.trailing();
    let problem = format!("{count} bytes follow the last tensor, which no reader looks at");
    let expected = |found: Finding| {
        let len = part.file_len();
        found.expected(format!("{} bytes", len - count), format!("{len} bytes"))
    };
    (count > 0).then(|| expected(finding(Severity::Warning, name(part), problem)))
}

/// Keys of a later part, which should have only `split.*`.
fn of_later_part(part: &GgufFile, set: &GgufSet) -> Vec<Finding> {
    let own = part.metadata().iter().filter(|(key, _)| !key.starts_with("split."));
    let told = own.filter_map(|(key, value)| {
        let place = format!("{}: key {key}", name(part));
        match set.metadata().get(key) {
            Some(first) => {
                let difference = difference(first, value)?;
                let problem = format!("it contradicts the first part: {}", difference.problem);
                let found = finding(keys::contradicted(key), place, problem);
                Some(found.expected(difference.expected, difference.found))
            }
            None => {
                let problem = format!(
                    "a later part has this key and the first part does not; its value is {}",
                    show(value)
                );
                Some(finding(keys::contradicted(key), place, problem))
            }
        }
    });
    told.collect()
}
