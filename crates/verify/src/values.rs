//! Differences of two metadata values in words: the first entry that differs, and the cause where it can be recognised.

use gguf::{Array, Value};

/// The difference of a value from the expected one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Difference {
    /// One sentence.
    pub(crate) problem: String,
    /// The expected value, or the expected form of the first entry or line that differs.
    pub(crate) expected: String,
    /// The value, entry or line that was found.
    pub(crate) found: String,
}

/// The difference of two values; `None` if they are equivalent. A number and an array of that number are equivalent,
/// because some keys may be either.
pub(crate) fn difference(expected: &Value, found: &Value) -> Option<Difference> {
    match (expected, found) {
        (Value::Array(a), Value::Array(b)) if expected.type_name() == found.type_name() => arrays(a, b),
        (Value::Str(a), Value::Str(b)) if a.contains('\n') || b.contains('\n') => texts(a, b),
        _ if expected == found || repeats(expected, found) || repeats(found, expected) => None,
        _ if expected.type_name() == found.type_name() => {
            Some(Difference::new("it has another value", show(expected), show(found)))
        }
        _ => {
            let typed = |value: &Value| format!("{} ({})", show(value), value.type_name());
            Some(Difference::new("its value has another type", typed(expected), typed(found)))
        }
    }
}

impl Difference {
    fn new(problem: impl Into<String>, expected: String, found: String) -> Difference {
        Difference { problem: problem.into(), expected, found }
    }
}

/// Whether all items of `array` are the integer `one`.
fn repeats(one: &Value, array: &Value) -> bool {
    let Value::U32(one) = one else { return false };
    match array {
        Value::Array(Array::U32(items)) => items.iter().all(|n| n == one),
        Value::Array(Array::I32(items)) => items.iter().all(|&n| i64::from(n) == i64::from(*one)),
        _ => false,
    }
}

/// The first entry in which two arrays of one type differ, and the cause where it can be recognised.
fn arrays(expected: &Array, found: &Array) -> Option<Difference> {
    let shared = expected.len().min(found.len());
    let differs = |i: &usize| item(expected, *i) != item(found, *i);
    let first = (0..shared).find(differs);
    let (should, is) = (expected.len(), found.len());
    let Some(first) = first else {
        let problem = match should.cmp(&is) {
            std::cmp::Ordering::Equal => return None,
            std::cmp::Ordering::Greater => {
                format!("truncated: {} missing at the end", entries(should - is))
            }
            std::cmp::Ordering::Less => format!("{} too many at the end", entries(is - should)),
        };
        return Some(Difference::new(problem, entries(should), entries(is)));
    };
    let mut problem = if let Some(by) = shift(expected, found, first) {
        match by {
            1.. => format!("entries are missing: from entry {first} on it is shifted by {by}"),
            _ => format!("entries were inserted: from entry {first} on it is shifted by {}", -by),
        }
    } else {
        let others: Vec<usize> = (first..shared).filter(differs).take(3).collect();
        match others.as_slice() {
            [_] => format!("entry {first} differs"),
            [a, b] if item(expected, *a) == item(found, *b) && item(expected, *b) == item(found, *a) => {
                format!("entries {a} and {b} are exchanged")
            }
            _ => format!(
                "{} entries differ, the first is entry {first}",
                (first..shared).filter(differs).count()
            ),
        }
    };
    if should != is {
        problem += &format!("; it has {}, not {should}", entries(is));
    }
    Some(Difference::new(problem, show(&item(expected, first)), show(&item(found, first))))
}

/// The `n` for which `found[first..]` equals `expected[first + n..]`; negative if entries were inserted.
fn shift(expected: &Array, found: &Array, first: usize) -> Option<i64> {
    const FAR: usize = 8;
    // a run of equal entries is no evidence
    let run = |a: &Array, from: usize, b: &Array, at: usize| {
        let len = (a.len().saturating_sub(from)).min(b.len() - at).min(64);
        let equal = (0..len).all(|i| item(a, from + i) == item(b, at + i));
        let varied = (1..len).any(|i| item(b, at + i) != item(b, at));
        len >= 3 && equal && varied
    };
    let missing = (1..=FAR).find(|by| run(expected, first + by, found, first));
    let added = || (1..=FAR).find(|by| run(found, first + by, expected, first));
    missing.map(|by| by as i64).or_else(|| added().map(|by| -(by as i64)))
}

