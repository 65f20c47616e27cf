//! `inspect`: what a checkpoint folder or a GGUF file holds.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use ::checkpoint::Checkpoint;
use ::gemma::Model;
use ::gguf::{GgufSet, Value};
use serde_json::json;
use tensor::{Result, TensorDesc, TensorSource};

use crate::args;
use crate::outcome::Output;
use crate::table::{Table, grouped};

pub(crate) fn run(args: &args::Inspect) -> Result<Output> {
    if args.model.is_dir() { folder(&args.model, args.tensors) } else { gguf(&args.model, args.tensors) }
}

/// Tensors with the role and the type of each.
struct Listed<'a> {
    desc: &'a TensorDesc,
    role: String,
}

fn folder(path: &Path, list: bool) -> Result<Output> {
    let checkpoint = Checkpoint::open(path)?;
    let model = Model::open(&checkpoint)?;
    let config = &model.config;
    let tensors = checkpoint.tensors();
    let mut roles = vec![String::new(); tensors.len()];
    for found in &model.inventory.text {
        let unused = if found.slot.unused { " (unused K/V)" } else { "" };
        roles[found.index] = format!("{}{unused}", found.slot.role);
    }
    for dropped in &model.inventory.dropped {
        roles[dropped.index] = dropped.reason.split(':').next().unwrap_or_default().to_owned();
    }
    let listed: Vec<_> = tensors.iter().zip(roles).map(|(desc, role)| Listed { desc, role }).collect();

    let full = config.attention.iter().filter(|&&a| a == gemma::Attention::Full).count();
    let facts = [
        ("variant", config.variant().unwrap_or("none of the published sizes").to_owned()),
        ("architecture", config.architecture.clone()),
        (
            "layers",
            format!("{} ({} sliding, {full} full attention)", config.layers(), config.layers() - full),
        ),
        ("hidden size", config.hidden.to_string()),
        ("KV-shared layers", config.shared_kv_layers.to_string()),
        ("per-layer embeddings", if config.ple > 0 { config.ple.to_string() } else { "none".to_owned() }),
        ("experts", config.experts.map_or("none".to_owned(), |n| n.to_string())),
        ("vocabulary", config.vocab.to_string()),
        ("context", config.context.to_string()),
        ("chat template", if model.templates.default.is_some() { "yes" } else { "no" }.to_owned()),
        ("license", model.card.license().unwrap_or_else(|| "not said".to_owned())),
        ("files", format!("{} ({} bytes)", checkpoint.shards().len(), grouped(checkpoint.total_len()))),
    ];
    let json = json!({
        "kind": "checkpoint",
        "variant": config.variant(),
        "architecture": config.architecture,
        "layers": config.layers(),
        "files": checkpoint.shards().iter().map(|s| json!({ "name": s.name, "bytes": s.len })).collect::<Vec<_>>(),
        "tensors": listed.iter().map(described).collect::<Vec<_>>(),
    });
    Ok(Output::new(render(&facts, &listed, list), json))
}

fn gguf(path: &Path, list: bool) -> Result<Output> {
    let set = GgufSet::open(path)?;
    let tensors = set.tensors();
    let listed: Vec<_> = tensors.iter().map(|desc| Listed { desc, role: role(&desc.name) }).collect();
    let bytes: u64 = set.parts().iter().map(|part| part.file_len()).sum();
    let mut facts: Vec<(&str, String)> =
        vec![("files", format!("{} ({} bytes)", set.parts().len(), grouped(bytes)))];
    facts.extend(set.metadata().iter().map(|(key, value)| (key, short(value))));
    let json = json!({
        "kind": "gguf",
        "files": set.parts().iter().map(|p| json!({ "name": p.path(), "bytes": p.file_len() })).collect::<Vec<_>>(),
        "metadata": set.metadata().iter().map(|(key, value)| (key.to_owned(), json!({ "type": value.type_name(), "value": short(value) }))).collect::<serde_json::Map<_, _>>(),
        "tensors": listed.iter().map(described).collect::<Vec<_>>(),
    });
    Ok(Output::new(render(&facts, &listed, list), json))
}

/// `blk.3.attn_q.weight` → `attn_q`.
fn role(name: &str) -> String {
    let rest = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).map_or(name, |(_, rest)| rest);
    rest.strip_suffix(".weight").unwrap_or(rest).to_owned()
}

/// A value in one line.
fn short(value: &Value) -> String {
    const MOST: usize = 72;
    let text = match value {
        Value::Str(text) => format!("{text:?}"),
        Value::Array(items) if items.len() > 64 => {
            format!("{} × {}", items.len(), value.type_name().trim_start_matches("array of "))
        }
        Value::Array(items) => within(&format!("{items:?}")),
        scalar => within(&format!("{scalar:?}")),
    };
    if text.chars().count() <= MOST { text } else { text.chars().take(MOST - 1).chain(['…']).collect() }
}

/// `U32(8)` → `8`.
fn within(text: &str) -> String {
    text.split_once('(').map_or(text, |(_, rest)| rest.trim_end_matches(')')).to_owned()
}

fn described(listed: &Listed<'_>) -> serde_json::Value {
    let desc = listed.desc;
    json!({ "tensor": desc.name, "role": listed.role, "type": desc.dtype.name(), "shape": desc.shape, "bytes": desc.byte_len() })
}

fn render(facts: &[(&str, String)], tensors: &[Listed<'_>], list: bool) -> String {
    let mut text = String::new();
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in facts {
        let _ = writeln!(text, "{name:<width$}  {value}");
    }
    text.push('\n');
    if list {
        let mut table = Table::new(&["tensor", "role", "type", "shape", "bytes"]);
        for Listed { desc, role } in tensors {
            let shape = format!("{:?}", desc.shape);
            table.row(vec![
                desc.name.clone(),
                role.clone(),
                desc.dtype.to_string(),
                shape,
                grouped(desc.byte_len()),
            ]);
        }
        text.push_str(&table.render());
        return text;
    }
    let mut groups: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    for Listed { desc, role } in tensors {
        let entry = groups.entry((role, desc.dtype.name())).or_default();
        *entry = (entry.0 + 1, entry.1 + desc.byte_len());
    }
    let mut table = Table::new(&["role", "type", "tensors", "bytes"]);
    for ((role, dtype), (count, bytes)) in groups {
        table.row(vec![role.to_owned(), dtype.to_owned(), grouped(count), grouped(bytes)]);
    }
    let total = tensors.iter().map(|t| t.desc.byte_len()).sum();
    table.row(vec!["all".to_owned(), String::new(), grouped(tensors.len() as u64), grouped(total)]);
    text.push_str(&table.render());
    text
}
