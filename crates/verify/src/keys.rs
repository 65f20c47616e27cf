//! Comparison of the keys of an artifact with the expected ones. A table gives the severity of each difference.

use gguf::{Array, Metadata, Value};

use crate::values::{Difference, difference, show};
use crate::{Finding, Severity, Step};

/// Severities of a key that differs, is missing or is unexpected.
struct Rule {
    /// A key, or the prefix of one if it ends with `*`.
    key: &'static str,
    differs: Severity,
    missing: Severity,
    extra: Severity,
}

use Severity::{Failure, Note, Warning};

/// The first matching row applies. Keys that the model and its tokenizer depend on must be as expected; names and
/// licences are free. An unknown key of the model or the tokenizer may change either. `general.type` and `adapter.*`
/// decide how llama.cpp and Ollama use the file.
#[rustfmt::skip]
const RULES: &[Rule] = &[
    rule("general.architecture",         Failure, Failure, Failure),
    rule("general.type",                 Failure, Note,    Failure),
    rule("general.quantization_version", Failure, Note,    Note),
    rule("general.file_type",            Note,    Warning, Note),
    rule("general.alignment",            Warning, Warning, Warning),
    rule("general.sampling.*",           Warning, Warning, Warning),
    rule("general.*",                    Note,    Note,    Note),
    rule("gemma4*",                      Failure, Failure, Failure),
    rule("tokenizer.*",                  Failure, Failure, Failure),
    rule("adapter.*",                    Failure, Failure, Failure),
    rule("clip.*",                       Failure, Failure, Failure),
    // `quantize.imatrix.*` of llama-quantize, and other records of tools
    rule("*",                            Note,    Note,    Note),
];

/// Defaults that readers use for missing keys.
#[rustfmt::skip]
const DEFAULTS: &[(&str, Value)] = &[
    ("gemma4.attention.causal",                 Value::Bool(true)),
    ("gemma4.attention.shared_kv_layers",       Value::U32(0)),
    ("gemma4.embedding_length_per_layer_input", Value::U32(0)),
    ("gemma4.expert_count",                     Value::U32(0)),
    ("gemma4.expert_used_count",                Value::U32(0)),
    ("tokenizer.ggml.add_eos_token",            Value::Bool(false)),
    ("tokenizer.ggml.add_sep_token",            Value::Bool(false)),
];

const fn rule(key: &'static str, differs: Severity, missing: Severity, extra: Severity) -> Rule {
    Rule { key, differs, missing, extra }
}

/// Severity of a key in a later part of a split that contradicts the first part, which is the one that llama.cpp reads.
pub(crate) fn contradicted(key: &str) -> Severity {
    match Rule::of(key).differs {
        Failure => Failure,
        Warning | Note => Warning,
    }
}

impl Rule {
    fn of(key: &str) -> &'static Rule {
        let holds = |rule: &&Rule| match rule.key.strip_suffix('*') {
            Some(start) => key.starts_with(start),
            None => key == rule.key,
        };
        // the last row matches every key
        RULES.iter().find(holds).unwrap_or(&RULES[RULES.len() - 1])
    }
}

/// Compares the keys of an artifact with the expected ones. Returns the number of equal keys, and findings about the
/// others. With `binding` every difference is a failure; otherwise all notes become one finding.
pub(crate) fn compare(expected: &Metadata, found: &Metadata, binding: bool) -> (u64, Vec<Finding>) {
    let mut equal = 0;
    let mut differing: Vec<(&str, Difference)> = Vec::new();
    let mut rest: Vec<(Severity, &str, String)> = Vec::new();
    for (key, value) in expected.iter() {
        match found.get(key).or_else(|| default(key)) {
            Some(found) => match difference(value, found) {
                None => equal += 1,
                Some(difference) => differing.push((key, difference)),
            },
            None => rest.push((Rule::of(key).missing, key, format!("missing: it should be {}", show(value)))),
        }
    }
    // compared with the tensors in `digests.rs`
    let extra = |key: &str| expected.get(key).is_none() && key != plan::TENSOR_DIGESTS;
    for (key, value) in found.iter().filter(|(key, _)| extra(key)) {
        if default(key) != Some(value) {
            let problem =
                format!("unexpected key: nothing in the base gives it; its value is {}", show(value));
            rest.push((Rule::of(key).extra, key, problem));
        }
    }

    let mut findings = Vec::new();
    let mut notes = Vec::new();
    let grave = |severity| if binding { Failure } else { severity };
    for (severity, key, finding) in exchanged(differing, expected, found) {
        match grave(severity) {
            Note => notes.push(key),
            severity => findings.push(Finding { severity, ..finding }),
        }
    }
    for (severity, key, problem) in rest {
        match grave(severity) {
            Note => notes.push(key.to_owned()),
            severity => findings.push(Finding::new(severity, Step::Structure, place(key), problem)),
        }
    }
    findings.extend(summary(&notes));
    (equal, findings)
}

fn place(key: &str) -> String {
    format!("key {key}")
}

fn default(key: &str) -> Option<&'static Value> {
    DEFAULTS.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
}

