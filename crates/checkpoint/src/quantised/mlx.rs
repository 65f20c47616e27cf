//! MLX: affine integers of 2 to 8 bits, and the modes mxfp4, nvfp4 and mxfp8. Source: ml-explore/mlx
//! `backend/cpu/quantized.cpp`; mlx-lm `utils.py` for the settings in `config.json`.

use serde_json::Value;
use tensor::{DType, Error, Result};

use super::codes::{Codes, Layout, e2m1, e4m3, unsigned};
use super::grid::{Form, Grid, Place, table};
use super::packed::{Groups, Packed, Rule};
use super::parts::{FLOATS, Parts, StoredPart};
use crate::names;

/// The modes without biases: name, columns of a group, bits of a code.
const MODES: [(&str, u64, u32); 3] = [("mxfp4", 32, 4), ("nvfp4", 16, 4), ("mxfp8", 32, 8)];

/// A weight of MLX.
///
/// # Errors
/// `Malformed` for parts that are missing or do not fit, or settings that the shapes contradict.
pub(super) fn mlx(parts: &Parts<'_>) -> Result<Packed> {
    let codes = parts.codes().typed(&[DType::U32])?;
    let scales = parts.need(".scales")?.typed(&[&FLOATS[..], &[DType::U8]].concat())?;
    let (words, groups) = (codes.desc.cols(), scales.desc.cols());
    let mut shape = codes.desc.shape.clone();
    shape.pop();
    let scales = scales.shaped(&[&shape[..], &[groups]].concat())?;
    // columns of a group times bits of a code
    let bits_of_group = (words * 32).checked_div(groups).filter(|n| *n > 0 && n * groups == words * 32);
    let bits_of_group = bits_of_group
        .ok_or_else(|| scales.wrong("its groups do not divide the codes", format!("of {words} words")))?;
    let is_affine = scales.desc.dtype != DType::U8;
    let (mode, size, bits) = if is_affine {
        let (size, bits) = settings(parts)?;
        ("affine", size, bits)
    } else {
        let fits = MODES.iter().find(|(_, size, bits)| size * u64::from(*bits) == bits_of_group);
        *fits.ok_or_else(|| scales.wrong("the groups of no mode", "mxfp4, nvfp4 or mxfp8"))?
    };
    if size * u64::from(bits) != bits_of_group {
        return Err(scales.wrong(
            "not the groups that config.json names",
            format!("groups of {size} with {bits} bits: {} words each", size * u64::from(bits) / 32),
        ));
    }
    let cols = groups * size;
    shape.push(cols);
    let values = match mode {
        "affine" => unsigned(bits),
        "mxfp8" => e4m3(),
        _ => e2m1(),
    };
    let form = match mode {
        "affine" => Form::Plain { table: Vec::new() },
        "nvfp4" => Form::Plain { table: e4m3() },
        _ => Form::Plain { table: table(DType::U8) },
    };
    let biases = |part: StoredPart| {
        Ok(Grid::rows(part.typed(&[scales.desc.dtype])?.shaped(&scales.desc.shape)?, groups))
    };
    let offsets = is_affine.then(|| parts.need(".biases").and_then(biases)).transpose()?;
    if let Some(part) = parts.get(".global_scale") {
        return Err(Error::unsupported(
            format!("tensor {}", part.desc.name),
            "a scale of the whole tensor in MLX's nvfp4",
        ));
    }
    Ok(Packed {
        name: parts.name(),
        dtype: if is_affine { scales.desc.dtype } else { DType::BF16 },
        shape,
        kind: format!("{mode} of MLX, {bits} bits, groups of {size}"),
        codes: Codes { part: codes, layout: Layout::Rows { bits: words * 32 }, bits, cols, values },
        scales: Grid { part: scales, form, place: Place::Rows, groups },
        offsets,
        groups: Groups::Even(size),
        rule: Rule::Affine,
    })
}

/// Columns of a group and bits of a code: those of the weight's own entry in the config, else those of all.
fn settings(parts: &Parts<'_>) -> Result<(u64, u32)> {
    let name = parts.name();
    let own = parts.config.as_object().into_iter().flatten();
    let mut own =
        own.filter(|(key, value)| value.is_object() && names::canonical(&format!("{key}.weight")) == name);
    let own = own.next().map(|(_, value)| value);
    let number = |key: &str| {
        let of = |value: &Value| value.get(key).and_then(Value::as_u64);
        own.and_then(of).or_else(|| of(parts.config))
    };
    match (number("group_size"), number("bits")) {
        (Some(size @ (16 | 32 | 64 | 128)), Some(bits @ 1..=8)) => Ok((size, bits as u32)),
        (size, bits) => Err(Error::malformed("config.json: quantization", "not settings of MLX").expected(
            "group_size 16, 32, 64 or 128, and bits from 1 to 8",
            format!("{size:?} and {bits:?}"),
        )),
    }
}
