//! Block codecs: convert rows of f32 to and from the types of GGUF files, with or without importance weights, and the
//! 8-bit floats of safetensors files, see [`scale_is_apart`]. [`Integers`] are the weights of TFLite models.
//!
//! ```
//! use quant::{Simd, decode, encode};
//! use tensor::DType;
//!
//! let row: Vec<f32> = (0..64).map(|i| (i as f32 - 32.0) / 100.0).collect();
//! let mut bytes = vec![0; 2 * DType::Q8_0.block_bytes()];
//! encode(Simd::detect(), DType::Q8_0, row.len(), &row, None, &mut bytes);
//!
//! let mut decoded = vec![0.0; row.len()];
//! decode(Simd::detect(), DType::Q8_0, &bytes, &mut decoded);
//! assert!(row.iter().zip(&decoded).all(|(x, y)| (x - y).abs() < 0.002));
//! ```
//!
//! The bytes of GGUF's types equal those of llama.cpp's stock x86-64 build (ggml 0.25.3, `ggml-quants.c`) at every
//! vector width: every sum runs in ggml's order, because each vector lane processes a block of its own (see
//! `lanes.rs`). Golden files made by that build test every type at every [`Simd`] level.
//!
//! Each type has a file in `types/` and a row in the table there; the scale searches that types share are in `search/`.
//! This crate knows nothing of files, threads or models.

mod dot;
mod feedback;
mod float;
mod grid;
mod integers;
mod lanes;
mod rows;
mod search;
mod simd;
mod types;

pub use dot::{DOT_VECTORS, dot};
pub use feedback::{PANEL, Panel, feeds_back, round_panel};
pub use grid::{GridSurvey, RepackCounts, grid_scales, repack_q4_0, survey};
pub use integers::{IntegerBits, IntegerScales, Integers, ZERO_BLOCK};
pub use rows::decode_rows;
pub use simd::Simd;
use tensor::DType;
pub use types::sfp8::{sfp8_divide, sfp8_scale};

use types::{Rows, codec, f8_e4m3, sfp8};

/// True if [`encode`] and [`decode`] support this type.
pub fn can_encode(dtype: DType) -> bool {
    codec(dtype).is_some()
}

/// True if the values of [`encode`] and [`decode`] become weights only with a scale that is stored elsewhere (a tensor
/// of its own, the header of a file): true for the 8-bit floats. Reading such a type without its scale gives wrong
/// weights.
pub fn scale_is_apart(dtype: DType) -> bool {
    matches!(dtype, DType::SFP8 | DType::F8_E4M3 | DType::F8_E5M2)
}

/// True if importance weights change the bytes of [`encode`]: false for Q8_0 and MXFP4, whose scale is that of the
/// largest weight (in ggml as here), for the 8-bit floats and for plain types.
pub fn uses_importance(dtype: DType) -> bool {
    dtype.is_quantized() && can_encode(dtype) && !matches!(dtype, DType::Q8_0 | DType::MXFP4)
}

/// Encodes whole rows of `cols` values each.
///
/// `importance` has `cols` weights (one an input column, all ≥ 0), shared by the rows. It steers the scale search of
/// types that [use it](uses_importance); the other types ignore it, as in ggml. `out` has exactly the size of the encoded
/// bytes. Values should be finite, see [`first_beyond`]: other values affect only their own block.
///
/// # Panics
/// If the sizes do not match, the type has no encoder or the CPU lacks `simd`: errors of the caller, not of its input.
pub fn encode(simd: Simd, dtype: DType, cols: usize, x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let codec = codec(dtype).unwrap_or_else(|| panic!("{dtype} has no encoder"));
    assert!(cols.is_multiple_of(dtype.block_len()), "{cols} columns are not whole blocks of {dtype}");
    assert!(cols > 0 && x.len().is_multiple_of(cols), "{} values are not whole rows of {cols}", x.len());
    assert_eq!(out.len(), x.len() / dtype.block_len() * dtype.block_bytes(), "bytes of the output");
    if let Some(weights) = importance {
        assert_eq!(weights.len(), cols, "one importance weight a column");
    }
    codec.encode(simd, &Rows { x, cols, importance }, out);
}

/// Decodes whole blocks; `out` has exactly the size of their values.
///
/// # Panics
/// As [`encode`].
pub fn decode(simd: Simd, dtype: DType, bytes: &[u8], out: &mut [f32]) {
    let codec = codec(dtype).unwrap_or_else(|| panic!("{dtype} has no decoder"));
    assert!(
        out.len().is_multiple_of(dtype.block_len()),
        "{} values are not whole blocks of {dtype}",
        out.len()
    );
    assert_eq!(bytes.len(), out.len() / dtype.block_len() * dtype.block_bytes(), "bytes of the input");
    codec.decode(simd, bytes, out);
}

/// An upper bound of the values of any block of this type: for most types, the largest f16 scale times the group scale
/// and code of Q6_K, which have the largest range. (Near the square root of `f32::MAX` the searches overflow and give
/// blocks of zeros.) A smaller value may still be too large: see [`invalid_block`]. For types whose [scale is
/// apart](scale_is_apart) it is the exact largest value: larger ones saturate.
pub fn largest(dtype: DType) -> f32 {
    match dtype {
        DType::MXFP4 => f32::MAX,
        DType::SFP8 => sfp8::LARGEST,
        DType::F8_E4M3 => f8_e4m3::LARGEST,
        dtype if dtype.is_quantized() => 65504.0 * 128.0 * 32.0,
        _ => f32::MAX,
    }
}

/// The largest magnitude; NaN if any value is NaN, 0 for no values.
pub fn max_abs(x: &[f32]) -> f32 {
    // magnitudes have the order of their bits, NaN last
    f32::from_bits(x.iter().fold(0, |most, v| most.max(v.to_bits() as i32 & i32::MAX)) as u32)
}

/// The index of the first value that is NaN or whose magnitude exceeds `limit`; with `f32::MAX`, the first that is not
/// finite.
pub fn first_beyond(x: &[f32], limit: f32) -> Option<usize> {
    // magnitudes have the order of their bits, NaN last
    let limit = limit.to_bits();
    float::first_bad(x, |v| v.abs().to_bits() > limit)
}

/// The index of the first invalid block: one with a scale (or, in the plain types, a value) that is infinite or NaN.
/// The same check as `ggml_validate_row_data`; for SFP8, the reserved byte. Types without such values have no invalid
/// block.
///
/// # Panics
/// If `bytes` are not whole blocks of a type that [`can_encode`].
pub fn invalid_block(dtype: DType, bytes: &[u8]) -> Option<usize> {
    assert!(bytes.len().is_multiple_of(dtype.block_bytes()), "{} bytes are not whole {dtype}", bytes.len());
    codec(dtype)?.invalid_block(bytes)
}
