//! compressed-tensors (written by llm-compressor): packed integers, NVFP4 and MXFP4. Source:
//! vllm-project/compressed-tensors, `compressors/pack_quantized`, `nvfp4`, `mxfp4` and
//! `quantization/lifecycle/forward_helpers.py`.

use tensor::{DType, Result};

use super::codes::{Codes, Layout, e2m1, e4m3, offset_binary};
use super::grid::{Form, Grid, Place, table};
use super::packed::{Groups, Packed, Rule};
use super::parts::{FLOATS, Parts, StoredPart, group_size};

/// A weight `weight_packed`: FP4 if its codes are bytes, integers if they are words.
///
/// # Errors
/// `Malformed` for parts that are missing or do not fit.
pub(super) fn packed(parts: &Parts<'_>) -> Result<Packed> {
    let codes = parts.codes();
    let scales = parts.need(".weight_scale")?;
    if codes.desc.dtype != DType::U8 {
        return integers(parts, codes, scales);
    }
    four_bit_floats(parts, codes, scales.typed(&[DType::F8_E4M3, DType::U8])?, |dtype| match dtype {
        DType::U8 => Ok(("MXFP4 of compressed-tensors", Form::Plain { table: table(DType::U8) })),
        _ => {
            let by = parts.one(".weight_global_scale")?;
            Ok(("NVFP4 of compressed-tensors", Form::Divided { table: e4m3(), by }))
        }
    })
}

/// FP4 codes, two a byte, with scales for groups of columns. `form` has the name and the form of scales of a type.
fn four_bit_floats(
    parts: &Parts<'_>,
    codes: StoredPart,
    scales: StoredPart,
    form: impl FnOnce(DType) -> Result<(&'static str, Form)>,
) -> Result<Packed> {
    let [rows, bytes] = codes.desc.shape[..] else {
        return Err(codes.wrong("wrong shape", "[rows, columns / 2]"));
    };
    let cols = bytes * 2;
    let groups = scales.desc.cols();
    let scales = scales.shaped(&[rows, groups])?;
    let size = group_size(&scales, groups, cols)?;
    let (name, form) = form(scales.desc.dtype)?;
    Ok(Packed {
        name: parts.name(),
        dtype: DType::BF16,
        shape: vec![rows, cols],
        kind: format!("{name}, groups of {size}"),
        codes: fp4(codes, cols),
        scales: Grid { part: scales, form, place: Place::Rows, groups },
        offsets: None,
        groups: Groups::Even(size),
        rule: Rule::ZeroPoint,
    })
}

fn integers(parts: &Parts<'_>, codes: StoredPart, scales: StoredPart) -> Result<Packed> {
    let codes = codes.typed(&[DType::I32])?;
    let shape = parts.need(".weight_shape")?.typed(&[DType::I64, DType::I32])?;
    let size = shape.desc.dtype.block_bytes();
    let bytes = shape.read(parts.checkpoint, 0, shape.desc.byte_len())?;
    // the upper half of a 64-bit length is zero
    let dims: Vec<u64> = bytes
        .chunks_exact(size)
        .map(|dim| u64::from(u32::from_le_bytes([dim[0], dim[1], dim[2], dim[3]])))
        .collect();
    let words = codes.desc.cols();
    let bits = (1..=8).find(|bits| dims.last().is_some_and(|cols| (cols * bits).div_ceil(32) == words));
    let [matrices @ .., rows, cols] = &dims[..] else {
        return Err(shape.wrong("not a shape", "two or three lengths"));
    };
    let mut stored = codes.desc.shape.clone();
    stored.pop();
    let (Some(bits), true) = (bits, [matrices, &[*rows]].concat() == stored && *cols > 0) else {
        return Err(codes.wrong("its shape is not that of its weight_shape", format!("packed {dims:?}")));
    };
    let scales = scales.typed(&FLOATS)?;
    let groups = scales.desc.cols();
    let place = if scales.desc.elements() == 1 { Place::One } else { Place::Rows };
    let rows_of_all: u64 = stored.iter().product();
    if place == Place::Rows && scales.desc.elements() != rows_of_all * groups {
        return Err(scales.wrong("wrong shape for scales", format!("{rows_of_all} rows")));
    }
    let size = group_size(&scales, groups, *cols)?;
    let bits = bits as u32;
    let offsets = match parts.zero_points(".weight_zero_point")? {
        Some(part) if !matrices.is_empty() => {
            return Err(part.wrong("zero points of several matrices", "a matrix"));
        }
        Some(part) => {
            let part = part.typed(&[DType::I32])?.shaped(&[(rows * u64::from(bits)).div_ceil(32), groups])?;
            Some(Grid { part, form: Form::Down { bits }, place: Place::Rows, groups })
        }
        None => None,
    };
    let zero = if offsets.is_some() { ", zero points" } else { "" };
    Ok(Packed {
        name: parts.name(),
        dtype: scales.desc.dtype,
        kind: format!("packed integers of compressed-tensors, {bits} bits, groups of {size}{zero}"),
        codes: Codes {
            part: codes,
            layout: Layout::Rows { bits: words * 32 },
            bits,
            cols: *cols,
            values: offset_binary(bits),
        },
        scales: Grid { place, ..Grid::rows(scales, groups) },
        offsets,
        groups: Groups::Even(size),
        rule: Rule::ZeroPoint,
        shape: dims,
    })
}

/// FP4 codes, two a byte.
pub(super) fn fp4(part: StoredPart, cols: u64) -> Codes {
    Codes { part, layout: Layout::Rows { bits: cols * 4 }, bits: 4, cols, values: e2m1() }
}

/// NVFP4 of NVIDIA ModelOpt: code · (scale · scale of the tensor). Source: TensorRT-Model-Optimizer,
/// `quantization/qtensor/nvfp4_tensor.py`.
///
/// # Errors
/// As [`packed`].
pub(super) fn modelopt(parts: &Parts<'_>) -> Result<Packed> {
    let codes = parts.codes().typed(&[DType::U8])?;
    let scales = parts.need(".weight_scale")?.typed(&[DType::F8_E4M3])?;
    let mut packed = four_bit_floats(parts, codes, scales, |_| {
        let by = parts.one(".weight_scale_2")?;
        Ok(("NVFP4 of NVIDIA ModelOpt", Form::Multiplied { table: e4m3(), by }))
    })?;
    // its table has no negative zero
    packed.codes.values[8] = 0.0;
    Ok(packed)
}
