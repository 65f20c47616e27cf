//! The content of an adapter's folder: what it changes, by kind of matrix.

use std::collections::BTreeMap;
use std::path::Path;

use ::checkpoint::{AdaptedTensor, AdapterFolder};
use report::{Table, grouped};
use serde_json::json;
use tensor::Result;

use crate::cli::outcome::Output;

pub(super) fn folder(path: &Path, list: bool) -> Result<Output> {
    let adapter = AdapterFolder::open(path)?;
    let tensors: Vec<_> = adapter.tensors().collect();
    let mut text = format!("base   {}\n", adapter.base().unwrap_or("not said"));
    text.push_str(&format!("merge  as {}\n\n", adapter.rule()));
    let mut table = Table::new(&["tensor", "tensors", "change"]);
    if list {
        for tensor in &tensors {
            table.row(vec![tensor.tensor.clone(), "1".to_owned(), change(tensor)]);
        }
    } else {
        let mut kinds: BTreeMap<(String, String), u64> = BTreeMap::new();
        for tensor in &tensors {
            *kinds.entry((kind(&tensor.tensor), change(tensor))).or_default() += 1;
        }
        for ((kind, change), count) in kinds {
            table.row(vec![kind, grouped(count), change]);
        }
    }
    text.push_str(&table.render());
    for (name, reason) in adapter.dropped() {
        text.push_str(&format!("note: {name}: {reason}\n"));
    }
    let tensors = tensors.iter().map(|tensor| {
        json!({ "tensor": tensor.tensor, "rank": tensor.rank, "scale": tensor.scale, "dora": tensor.dora })
    });
    let dropped = adapter.dropped().iter().map(|(name, reason)| json!({ "tensor": name, "reason": reason }));
    let json = json!({
        "kind": "adapter",
        "base": adapter.base(),
        "rule": adapter.rule(),
        "config": adapter.config(),
        "tensors": tensors.collect::<Vec<_>>(),
        "dropped": dropped.collect::<Vec<_>>(),
    });
    Ok(Output::new(text, json))
}

fn change(tensor: &AdaptedTensor) -> String {
    match tensor.rank {
        None => "replaced".to_owned(),
        Some(rank) => {
            let dora = if tensor.dora { ", DoRA" } else { "" };
            format!("rank {rank}, scale {:.4}{dora}", tensor.scale)
        }
    }
}

/// The name of a tensor without prefixes and the number of its layer.
fn kind(name: &str) -> String {
    let layer = name.split_once(".layers.").and_then(|(model, rest)| Some((model, rest.split_once('.')?.1)));
    let (model, rest) = layer.unwrap_or((name, name));
    let tower = ["vision_tower", "audio_tower"].into_iter().find(|tower| model.contains(tower));
    match tower.filter(|_| layer.is_some()) {
        Some(tower) => format!("{tower} {rest}"),
        None => rest.to_owned(),
    }
}
