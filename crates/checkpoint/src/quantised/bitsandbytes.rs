//! bitsandbytes: 4 bits (NF4, FP4) in blocks of the whole tensor, and LLM.int8. Source: bitsandbytes `functional.py`
//! (`QuantState`), `backends/default/ops.py`, `_ops.py` (`int8_vectorwise_dequant`).

use serde_json::Value;
use tensor::{DType, Error, Result};

use super::codes::{Codes, Layout, twos_complement};
use super::grid::{Form, Grid, Place};
use super::packed::{Groups, Packed, Rule};
use super::parts::{Parts, StoredPart};

const STATES: [(&str, &str); 2] =
    [("NF4", ".weight.quant_state.bitsandbytes__nf4"), ("FP4", ".weight.quant_state.bitsandbytes__fp4")];
/// 1 / 127 as bitsandbytes writes it.
const PER_127: f32 = 7.874_015_718_698_502e-3_f64 as f32;
/// The layout of LLM.int8 with rows as they are; other ones are those of old kernels for a graphics card.
const ROW_FORMAT: u8 = 0;

/// A weight of 4-bit codes.
///
/// # Errors
/// `Malformed` for parts that are missing or do not fit.
pub(super) fn four_bits(parts: &Parts<'_>) -> Result<Packed> {
    let codes = parts.codes();
    let state = STATES.iter().find_map(|(name, suffix)| Some((*name, parts.get(suffix)?)));
    let (name, state) = match state {
        Some(found) => found,
        None => {
            let (name, suffix) = STATES[usize::from(parts.config["bnb_4bit_quant_type"] == "fp4")];
            (name, parts.need(suffix)?)
        }
    };
    let facts: Value = serde_json::from_slice(&state.read(parts.checkpoint, 0, state.desc.byte_len())?)
        .map_err(|e| Error::malformed(format!("tensor {}", state.desc.name), format!("not JSON: {e}")))?;
    let fact = |key: &str| {
        let place = format!("tensor {}: {key}", state.desc.name);
        facts.get(key).ok_or_else(|| Error::malformed(place, "missing"))
    };
    let wrong = |key: &str, expected: &str| {
        let place = format!("tensor {}: {key}", state.desc.name);
        Error::malformed(place, "not a setting of bitsandbytes").expected(expected, &facts[key])
    };
    let shape: Option<Vec<u64>> =
        fact("shape")?.as_array().and_then(|dims| dims.iter().map(Value::as_u64).collect());
    let shape =
        shape.filter(|shape| shape.len() > 1).ok_or_else(|| wrong("shape", "two or three lengths"))?;
    let cols = shape.last().copied().unwrap_or(0);
    let elements = shape.iter().try_fold(1u64, |all, dim| all.checked_mul(*dim));
    let elements = elements.filter(|n| *n > 0).ok_or_else(|| wrong("shape", "positive lengths"))?;
    let block =
        |key: &str| fact(key)?.as_u64().filter(|n| *n > 0).ok_or_else(|| wrong(key, "a positive number"));
    let size = block("blocksize")?;
    let dtype = match fact("dtype")?.as_str() {
        Some("float32") => DType::F32,
        Some("float16") => DType::F16,
        Some("bfloat16") => DType::BF16,
        _ => return Err(wrong("dtype", "float32, float16 or bfloat16")),
    };
    if codes.desc.byte_len() != elements.div_ceil(2) {
        return Err(
            codes.wrong("not the codes of its quant_state", format!("{} bytes", elements.div_ceil(2)))
        );
    }
    let blocks = elements.div_ceil(size);
    let absmax = parts.need(".weight.absmax")?.shaped(&[blocks])?;
    let (absmax, form, nested) = if parts.get(".weight.nested_absmax").is_some()
        || facts.get("nested_blocksize").is_some()
    {
        let block = block("nested_blocksize")?;
        let scales =
            parts.need(".weight.nested_absmax")?.typed(&[DType::F32])?.shaped(&[blocks.div_ceil(block)])?;
        let offset =
            fact("nested_offset")?.as_f64().ok_or_else(|| wrong("nested_offset", "a number"))? as f32;
        let table = map(parts, ".weight.nested_quant_map", 256)?;
        let scales = scales.floats(parts.checkpoint)?;
        (absmax.typed(&[DType::U8])?, Form::Nested { table, scales, block, offset }, ", nested")
    } else {
        (absmax.typed(&[DType::F32])?, Form::Plain { table: Vec::new() }, "")
    };
    Ok(Packed {
        name: parts.name(),
        dtype,
        shape,
        kind: format!("{name} of bitsandbytes, blocks of {size}{nested}"),
        codes: Codes {
            part: codes,
            layout: Layout::HighFirst { bits: cols * 4 },
            bits: 4,
            cols,
            values: map(parts, ".weight.quant_map", 16)?,
        },
        scales: Grid { part: absmax, form, place: Place::Rows, groups: 1 },
        offsets: None,
        groups: Groups::Flat(size),
        rule: Rule::ZeroPoint,
    })
}

/// A table of values.
fn map(parts: &Parts<'_>, suffix: &str, count: u64) -> Result<Vec<f32>> {
    parts.need(suffix)?.typed(&[DType::F32])?.shaped(&[count])?.floats(parts.checkpoint)
}

/// A weight of LLM.int8: code · maximum of the row / 127.
///
/// # Errors
/// `Malformed` for parts that are missing or do not fit, `Unsupported` for layouts of old kernels.
pub(super) fn int8(parts: &Parts<'_>) -> Result<Packed> {
    let codes = parts.codes().typed(&[DType::I8])?;
    let [rows, cols] = codes.desc.shape[..] else {
        return Err(codes.wrong("wrong shape", "[rows, columns]"));
    };
    let scales = parts.need(".SCB")?.typed(&[DType::F32])?.shaped(&[rows])?;
    if let Some(format) =
        parts.get(".weight_format").map(|part: StoredPart| part.typed(&[DType::U8])).transpose()?
    {
        let found = format.read(parts.checkpoint, 0, format.desc.byte_len().min(1))?;
        if found != [ROW_FORMAT] {
            return Err(Error::unsupported(
                format!("tensor {}", format.desc.name),
                "a layout of old kernels of bitsandbytes",
            )
            .expected(ROW_FORMAT, format!("{found:?}"))
            .help("Load it with bitsandbytes and transformers, and save it again."));
        }
    }
    Ok(Packed {
        name: parts.name(),
        dtype: DType::F32,
        shape: vec![rows, cols],
        kind: "int8 of bitsandbytes (LLM.int8), a scale a row".into(),
        codes: Codes {
            part: codes,
            layout: Layout::Rows { bits: cols * 8 },
            bits: 8,
            cols,
            values: twos_complement(8),
        },
        scales: Grid::rows(scales, 1),
        offsets: None,
        groups: Groups::Even(cols.max(1)),
        rule: Rule::Factor(PER_127),
    })
}
