//! `inspect`: the content of a checkpoint folder, an adapter, a GGUF file, an importance matrix, an .sbs file or a bundle of
//! LiteRT-LM.

mod adapter;
mod bundle;
mod importance;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use ::checkpoint::{self, AdapterFolder, Checkpoint, Sbs, SbsTensor};
use ::gemma::{Departure, ModelSpec};
use ::gguf::{GgufSet, Value};
use ::imatrix::Importance;
use gemma_convert::Adapter;
use serde_json::json;
use tensor::{DType, Error, Result, TensorDesc, TensorSource};

use crate::cli::args;
use crate::cli::outcome::Output;
use report::{Table, grouped};

pub(crate) fn run(args: &args::Inspect) -> Result<Output> {
    let path = &args.model;
    path.metadata().map_err(|e| checkpoint::absent(path, &e))?;
    let adapters = &args.lora.adapters();
    if !adapters.is_empty() && (!path.is_dir() || AdapterFolder::is_one(path)) {
        return Err(Error::recipe("‹lora›", "an adapter is merged into a checkpoint")
            .expected("the folder of a checkpoint", path.display()));
    }
    if AdapterFolder::is_one(path) {
        adapter::folder(path, args.tensors)
    } else if path.is_dir() {
        folder(path, adapters, args.tensors)
    } else if checkpoint::is_sbs(path) {
        sbs(path)
    } else if litert::Bundle::is_one(path) {
        bundle::file(path, args.tensors)
    } else if Importance::is_one(path) {
        importance::file(path, args.tensors)
    } else {
        gemma_convert::refuse_part_of_a_folder(path)?;
        gguf(path, args.tensors)
    }
}

/// A tensor with its role and stored type.
struct Listed<'a> {
    desc: &'a TensorDesc,
    role: String,
    /// The stored type, if it differs from the presented one.
    code: Option<DType>,
}

impl Listed<'_> {
    fn dtype(&self) -> DType {
        self.code.unwrap_or(self.desc.dtype)
    }

    fn bytes(&self) -> u64 {
        self.code.map_or(self.desc.byte_len(), |_| self.desc.elements())
    }
}

fn folder(path: &Path, adapters: &[Adapter], list: bool) -> Result<Output> {
    let checkpoint = Checkpoint::open(path)?.with_adapters(adapters)?;
    let model = ModelSpec::open(&checkpoint)?;
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
    let code = |index| checkpoint.encoding(index).map(|code| code.dtype);
    let tensors = tensors.iter().zip(roles).enumerate();
    let listed: Vec<_> =
        tensors.map(|(index, (desc, role))| Listed { desc, role, code: code(index) }).collect();
    let coded = (0..listed.len()).filter_map(|index| checkpoint.encoding(index));
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for code in coded {
        let scales = if code.scale.per_row { "one scale per row" } else { "one scale per tensor" };
        *kinds.entry(format!("{} with {scales}", code.dtype)).or_default() += 1;
    }
    let coded: Vec<_> = kinds.iter().map(|(kind, count)| format!("{count} weights as {kind}")).collect();

    let (relative, departures) = config.departures().unwrap_or_default();
    let full = config.attention.iter().filter(|&&a| a == gemma::Attention::Full).count();
    let facts = [
        ("variant", config.variant().unwrap_or("none of the published sizes").to_owned()),
        ("architecture", config.architecture.clone()),
        (
            "layers",
            format!("{} ({} sliding, {full} full attention)", config.layers(), config.layers() - full),
        ),
        ("weights", weights(&listed)),
        ("hidden size", config.hidden.to_string()),
        ("KV-shared layers", config.shared_kv_layers.to_string()),
        ("per-layer embeddings", if config.ple > 0 { config.ple.to_string() } else { "none".to_owned() }),
        ("experts", config.experts.map_or("none".to_owned(), |n| n.to_string())),
        ("vocabulary", config.vocab.to_string()),
        ("context", config.context.to_string()),
        ("coded", if coded.is_empty() { "nothing".to_owned() } else { coded.join(", ") }),
        ("chat template", if model.templates.default.is_some() { "yes" } else { "no" }.to_owned()),
        ("license", model.card.license().unwrap_or_else(|| "not said".to_owned())),
        ("files", format!("{} ({} bytes)", checkpoint.shards().len(), grouped(checkpoint.total_len()))),
    ];
    let json = json!({
        "kind": "checkpoint",
        "variant": config.variant(),
        "departures": departures.iter().map(|d| json!({ "field": d.field, "published": d.published, "found": d.found })).collect::<Vec<_>>(),
        "architecture": config.architecture,
        "layers": config.layers(),
        "hidden_size": config.hidden,
        "weights": listed.iter().map(|listed| listed.desc.elements()).sum::<u64>(),
        "files": checkpoint.shards().iter().map(|s| json!({ "name": s.name, "bytes": s.len })).collect::<Vec<_>>(),
        "tensors": listed.iter().map(described).collect::<Vec<_>>(),
        "notes": model.notes,
        "beside": checkpoint.beside(),
    });
    let mut text = render(&facts, &listed, list);
    if !departures.is_empty() {
        let _ = writeln!(text, "\nIt departs from the published {relative} in");
    }
    for Departure { field, published, found } in &departures {
        let _ = writeln!(text, "  {field}: {found} (published: {published})");
    }
    if !model.notes.is_empty() {
        text.push('\n');
    }
    for note in &model.notes {
        let _ = writeln!(text, "note: {note}");
    }
    Ok(Output::new(text, json))
}

