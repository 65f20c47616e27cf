//! 8-bit floats and integers, a code a byte, with scales for the tensor, rows, groups or blocks. Sources:
//! compressed-tensors, `compressors/naive_quantized` and `mxfp8`; transformers, `integrations/finegrained_fp8.py`
//! (`weight_scale_inv`).

use serde_json::Value;
use tensor::{DType, Result};

use super::codes::{Codes, Layout, e4m3, twos_complement};
use super::grid::{Form, Grid, Place, table};
use super::packed::{Groups, Packed, Rule};
use super::parts::{FLOATS, Parts, StoredPart, group_size};

/// A weight of bytes with scales.
///
/// # Errors
/// `Malformed` for parts that are missing or do not fit.
pub(super) fn scaled(parts: &Parts<'_>) -> Result<Packed> {
    let codes = parts.codes().typed(&[DType::F8_E4M3, DType::I8])?;
    let [ref matrices @ .., rows, cols] = codes.desc.shape[..] else {
        return Err(codes.wrong("wrong shape", "[rows, columns]"));
    };
    let scales = parts.need(&parts.row.parts[0])?.typed(&[&FLOATS[..], &[DType::U8]].concat())?;
    let Shape { place, groups, size, words } = shape(&scales, matrices, (rows, cols), parts.config)?;
    let zero = parts.row.parts.get(1).map_or(Ok(None), |suffix| parts.zero_points(suffix))?;
    let plain = |part: StoredPart| {
        let form = Form::Plain { table: table(part.desc.dtype) };
        Grid { part, form, place, groups }
    };
    let offsets = zero
        .map(|part| part.typed(&[&[DType::I8], &FLOATS[..]].concat())?.shaped(&scales.desc.shape))
        .transpose()?
        .map(plain);
    let (name, values) = match codes.desc.dtype {
        DType::I8 => ("int8", twos_complement(8)),
        _ => ("FP8", e4m3()),
    };
    Ok(Packed {
        name: parts.name(),
        dtype: if scales.desc.dtype == DType::U8 { DType::BF16 } else { scales.desc.dtype },
        shape: codes.desc.shape.clone(),
        kind: format!("{name}, a scale {words}"),
        codes: Codes { part: codes, layout: Layout::Rows { bits: cols * 8 }, bits: 8, cols, values },
        scales: plain(scales),
        offsets,
        groups: Groups::Even(size),
        rule: Rule::ZeroPoint,
    })
}

/// What the shape of the scales means.
struct Shape {
    place: Place,
    groups: u64,
    /// Columns of a group.
    size: u64,
    words: String,
}

fn shape(scales: &StoredPart, matrices: &[u64], (rows, cols): (u64, u64), config: &Value) -> Result<Shape> {
    let found = &scales.desc.shape[..];
    if scales.desc.elements() == 1 {
        return Ok(Shape { place: Place::One, groups: 1, size: cols.max(1), words: "a tensor".into() });
    }
    if found == [rows] && matrices.is_empty() {
        return Ok(Shape { place: Place::Rows, groups: 1, size: cols.max(1), words: "a row".into() });
    }
    let [ref outer @ .., grid_rows, groups] = *found else {
        return Err(scales.wrong("wrong shape for scales", "one scale, or [rows, groups]"));
    };
    if outer != matrices || grid_rows == 0 || groups == 0 {
        return Err(scales.wrong("wrong shape for scales", format!("{matrices:?} matrices of scales")));
    }
    if grid_rows == rows {
        let size = group_size(scales, groups, cols)?;
        let words = if groups == 1 { "a row".into() } else { format!("for {size} columns") };
        return Ok(Shape { place: Place::Rows, groups, size, words });
    }
    let [height, size] = match block(config) {
        Some([height, width]) if [rows.div_ceil(height), cols.div_ceil(width)] == [grid_rows, groups] => {
            [height, width]
        }
        Some([height, width]) => {
            return Err(scales.wrong("not the blocks of the config", format!("blocks of {height} × {width}")));
        }
        None => [group_size(scales, grid_rows, rows)?, group_size(scales, groups, cols)?],
    };
    let place = Place::Blocks { rows, grid_rows, height };
    Ok(Shape { place, groups, size, words: format!("a block of {height} × {size}") })
}

/// The block that the config names: `weight_block_size` of FP8, `block_structure` of compressed-tensors.
fn block(config: &Value) -> Option<[u64; 2]> {
    let groups = config["config_groups"].as_object().into_iter().flat_map(|groups| groups.values());
    let structures = groups.map(|group| &group["weights"]["block_structure"]);
    let sizes = [&config["weight_block_size"]].into_iter().chain(structures);
    let pair = |size: &Value| Some([size.get(0)?.as_u64()?, size.get(1)?.as_u64()?]);
    sizes.filter_map(pair).find(|[height, width]| *height > 0 && *width > 0)
}
