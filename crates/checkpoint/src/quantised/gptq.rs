//! GPTQ and AWQ (GEMM): the weight is stored transposed, a row of the file is an input. Sources: GPTQModel
//! `nn_modules/qlinear` and `utils/model.py`, AutoAWQ `utils/packing_utils.py`.

use tensor::{DType, Error, Result};

use super::codes::{Codes, Layout, unsigned};
use super::grid::{Form, Grid, Place};
use super::packed::{Groups, Packed, Rule};
use super::parts::{FLOATS, Parts, StoredPart, group_size};

/// A weight `qweight`: AWQ if its words pack outputs, GPTQ if they pack inputs.
///
/// # Errors
/// `Malformed` for parts that are missing or do not fit, `Unsupported` for other layouts.
pub(super) fn gptq_awq(parts: &Parts<'_>) -> Result<Packed> {
    let codes = parts.codes().typed(&[DType::I32])?;
    let scales = parts.need(".scales")?.typed(&FLOATS)?;
    let zeros = parts.need(".qzeros")?.typed(&[DType::I32])?;
    let ([_, width], [groups, rows]) = (&codes.desc.shape[..], &scales.desc.shape[..]) else {
        return Err(codes.wrong("wrong shape", "a matrix, as its scales"));
    };
    let (width, groups, rows) = (*width, *groups, *rows);
    if width * 8 == rows && parts.get(".g_idx").is_none() {
        known_format(parts, &["gemm"])?;
        return awq(parts, codes, (scales, zeros), (groups, rows));
    }
    if width != rows {
        return Err(
            codes.wrong("its outputs are not those of its scales", format!("{rows} or {} columns", rows / 8))
        );
    }
    known_format(parts, &["gptq", "gptq_v2"])?;
    gptq(parts, codes, (scales, zeros), (groups, rows))
}

/// Checks the layout that the config names: it does not show in the shapes.
fn known_format(parts: &Parts<'_>, known: &[&str]) -> Result<()> {
    let said = ["checkpoint_format", "format", "version"].map(|key| parts.config[key].as_str());
    match said.into_iter().flatten().find(|said| !known.contains(&said.to_lowercase().as_str())) {
        None => Ok(()),
        Some(other) => Err(Error::unsupported(
            "config.json: quantization_config",
            "a layout of GPTQ or AWQ weights that is not known",
        )
        .expected(known.join(" or "), other)),
    }
}

fn gptq(
    parts: &Parts<'_>,
    codes: StoredPart,
    (scales, zeros): (StoredPart, StoredPart),
    (groups, rows): (u64, u64),
) -> Result<Packed> {
    let bits = (zeros.desc.cols() * 32).checked_div(rows).unwrap_or(0);
    if ![2, 3, 4, 8].contains(&bits) || rows * bits != zeros.desc.cols() * 32 {
        return Err(
            zeros.wrong("not the zero points of its scales", format!("2, 3, 4 or 8 bits for {rows} outputs"))
        );
    }
    let zeros = zeros.shaped(&[groups, rows * bits / 32])?;
    let bits = bits as u32;
    let cols = codes.desc.shape[0] * 32 / u64::from(bits);
    let said = parts.config["group_size"].as_u64().filter(|size| *size > 0 && cols.div_ceil(*size) == groups);
    let size = said.map_or_else(|| group_size(&scales, groups, cols), Ok)?;
    let (order, columns) = match parts.get(".g_idx") {
        Some(index) => (", g_idx", Groups::Listed(index.typed(&[DType::I32])?.shaped(&[cols])?)),
        None => ("", Groups::Even(size)),
    };
    let is_second = ["checkpoint_format", "format"].iter().any(|key| parts.config[*key] == "gptq_v2");
    let form = Form::Along { bits, plus_one: !is_second };
    Ok(Packed {
        name: parts.name(),
        dtype: scales.desc.dtype,
        shape: vec![rows, cols],
        kind: format!("GPTQ, {bits} bits, groups of {size}{order}"),
        codes: Codes {
            part: codes,
            layout: Layout::Columns { width: rows },
            bits,
            cols,
            values: unsigned(bits),
        },
        scales: Grid::columns(scales, groups),
        offsets: Some(Grid { part: zeros, form, place: Place::Columns, groups }),
        groups: columns,
        rule: Rule::ZeroPoint,
    })
}

fn awq(
    parts: &Parts<'_>,
    codes: StoredPart,
    (scales, zeros): (StoredPart, StoredPart),
    (groups, rows): (u64, u64),
) -> Result<Packed> {
    let cols = codes.desc.shape[0];
    let zeros = zeros.shaped(&[groups, rows / 8])?;
    let size = group_size(&scales, groups, cols)?;
    Ok(Packed {
        name: parts.name(),
        dtype: scales.desc.dtype,
        shape: vec![rows, cols],
        kind: format!("AWQ, 4 bits, groups of {size}"),
        codes: Codes {
            part: codes,
            layout: Layout::Awq { width: rows / 8 },
            bits: 4,
            cols,
            values: unsigned(4),
        },
        scales: Grid::columns(scales, groups),
        offsets: Some(Grid { part: zeros, form: Form::AwqAlong, place: Place::Columns, groups }),
        groups: Groups::Even(size),
        rule: Rule::ZeroPoint,
    })
}
