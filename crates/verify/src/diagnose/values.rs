//! Hypotheses about values: changes that keep each value in its place.

use tensor::{DType, Result};

use super::Case;

/// All sampled values are equal.
pub(super) fn constant(case: &Case<'_>) -> Result<Option<String>> {
    let value = case.y[0][0] + 0.0; // no −0
    if case.y.iter().flatten().any(|&y| y != value) {
        return Ok(None);
    }
    Ok(match (case.pair.tensor.role, case.pair.cols(), value) {
        ("layer_output_scale", 1, 1.0) => Some("it is 1, as if the layer had no scalar".to_owned()),
        (gemma::ROPE_FREQS, _, 1.0) => {
            Some("all values are 1: full-attention layers would rotate every dimension".to_owned())
        }
        (_, 1, 0.0 | 1.0) => Some(format!("it is {value}")),
        (_, 1, _) => None,
        _ if case.errors.bad_rows == 1 && case.pair.rows() > 1 => {
            Some(format!("row {} holds only the value {value}", case.rows[0]))
        }
        _ if case.errors.bad_rows < case.pair.rows() => {
            Some(format!("{} rows hold only the value {value}", case.errors.bad_rows))
        }
        _ => Some(format!("all values are {value}")),
    })
}

/// Norm weights differ by 1. Gemma 1 to 3 store w and multiply by 1 + w; their converters add the 1.
pub(super) fn offset_by_one(case: &Case<'_>) -> Result<Option<String>> {
    for (offset, text) in [
        (1.0, "it holds w + 1, the form of Gemma 1 to 3 in a GGUF; norms of Gemma 4 are stored unchanged"),
        (-1.0, "it holds w − 1; norms of Gemma 4 are stored unchanged"),
    ] {
        let near = |(x, y): (&f32, &f32)| (y - x - offset).abs() <= 0.01 * (1.0 + x.abs());
        if case.x.iter().flatten().zip(case.y.iter().flatten()).all(near) {
            return Ok(Some(text.to_owned()));
        }
    }
    Ok(None)
}

/// The bytes of each value are in the wrong order.
pub(super) fn byte_swapped(case: &Case<'_>) -> Result<Option<String>> {
    let dtype = case.pair.dtype();
    if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
        return Ok(None);
    }
    let size = dtype.block_bytes();
    let mut bytes = vec![0; case.pair.cols() * size];
    let mut values = vec![0.0; case.pair.cols()];
    for (&row, x) in case.rows.iter().zip(&case.x) {
        case.pair.artifact.read_rows(case.pair.index, row, &mut bytes)?;
        bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
        quant::decode(case.pair.simd, dtype, &bytes, &mut values);
        if !case.same(x, &values) {
            return Ok(None);
        }
    }
    Ok(Some("the bytes of its values are swapped (big-endian)".to_owned()))
}

/// All values have a constant factor or another sign.
pub(super) fn scaled(case: &Case<'_>) -> Result<Option<String>> {
    let factor = match case.errors.bad_rows {
        // some rows only: their own factor
        bad if bad > 0 && bad < case.pair.rows() => {
            let (xy, xx) =
                case.x.iter().flatten().zip(case.y.iter().flatten()).fold((0.0, 0.0), |(xy, xx), (x, y)| {
                    let (x, y) = (f64::from(*x), f64::from(*y));
                    (xy + x * y, xx + x * x)
                });
            if xx > 0.0 { xy / xx } else { 0.0 }
        }
        _ => case.errors.scale(),
    };
    // one value is always a multiple of another
    if factor == 0.0 || case.pair.cols() == 1 {
        return Ok(None);
    }
    let scaled =
        |x: &[f32], out: &mut Vec<f32>| out.extend(x.iter().map(|x| (f64::from(*x) * factor) as f32));
    if !case.explained(scaled) {
        return Ok(None);
    }
    Ok(Some(match factor {
        -1.01..=-0.99 => "its sign is flipped".to_owned(),
        _ => format!("its values are those of the base times {factor:.3}"),
    }))
}
