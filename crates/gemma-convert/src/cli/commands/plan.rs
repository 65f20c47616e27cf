//! `plan`: the outputs of a conversion, without writing them.

use std::collections::BTreeMap;
use std::fmt::Write;

use gemma_convert::{Artifact, Dropped, PartNeeds, Plan, Result};
use report::{Table, grouped};
use serde_json::{Value, json};

use crate::cli::args;
use crate::cli::memory::{self, MemoryPlan};
use crate::cli::options::with_options;
use crate::cli::outcome::Output;

pub(crate) fn run(args: &args::Plan) -> Result<Output> {
    let outcome = args.job()?.run()?;
    let memory = memory::of(&outcome);
    let plan = outcome.plan;
    let mut json = serde_json::to_value(&plan).expect("a plan is plain data");
    rename_notes(&mut json);
    json["plan_sha256"] = plan.digest().into();
    let artifacts = json["artifacts"].as_array_mut().into_iter().flatten();
    for (artifact, json) in plan.artifacts.iter().zip(artifacts) {
        rename_notes(json);
        if let Some(allocation) = &artifact.allocation {
            json["allocation"] = serde_json::to_value(allocation).expect("an allocation is plain data");
        }
    }
    json["memory"] = serde_json::to_value(&memory).expect("estimates are plain data");
    let mut text = describe(&plan, &memory, args.tensors);
    if !outcome.parts.is_empty() {
        text.push_str(&parts(&outcome.parts).render());
        let part = |part: &PartNeeds| json!({"input": part.size.input, "output": part.size.output, "disk": part.disk, "memory": part.memory});
        json["parts"] = outcome.parts.iter().map(part).collect();
    }
    Ok(Output { passed: memory.iter().all(MemoryPlan::fits), ..Output::new(text, json) })
}

/// Replaces the names of settings in the notes of a document by options.
fn rename_notes(json: &mut Value) {
    for note in json.get_mut("notes").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(text) = note.as_str() {
            *note = with_options(text).into();
        }
    }
}

fn describe(plan: &Plan, memory: &[MemoryPlan], with_tensors: bool) -> String {
    let mut text = format!(
        "{} ({}), {} bytes in {} file(s)\n",
        plan.variant.unwrap_or("Gemma 4 of no published size"),
        plan.architecture,
        grouped(plan.inputs.iter().map(|input| input.bytes).sum()),
        plan.inputs.len()
    );
    for note in &plan.notes {
        let _ = writeln!(text, "note: {}", with_options(note));
    }
    for artifact in &plan.artifacts {
        let _ = writeln!(
            text,
            "\nrecipe {}: {} bytes, {:.2} bits per weight\n",
            artifact.recipe,
            grouped(artifact.bytes()),
            artifact.bits_per_weight()
        );
        text.push_str(&summary(artifact));
        let of_artifact = memory.iter().filter(|memory| memory.is_of(&artifact.recipe));
        text.extend(of_artifact.map(MemoryPlan::describe));
        if with_tensors {
            let _ = write!(text, "\n{}", tensors(artifact).render());
        }
    }
    dropped("not in any output", &plan.dropped, &mut text);
    text
}

/// What each part of a conversion reads, writes and needs.
fn parts(parts: &[PartNeeds]) -> Table {
    let mut table = Table::new(&["part", "bytes read", "bytes written", "disk", "memory"]);
    for (number, part) in (1..).zip(parts) {
        let bytes = [part.size.input, part.size.output, part.disk, part.memory].map(grouped);
        table.row([format!("{number}/{}", parts.len())].into_iter().chain(bytes).collect());
    }
    table
}

fn tensors(artifact: &Artifact) -> Table {
    let mut table = Table::new(&["tensor", "type", "shape", "file", "offset", "bytes", "why"]);
    for file in &artifact.files {
        for tensor in &file.tensors {
            table.row(vec![
                tensor.desc.name.clone(),
                tensor.desc.dtype.to_string(),
                format!("{:?}", tensor.desc.shape),
                file.name.clone(),
                grouped(tensor.offset),
                grouped(tensor.bytes),
                tensor.why.clone(),
            ]);
        }
    }
    table
}

/// Types and files of an artifact, with its notes.
pub(crate) fn summary(artifact: &Artifact) -> String {
    let mut table = Table::new(&["type", "tensors", "bytes"]);
    for (dtype, (count, bytes)) in artifact.by_type() {
        table.row(vec![dtype.to_string(), grouped(count as u64), grouped(bytes)]);
    }
    let mut text = table.render();
    for file in &artifact.files {
        let what = match (&file.copy, file.tensors.len()) {
            (Some(_), _) => "a copy".to_owned(),
            (None, 0) => "metadata".to_owned(),
            (None, count) => format!("{count} tensors"),
        };
        let _ = writeln!(text, "\n{}: {} bytes, {what}", file.name, grouped(file.bytes));
    }
    if let Some(allocation) = &artifact.allocation {
        let _ = writeln!(text, "bit allocation: {allocation}");
    }
    for part in &artifact.offloaded {
        let _ = writeln!(
            text,
            "offloaded {}: {} bytes, of which {} are read per token",
            part.class,
            grouped(part.bytes),
            grouped(part.bytes_per_token)
        );
    }
    for note in &artifact.notes {
        let _ = writeln!(text, "note: {}", with_options(note));
    }
    dropped("left out", &artifact.dropped, &mut text);
    text
}

/// Dropped tensors by reason.
fn dropped(title: &str, tensors: &[Dropped], text: &mut String) {
    let mut reasons: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for tensor in tensors {
        let entry = reasons.entry(tensor.reason).or_default();
        *entry = (entry.0 + 1, entry.1 + tensor.bytes);
    }
    for (reason, (count, bytes)) in reasons {
        let _ = writeln!(text, "{title}: {} tensors, {} bytes: {reason}", grouped(count), grouped(bytes));
    }
}
