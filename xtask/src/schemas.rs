//! JSON schemas of the documents that the program writes, derived from the types that it serialises.
//!
//! Additions of the command line are described here: the wrapper of `plan --json`, and the `allocation` of an artifact in it.

use footprint::{Memory, Verdict};
use plan::{Allocation, Manifest, Plan};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Value, json};

/// The folder of the schemas, from the root of the repository.
pub const FOLDER: &str = "docs/schemas";

/// The output of `plan --json`.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "serves the schema only")]
struct PlanDocument {
    /// The version of the document: it grows when a key changes its meaning or goes.
    schema: u32,
    #[schemars(flatten)]
    plan: Plan,
    /// SHA-256 of the plan without notes and reasons: equal plans over equal inputs give equal outputs.
    plan_sha256: String,
    /// The memory estimate of each artifact.
    memory: Vec<MemoryPlan>,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "serves the schema only")]
struct MemoryPlan {
    /// The recipe's name.
    recipe: String,
    /// The recipe of the mmproj file that the estimate counts.
    #[schemars(skip_serializing_if = "Option::is_none")]
    mmproj: Option<String>,
    #[schemars(flatten)]
    memory: Memory,
    /// With `--memory` only.
    #[schemars(skip_serializing_if = "Option::is_none")]
    verdict: Option<Verdict>,
}

/// All schemas: the name of the file in [`FOLDER`], and its text.
pub fn all() -> Vec<(&'static str, String)> {
    vec![
        ("report.json", text(of::<verify::Report>(generator(), "verify --json, verify --report-json"))),
        ("set-report.json", text(of::<verify::SetReport>(generator(), "verify --json of several artifacts"))),
        ("manifest.json", text(of::<Manifest>(generator(), "manifest.json, NAME.manifest.json"))),
        ("plan.json", text(plan_document())),
        ("ollama.json", text(of::<pack::ollama::OllamaPacked>(generator(), "pack ollama --json"))),
        ("measure.json", text(of::<draft::DraftReport>(generator(), "draft measure --json"))),
    ]
}

fn generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12().for_serialize().into_generator()
}

fn of<T: JsonSchema>(generator: SchemaGenerator, title: &str) -> Value {
    let mut schema = Value::from(generator.into_root_schema_for::<T>());
    schema["title"] = title.into();
    schema
}

fn plan_document() -> Value {
    let mut generator = generator();
    let allocation = generator.subschema_for::<Allocation>();
    let mut schema = of::<PlanDocument>(generator, "plan --json");
    // the plan itself does not serialise it, so that it is not in the digest
    schema["$defs"]["Artifact"]["properties"]["allocation"] = json!({
        "description": "The bit allocation, if a budget chose the types.",
        "$ref": allocation.get("$ref"),
    });
    schema
}

fn text(schema: Value) -> String {
    format!("{schema:#}\n")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_is_committed_is_current() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(FOLDER);
        for (name, text) in all() {
            let committed = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
            assert!(committed == text, "{FOLDER}/{name} is not current: run `cargo xtask schema`");
        }
    }

    #[test]
    fn every_reference_has_its_definition() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(Value::as_str));
                    fields.values().for_each(|value| references(value, found));
                }
                Value::Array(values) => values.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        for (name, text) in all() {
            let schema: Value = serde_json::from_str(&text).unwrap();
            let mut found = Vec::new();
            references(&schema, &mut found);
            assert!(!found.is_empty(), "{name}");
            for reference in found {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(schema.pointer(pointer).is_some(), "{name}: {reference}");
            }
        }
    }
}
