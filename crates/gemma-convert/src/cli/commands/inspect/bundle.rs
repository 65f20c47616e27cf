//! `inspect` of a bundle of LiteRT-LM: sections, metadata, and the tensors of its models by type.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use litert::{Bundle, Constant, FileSource, LlmMetadata, MetadataToken, Model, Section, SectionType, Source};
use serde_json::{Value, json};
use tensor::{Error, Result};

use crate::cli::outcome::Output;
use report::{Table, grouped};

/// The largest section of metadata.
const MAX_METADATA: u64 = 16 << 20;

pub(super) fn file(path: &Path, list: bool) -> Result<Output> {
    let within = |e: Error| e.within(path.display());
    let file = FileSource::open(path)?;
    let bundle = Bundle::read(&file).map_err(within)?;
    let version = bundle.version.map(|part| part.to_string()).join(".");
    let mut text = format!("LiteRT-LM bundle, version {version}, {} bytes\n", grouped(bundle.file_len()));
    for (key, value) in &bundle.items {
        let _ = writeln!(text, "{key}  {value}");
    }
    let mut table = Table::new(&["section", "model", "offset", "bytes", "keys"]);
    for section in &bundle.sections {
        let others = section.items.iter().filter(|(key, _)| key != "model_type");
        table.row(vec![
            section.content.to_string(),
            section.model_type().unwrap_or_default().to_owned(),
            grouped(section.range.start),
            grouped(section.range.end - section.range.start),
            others.map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join(", "),
        ]);
    }
    let _ = write!(text, "\n{}", table.render());
    let mut sections = Vec::new();
    for section in &bundle.sections {
        let part = bundle.part(&file, section).map_err(within)?;
        let mut document = described(section);
        let read = match section.content {
            SectionType::METADATA => metadata(&part, &mut text),
            SectionType::MODEL => model(&part, section, list, &mut text),
            _ => Ok(Value::Null),
        };
        document["content"] = read.map_err(|e| within(e.within(section.title())))?;
        sections.push(document);
    }
    let items: serde_json::Map<_, _> =
        bundle.items.iter().map(|(key, value)| (key.clone(), value.to_string().into())).collect();
    let json = json!({
        "kind": "litertlm",
        "version": version,
        "bytes": bundle.file_len(),
        "items": items,
        "sections": sections,
    });
    Ok(Output::new(text, json))
}

fn described(section: &Section) -> Value {
    json!({
        "type": section.content.to_string(),
        "model_type": section.model_type(),
        "offset": section.range.start,
        "bytes": section.range.end - section.range.start,
    })
}

fn metadata(part: &dyn Source, text: &mut String) -> Result<Value> {
    if part.len() > MAX_METADATA {
        return Err(Error::limit("metadata", "implausibly large")
            .expected(format!("at most {MAX_METADATA} bytes"), part.len()));
    }
    let mut bytes = vec![0; part.len() as usize];
    part.read_at(0, &mut bytes)?;
    let LlmMetadata { start, stop, max_tokens, is_gemma4, template, channels } = LlmMetadata::read(&bytes)?;
    let shown = |token: &MetadataToken| match token {
        MetadataToken::Ids(ids) => ids.iter().map(u64::to_string).collect::<Vec<_>>().join(" "),
        MetadataToken::Text(text) => format!("{text:?}"),
    };
    let stop: Vec<_> = stop.iter().map(shown).collect();
    let start = start.as_ref().map(shown);
    let kind = if is_gemma4 { "Gemma 4" } else { "another" };
    let _ = writeln!(text, "\nmodel type   {kind}");
    let _ = writeln!(text, "start token  {}", start.as_deref().unwrap_or("none"));
    let _ = writeln!(text, "stop tokens  {}", stop.join(", "));
    let _ = writeln!(text, "max tokens   {}", max_tokens.map_or("not said".to_owned(), grouped));
    let _ = writeln!(text, "channels     {}", channels.join(", "));
    let length = template.as_ref().map_or(0, String::len) as u64;
    let _ = writeln!(text, "template     {} bytes", grouped(length));
    Ok(json!({
        "is_gemma4": is_gemma4,
        "start": start,
        "stop": stop,
        "max_tokens": max_tokens,
        "channels": channels,
        "template": template,
    }))
}

fn model(part: &dyn Source, section: &Section, list: bool, text: &mut String) -> Result<Value> {
    let model = Model::read(part)?;
    let constants = litert::constants(&model)?;
    let operators: usize = model.subgraphs.iter().map(|subgraph| subgraph.operators).sum();
    let _ = writeln!(
        text,
        "\n{}: {} subgraphs, {} operators, {} buffers",
        section.model_type().unwrap_or("model"),
        grouped(model.subgraphs.len() as u64),
        grouped(operators as u64),
        grouped(model.buffers.len() as u64)
    );
    let bytes = |constant: &Constant| {
        let range = &model.buffers[constant.buffer].range;
        range.end - range.start
    };
    if list {
        let mut table = Table::new(&["constant", "type", "bytes"]);
        for constant in &constants {
            table.row(vec![constant.title(), constant.kind(), grouped(bytes(constant))]);
        }
        text.push_str(&table.render());
    }
    let mut kinds: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    for constant in &constants {
        let entry = kinds.entry(constant.kind()).or_default();
        *entry = (entry.0 + 1, entry.1 + constant.rows * constant.cols, entry.2 + bytes(constant));
    }
    let mut table = Table::new(&["type", "constants", "weights", "bytes"]);
    for (kind, (count, weights, bytes)) in &kinds {
        table.row(vec![kind.clone(), grouped(*count), grouped(*weights), grouped(*bytes)]);
    }
    text.push_str(&table.render());
    let listed = constants.iter().map(|constant| {
        json!({
            "constant": constant.title(),
            "type": constant.kind(),
            "shape": [constant.rows, constant.cols],
            "bytes": bytes(constant),
        })
    });
    Ok(json!({
        "subgraphs": model.subgraphs.len(),
        "operators": operators,
        "buffers": model.buffers.len(),
        "constants": listed.collect::<Vec<_>>(),
    }))
}
