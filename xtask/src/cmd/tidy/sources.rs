//! Rust files: a module doc first, one idea long, nothing unfinished.

use super::Findings;

/// A file of this many lines or more is an error.
const LINES: usize = 500;
/// From here on it is worth a look.
const LINES_WARN: usize = 400;

/// What finished code does not hold. Put together here, so that this file does not hold it either.
const UNFINISHED: &[&str] = &[
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("dbg", "!("),
    concat!("#[", "ignore"),
    concat!("FIX", "ME"),
];

pub(super) fn check(path: &str, text: &str, found: &mut Findings) {
    if !text.starts_with("//!") {
        found.problems.push(format!("{path}: does not start with a `//!` doc"));
    }
    let lines = text.lines().count();
    if lines >= LINES {
        found.problems.push(format!("{path}: {lines} lines (limit {LINES}); does it hold one idea?"));
    } else if lines >= LINES_WARN {
        found.warnings.push(format!("{path}: {lines} lines; does it hold one idea?"));
    }
    for (number, line) in text.lines().enumerate() {
        for word in UNFINISHED.iter().filter(|word| line.contains(**word)) {
            found.problems.push(format!("{path}:{}: {word}", number + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(text: &str) -> (usize, usize) {
        let mut found = Findings::default();
        check("x.rs", text, &mut found);
        (found.problems.len(), found.warnings.len())
    }

    #[test]
    fn what_is_found() {
        let doc = "//! A doc.\n";
        assert_eq!(counts(doc), (0, 0));
        assert_eq!(counts("use x;\n//! Late.\n"), (1, 0));
        assert_eq!(counts(&doc.repeat(LINES_WARN - 1)), (0, 0));
        assert_eq!(counts(&doc.repeat(LINES_WARN)), (0, 1));
        assert_eq!(counts(&doc.repeat(LINES)), (1, 0));
        for word in UNFINISHED {
            assert_eq!(counts(&format!("{doc}{word}")), (1, 0), "{word}");
        }
    }
}
