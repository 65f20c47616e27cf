//! `docs/report.md` is the contract of `--json`: every key is documented, and the example is a report.

use std::collections::BTreeSet;

use serde_json::Value;
use verify::Report;

use crate::support::reports;

fn document() -> String {
    std::fs::read_to_string(testkit::root().join("docs/report.md")).unwrap()
}

/// `tensors.roles[].relative`, of all values. Keys that are names of a file's or a user's are `*`.
fn keys(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let named = ["types", "intervals", "seconds"].iter().any(|map| at.ends_with(map));
                let at =
                    format!("{at}{}{}", if at.is_empty() { "" } else { "." }, if named { "*" } else { key });
                found.insert(at.clone());
                keys(value, &at, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys(item, &format!("{at}[]"), found)),
        _ => {}
    }
}

fn keys_of(report: &Report) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    keys(&serde_json::to_value(report).unwrap(), "", &mut found);
    found
}

#[test]
fn every_key_is_documented_and_no_other() {
    let written: BTreeSet<_> = reports::all().iter().flat_map(|(_, report)| keys_of(report)).collect();
    let document = document();
    let rows =
        document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |").map(|(key, _)| key));
    let documented: BTreeSet<_> = rows.map(str::to_owned).collect();
    assert_eq!(written, documented);
}

#[test]
fn the_example_is_a_report_and_has_nothing_else() {
    let document = document();
    let example = document.split_once("```json\n").unwrap().1.split_once("```").unwrap().0;
    let value: Value = serde_json::from_str(example).unwrap();
    let report: Report = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(serde_json::to_value(&report).unwrap(), value);
}
