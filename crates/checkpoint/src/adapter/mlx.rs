//! The tensors of an adapter of mlx-lm or mlx-vlm, grouped into parts by their names.
//!
//! `lora_a` is [in, r] and `lora_b` [r, out], of experts [experts, r, in] and [experts, out, r]; the scale is given as it
//! is. The first form of mlx-vlm has the names `A` and `B`, and the scale alpha / rank. Sources: ml-explore/mlx-lm
//! `tuner/lora.py`, `tuner/utils.py`; mlx-vlm `trainer/peft/lora.py`, `trainer/peft/utils.py`.

use std::collections::BTreeMap;

use serde_json::Value;
use tensor::{Error, Result};

use crate::adapter::part::{Factor, Kind, LowRank, MlxRows, Order, Part, PartChange, Stored};
use crate::names::canonical;

/// The ends of the names of both halves of a pair.
const HALVES: [[&str; 2]; 2] = [[".lora_a", ".A"], [".lora_b", ".B"]];

/// Whether a config is one of mlx-lm or mlx-vlm.
pub(crate) fn is_mlx(config: &Value) -> bool {
    config["peft_type"].is_null()
        && (config["lora_parameters"].is_object() || config["fine_tune_type"].is_string() || is_first(config))
}

/// Whether a config has the first form of mlx-vlm.
fn is_first(config: &Value) -> bool {
    config["rank"].is_u64() && config["alpha"].is_number()
}

/// Groups the tensors of an adapter.
///
/// # Errors
/// `Unsupported` for another kind of training than LoRA and for tensors that cannot be merged, `Malformed` for half a
/// pair or a rank that differs from the config.
pub(crate) fn parts(tensors: &[Stored], config: &Value) -> Result<Vec<Part>> {
    let kind = config["fine_tune_type"].as_str().unwrap_or("lora");
    if kind != "lora" {
        return Err(Error::unsupported("fine_tune_type", "only LoRA of mlx-lm can be merged")
            .expected("lora", kind)
            .help("Fuse it with mlx_lm.fuse, and give the folder that this writes."));
    }
    let parameters = if is_first(config) { config } else { &config["lora_parameters"] };
    let scale = match &parameters["scale"] {
        Value::Null if is_first(config) => {
            parameters["alpha"].as_f64().unwrap_or(0.0) / parameters["rank"].as_f64().unwrap_or(1.0)
        }
        Value::Null => 20.0,
        value => value.as_f64().filter(|s| s.is_finite()).ok_or_else(|| {
            Error::malformed("lora_parameters: scale", "not a number").expected("a number", value)
        })?,
    };
    let mut modules: BTreeMap<&str, [Option<&Stored>; 2]> = BTreeMap::new();
    for stored in tensors {
        let name = stored.desc.name.as_str();
        let module = |ends: &[&str; 2]| ends.iter().find_map(|end| name.strip_suffix(end));
        let found = HALVES.iter().enumerate().find_map(|(number, ends)| Some((number, module(ends)?)));
        let Some((number, module)) = found else {
            return Err(Error::unsupported(format!("tensor {name}"), "not a tensor of LoRA by mlx-lm")
                .expected("names that end in .lora_a or .lora_b", name));
        };
        modules.entry(module).or_default()[number] = Some(stored);
    }
    modules.into_iter().map(|(module, halves)| part(module, halves, parameters, scale)).collect()
}

fn part(module: &str, halves: [Option<&Stored>; 2], parameters: &Value, scale: f64) -> Result<Part> {
    let [Some(a), Some(b)] = halves else {
        let there = halves.iter().flatten().map(|stored| stored.desc.name.as_str());
        return Err(Error::malformed(
            format!("module {module}"),
            "half a pair: lora_a and lora_b belong together",
        )
        .expected("both", there.collect::<Vec<_>>().join(", ")));
    };
    let switch = module.split_once(".experts.switch_glu.");
    let is_table = ["embed_tokens", "embed_tokens_per_layer"].iter().any(|table| module.ends_with(table));
    let (target, rows) = match switch {
        Some((layer, "gate_proj")) => (format!("{layer}.experts.gate_up_proj"), MlxRows::FirstHalf),
        Some((layer, "up_proj")) => (format!("{layer}.experts.gate_up_proj"), MlxRows::SecondHalf),
        Some((layer, "down_proj")) => (format!("{layer}.experts.down_proj"), MlxRows::All),
        Some(_) => {
            return Err(Error::unsupported(format!("module {module}"), "no projection of Gemma's experts"));
        }
        None => (format!("{module}.weight"), MlxRows::All),
    };
    // a table of mlx-lm has [vocabulary, r] and [r, width]
    let (left, right) = match (switch.is_some(), is_table) {
        (true, _) => ((b, Order::Rows), (a, Order::Rows)),
        (false, true) => ((a, Order::Rows), (b, Order::Rows)),
        (false, false) => ((b, Order::Columns), (a, Order::Columns)),
    };
    let shape = &right.0.desc.shape;
    let stored = match right.1 {
        Order::Columns => shape.get(1),
        _ => shape.len().checked_sub(2).and_then(|at| shape.get(at)),
    };
    let rank = parameters["rank"].as_u64().or(stored.copied()).unwrap_or(0);
    let factor = |(stored, order): (&Stored, Order)| Factor { stored: stored.clone(), order };
    let change = LowRank {
        kind: Kind::Mlx(rows),
        rank,
        scale,
        left: factor(left),
        right: factor(right),
        magnitude: None,
    };
    Ok(Part { target: canonical(&target), change: PartChange::LowRank(change) })
}
