//! Integers of torchao: a byte for a code, or two codes a byte. The metadata of the shard names the class of a weight, because
//! others have parts of the same names. Sources: torchao, `quant_primitives.py` (`dequantize_affine`), `Int4Tensor`,
//! `prototype/safetensors`; mslk, `quantize/shuffle.py` (`pack_int4`).

use serde_json::Value;
use tensor::{DType, Error, Result};

use super::codes::{Codes, Layout, twos_complement};
use super::grid::Grid;
use super::packed::{Groups, Packed, Rule};
use super::parts::{FLOATS, Parts};
use super::scaled::scaled;

const INT4: &str = "Int4Tensor";
const CLASSES: [&str; 3] = [INT4, "IntxUnpackedToInt8Tensor", "Int8Tensor"];

/// A weight of one of [`CLASSES`].
///
/// # Errors
/// `Malformed` for parts that are missing or do not fit; `Unsupported` for other classes, and for weights that belong to
/// scaled activations.
pub(super) fn torchao(parts: &Parts<'_>) -> Result<Packed> {
    let codes = parts.codes();
    let metadata = &parts.checkpoint.shards()[codes.location.shard].metadata;
    let facts = metadata.get(&parts.name()).and_then(|json| serde_json::from_str::<Value>(json).ok());
    let facts = facts.unwrap_or_default();
    let unsupported = |problem: &str, expected: &str, found: &str| {
        Error::unsupported(format!("tensor {}", codes.desc.name), problem)
            .expected(expected, found)
            .help("Give the BF16 checkpoint that it was made from.")
    };
    let class = facts["_type"].as_str().unwrap_or("no class");
    if !CLASSES.contains(&class) {
        return Err(unsupported("a class of torchao that is not decoded", &CLASSES.join(" or "), class));
    }
    if let Some(part) = parts.get("._weight_act_pre_scale") {
        let problem = "torchao multiplies the activations of this weight";
        return Err(unsupported(problem, "no act_pre_scale", &part.desc.name));
    }
    if class == INT4 {
        return int4(parts, &facts["_data"]);
    }
    let packed = scaled(parts)?;
    let dtype = match facts["_data"]["dtype"]["_data"].as_str() {
        Some("float32") => DType::F32,
        Some("float16") => DType::F16,
        Some("bfloat16") => DType::BF16,
        _ => packed.dtype,
    };
    Ok(Packed { dtype, kind: format!("{class} of torchao, {}", packed.kind), ..packed })
}

/// Codes in two's complement, the first of two in the low bits. Scales and minima have a column for each row.
fn int4(parts: &Parts<'_>, facts: &Value) -> Result<Packed> {
    let codes = parts.codes().typed(&[DType::I8, DType::U8])?;
    let [rows, bytes] = codes.desc.shape[..] else {
        return Err(codes.wrong("wrong shape", "[rows, columns / 2]"));
    };
    let cols = bytes * 2;
    let place = format!("tensor {}: block_size", codes.desc.name);
    let size = facts["block_size"][1].as_u64().filter(|size| *size > 0 && facts["block_size"][0] == 1);
    let size = size.ok_or_else(|| {
        Error::malformed(place, "not the groups of an Int4Tensor")
            .expected("[1, columns]", &facts["block_size"])
    })?;
    let groups = cols.div_ceil(size);
    let part = |suffix: &str| parts.need(suffix)?.typed(&FLOATS)?.shaped(&[groups, rows]);
    let (scales, zero) = (part("._weight_scale")?, part("._weight_zero_point")?);
    Ok(Packed {
        name: parts.name(),
        dtype: scales.desc.dtype,
        shape: vec![rows, cols],
        kind: format!("{INT4} of torchao, a scale for {size} columns"),
        codes: Codes {
            part: codes,
            layout: Layout::Rows { bits: cols * 4 },
            bits: 4,
            cols,
            values: twos_complement(4),
        },
        scales: Grid::columns(scales, groups),
        offsets: Some(Grid::columns(zero, groups)),
        groups: Groups::Even(size),
        rule: Rule::Sum,
    })
}