/// Findings about the keys that differ. Two keys with exchanged values give one finding.
fn exchanged(
    differing: Vec<(&str, Difference)>,
    expected: &Metadata,
    found: &Metadata,
) -> Vec<(Severity, String, Finding)> {
    let scalar = |key: &str| found.get(key).filter(|value| !matches!(value, Value::Array(_)));
    let holds = |a: &str, b: &str| scalar(a).is_some_and(|value| Some(value) == expected.get(b));
    let mut findings = Vec::new();
    let mut told = Vec::new();
    for (at, (key, difference)) in differing.iter().enumerate() {
        if told.contains(&at) {
            continue;
        }
        let twin = (at + 1..differing.len())
            .find(|&other| holds(key, differing[other].0) && holds(differing[other].0, key));
        let mut problem = difference.problem.clone();
        if let Some(twin) = twin {
            told.push(twin);
            problem = format!("exchanged with key {}: each holds the other's value", differing[twin].0);
        } else if key.starts_with("tokenizer.chat_template") {
            problem = problem.replace("another text", "the template of another model");
        }
        let token = |text: &str| format!("{text}{}", token(key, text, expected));
        let finding = Finding::new(Failure, Step::Structure, place(key), problem)
            .expected(token(&difference.expected), token(&difference.found));
        findings.push((Rule::of(key).differs, (*key).to_owned(), finding));
    }
    findings
}

/// The token of an id, in parentheses; empty for other keys.
fn token(key: &str, id: &str, metadata: &Metadata) -> String {
    let tokens = match metadata.get("tokenizer.ggml.tokens") {
        Some(Value::Array(Array::Str(tokens))) if key.ends_with("_token_id") => tokens,
        _ => return String::new(),
    };
    id.parse::<usize>().ok().and_then(|id| tokens.get(id)).map_or(String::new(), |text| format!(" ({text})"))
}

/// One finding for all notes.
fn summary(notes: &[String]) -> Option<Finding> {
    let (first, more) = notes.split_first()?;
    let problem = match more.len() {
        0 => "this key differs, which changes nothing that is computed".to_owned(),
        _ => format!(
            "{} keys differ, which changes nothing that is computed: {}",
            notes.len(),
            notes.join(", ")
        ),
    };
    Some(Finding::new(Note, Step::Structure, place(first), problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(pairs: &[(&str, Value)]) -> Metadata {
        let mut metadata = Metadata::new();
        for (key, value) in pairs {
            metadata.insert(*key, value.clone());
        }
        metadata
    }

    #[test]
    fn two_keys_that_hold_each_others_values_are_told_once() {
        let base = [("gemma4.rope.freq_base", 1e6f32), ("gemma4.rope.freq_base_swa", 1e4)];
        let expected = metadata(&base.map(|(key, value)| (key, value.into())));
        let found = metadata(&[(base[0].0, base[1].1.into()), (base[1].0, base[0].1.into())]);
        let (equal, findings) = compare(&expected, &found, false);
        assert_eq!((equal, findings.len()), (0, 1));
        assert_eq!(findings[0].severity, Failure);
        assert!(findings[0].problem.starts_with("exchanged with key gemma4.rope.freq_base_swa"));
    }

    #[test]
    fn names_are_free_unless_the_plan_is_binding() {
        let expected = metadata(&[("general.name", "a".into()), ("gemma4.block_count", 2u32.into())]);
        let found = metadata(&[
            ("gemma4.block_count", 2u32.into()),
            ("general.name", "b".into()),
            ("general.url", "c".into()),
            ("quantize.imatrix.file", "d".into()),
            ("gemma4.attention.causal", true.into()),
        ]);
        let (equal, findings) = compare(&expected, &found, false);
        assert_eq!((equal, findings.len(), findings[0].severity), (1, 1, Note));
        assert!(findings[0].problem.contains("general.name, general.url, quantize.imatrix.file"));
        let (_, findings) = compare(&expected, &found, true);
        assert_eq!(findings.iter().filter(|f| f.severity == Failure).count(), 3);
    }

    #[test]
    fn a_model_key_may_neither_be_missing_nor_come_from_nowhere() {
        let expected = metadata(&[("gemma4.final_logit_softcapping", 30f32.into())]);
        let found = metadata(&[("gemma4.rope.scaling.factor", 8f32.into())]);
        let (_, findings) = compare(&expected, &found, false);
        let places: Vec<_> = findings.iter().map(|f| (f.severity, f.place.as_str())).collect();
        let failures = ["key gemma4.final_logit_softcapping", "key gemma4.rope.scaling.factor"];
        assert_eq!(places, failures.map(|place| (Failure, place)));
    }

    #[test]
    fn special_tokens_are_shown() {
        let tokens: Vec<String> = ["<pad>", "<eos>", "<bos>"].map(str::to_owned).to_vec();
        let with = |id: u32| {
            let tokens = ("tokenizer.ggml.tokens", tokens.clone().into());
            metadata(&[tokens, ("tokenizer.ggml.bos_token_id", id.into())])
        };
        let (_, findings) = compare(&with(2), &with(1), false);
        assert_eq!(findings[0].expected.as_deref(), Some("2 (<bos>)"));
        assert_eq!(findings[0].found.as_deref(), Some("1 (<eos>)"));
    }
}