/// The first line that differs in two texts, and whether they have most lines in common.
fn texts(expected: &str, found: &str) -> Option<Difference> {
    if expected == found {
        return None;
    }
    let (a, b): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
    let first = (0..a.len().max(b.len())).find(|&i| a.get(i) != b.get(i));
    let Some(first) = first else {
        return Some(Difference::new(
            "the texts differ in how their lines end",
            format!("{} bytes", expected.len()),
            format!("{} bytes", found.len()),
        ));
    };
    let known: std::collections::HashSet<_> = a.iter().collect();
    let kept = b.iter().filter(|line| known.contains(line)).count();
    let changed = if 2 * kept < b.len().max(a.len()) { "another text" } else { "an edited text" };
    let line = |lines: &[&str]| lines.get(first).map_or("the end of the text".to_owned(), |line| quote(line));
    Some(Difference::new(
        format!("{changed}: line {} is the first that differs", first + 1),
        line(&a),
        line(&b),
    ))
}

/// One entry of an array.
pub(crate) fn item(array: &Array, at: usize) -> Value {
    macro_rules! of {
        ($($variant:ident)*) => {
            match array {
                $(Array::$variant(items) => Value::$variant(items[at].clone()),)*
            }
        };
    }
    of! { U8 I8 U16 I16 U32 I32 U64 I64 F32 F64 Bool Str }
}

/// A short text of a value.
pub(crate) fn show(value: &Value) -> String {
    macro_rules! plain {
        ($($variant:ident)*) => {
            match value {
                $(Value::$variant(value) => value.to_string(),)*
                Value::Str(text) => quote(text),
                Value::Array(array) if array.len() <= 16 => {
                    let items: Vec<_> = (0..array.len()).map(|i| show(&item(array, i))).collect();
                    format!("[{}]", items.join(", "))
                }
                Value::Array(array) => entries(array.len()),
            }
        };
    }
    plain! { U8 I8 U16 I16 U32 I32 U64 I64 F32 F64 Bool }
}

fn entries(count: usize) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

/// A text in quotes, truncated if it is long.
fn quote(text: &str) -> String {
    const LONG: usize = 80;
    match text.char_indices().nth(LONG) {
        Some((at, _)) => format!("{:?}…", &text[..at]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(expected: impl Into<Value>, found: impl Into<Value>) -> Option<(String, String, String)> {
        difference(&expected.into(), &found.into()).map(|d| (d.problem, d.expected, d.found))
    }

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn says(expected: &str, found: &str) -> String {
        of(words(expected), words(found)).unwrap().0
    }

    #[test]
    fn equal_values_do_not_differ() {
        assert_eq!(of(3u32, 3u32), None);
        assert_eq!(of(vec![1i32, 1], vec![1i32, 1]), None);
        assert_eq!(of(1u32, vec![1i32, 1]), None);
        assert_eq!(of("a\nb", "a\nb"), None);
    }

    #[test]
    fn arrays_tell_how_they_differ() {
        assert_eq!(says("a b c d", "a c b d"), "entries 1 and 2 are exchanged");
        assert_eq!(says("a b c d", "a b"), "truncated: 2 entries missing at the end");
        assert_eq!(says("a b", "a b c"), "1 entry too many at the end");
        assert_eq!(says("a b c d", "a x c d"), "entry 1 differs");
        assert_eq!(says("a b c d e", "x y z d e"), "3 entries differ, the first is entry 0");
        assert!(says("a b c d e", "a c d e").contains("from entry 1 on it is shifted by 1"));
        assert!(says("a b c d e", "a x b c d").contains("entries were inserted: from entry 1"));
        let first = of(words("a b c"), words("a x c")).unwrap();
        assert_eq!((first.1, first.2), ("\"b\"".into(), "\"x\"".into()));
    }

    #[test]
    fn types_and_numbers_are_told_apart() {
        assert_eq!(of(3u32, 4u32), Some(("it has another value".into(), "3".into(), "4".into())));
        assert_eq!(of(3u32, 3u64).unwrap().0, "its value has another type");
        assert_eq!(of(3u32, vec![3i32, 4]).unwrap().0, "its value has another type");
    }

    #[test]
    fn texts_tell_the_first_line() {
        let (problem, expected, found) = of("a\nb\nc\nd", "a\nB\nc\nd").unwrap();
        assert_eq!(problem, "an edited text: line 2 is the first that differs");
        assert_eq!((expected.as_str(), found.as_str()), ("\"b\"", "\"B\""));
        assert!(of("a\nb", "x\ny").unwrap().0.starts_with("another text"));
        assert_eq!(of("a\nb", "a\nb\nc").unwrap().1, "the end of the text");
        assert!(of("a\nb", "a\r\nb").unwrap().0.contains("lines end"));
    }
}