fn gguf(path: &Path, list: bool) -> Result<Output> {
    let set = GgufSet::open(path)?;
    let tensors = set.tensors();
    let listed: Vec<_> =
        tensors.iter().map(|desc| Listed { desc, role: role(&desc.name), code: None }).collect();
    let bytes: u64 = set.parts().iter().map(|part| part.file_len()).sum();
    let mut facts: Vec<(&str, String)> =
        vec![("files", format!("{} ({} bytes)", set.parts().len(), grouped(bytes)))];
    let is_adapter = ::gemma::is_adapter(set.metadata());
    if is_adapter {
        let pairs = tensors.iter().filter(|desc| desc.name.ends_with(".lora_a")).count();
        facts.push(("adapter", format!("{pairs} pairs of factors, for llama.cpp's programs")));
    }
    facts.push(("weights", weights(&listed)));
    facts.extend(set.metadata().iter().map(|(key, value)| (key, short(value))));
    let json = json!({
        "kind": if is_adapter { "gguf_adapter" } else { "gguf" },
        "weights": listed.iter().map(|listed| listed.desc.elements()).sum::<u64>(),
        "files": set.parts().iter().map(|p| json!({ "name": p.path(), "bytes": p.file_len() })).collect::<Vec<_>>(),
        "metadata": set.metadata().iter().map(|(key, value)| (key.to_owned(), json!({ "type": value.type_name(), "value": short(value) }))).collect::<serde_json::Map<_, _>>(),
        "tensors": listed.iter().map(described).collect::<Vec<_>>(),
    });
    Ok(Output::new(render(&facts, &listed, list), json))
}

/// The number of weights of all tensors, and bits per weight.
fn weights(tensors: &[Listed<'_>]) -> String {
    let count: u64 = tensors.iter().map(|listed| listed.desc.elements()).sum();
    let bytes: u64 = tensors.iter().map(Listed::bytes).sum();
    format!("{} ({:.2} bits each)", grouped(count), 8.0 * bytes as f64 / count.max(1) as f64)
}

/// gemma.cpp's container: its blobs, with type, shape and scale of those that are tensors.
fn sbs(path: &Path) -> Result<Output> {
    let file = Sbs::open(path)?;
    let mut table = Table::new(&["blob", "type", "shape", "scale", "offset", "bytes"]);
    for blob in &file.blobs {
        let of_tensor =
            |show: &dyn Fn(&SbsTensor) -> String| blob.tensor.as_ref().map_or_else(String::new, show);
        table.row(vec![
            blob.key.clone(),
            of_tensor(&|t| t.kind.to_owned()),
            of_tensor(&|t| format!("{:?}", t.shape)),
            of_tensor(&|t| t.scale.to_string()),
            grouped(blob.offset),
            grouped(blob.bytes),
        ]);
    }
    let mut text = format!("gemma.cpp .sbs, version {}, {} bytes\n\n", file.version, grouped(file.len));
    text.push_str(&table.render());
    let blobs = file.blobs.iter().map(|blob| {
        let tensor =
            blob.tensor.as_ref().map(|t| json!({ "type": t.kind, "shape": t.shape, "scale": t.scale }));
        json!({ "key": blob.key, "offset": blob.offset, "bytes": blob.bytes, "tensor": tensor })
    });
    let blobs: Vec<_> = blobs.collect();
    let json = json!({ "kind": "sbs", "version": file.version, "bytes": file.len, "blobs": blobs });
    Ok(Output::new(text, json))
}

/// The role of a GGUF tensor: `blk.3.attn_q.weight` → `attn_q`, `v.blk.3.attn_q.weight` → `v.attn_q`.
fn role(name: &str) -> String {
    let of_layer = name.split_once("blk.").filter(|(tower, _)| ["", "v.", "a."].contains(tower));
    let without_layer =
        of_layer.and_then(|(tower, rest)| Some(format!("{tower}{}", rest.split_once('.')?.1)));
    let name = without_layer.as_deref().unwrap_or(name);
    name.strip_suffix(".weight").unwrap_or(name).to_owned()
}

/// A value as one short line.
pub(super) fn short(value: &Value) -> String {
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

/// The content of a debug text: `U32(8)` → `8`.
fn within(text: &str) -> String {
    text.split_once('(').map_or(text, |(_, rest)| rest.trim_end_matches(')')).to_owned()
}

fn described(listed: &Listed<'_>) -> serde_json::Value {
    let desc = listed.desc;
    json!({ "tensor": desc.name, "role": listed.role, "type": listed.dtype().name(), "shape": desc.shape, "bytes": listed.bytes() })
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
        for listed in tensors {
            table.row(vec![
                listed.desc.name.clone(),
                listed.role.clone(),
                listed.dtype().to_string(),
                format!("{:?}", listed.desc.shape),
                grouped(listed.bytes()),
            ]);
        }
        text.push_str(&table.render());
        return text;
    }
    let mut groups: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    for listed in tensors {
        let entry = groups.entry((&listed.role, listed.dtype().name())).or_default();
        *entry = (entry.0 + 1, entry.1 + listed.bytes());
    }
    let mut table = Table::new(&["role", "type", "tensors", "bytes"]);
    for ((role, dtype), (count, bytes)) in groups {
        table.row(vec![role.to_owned(), dtype.to_owned(), grouped(count), grouped(bytes)]);
    }
    let total = tensors.iter().map(Listed::bytes).sum();
    table.row(vec!["all".to_owned(), String::new(), grouped(tensors.len() as u64), grouped(total)]);
    text.push_str(&table.render());
    text
}
