//! Block codecs: rows of f32 to and from the types of GGUF files, with or without importance weights, and the 8-bit
//! floats of safetensors files, see [`scale_is_apart`].
//!
//! The bytes of GGUF's types equal those of llama.cpp's stock x86-64 build (ggml 0.25.3, `ggml-quants.c`), whatever the
//! vector width: every sum runs in ggml's order, because a vector lane is a block of its own
//! (see `lanes.rs`). Goldens made by that build hold every type to it, at every [`Simd`] level.
//!
//! A type is one file in `types/`, listed in one table there; the searches for good scales that types
//! share are in `search/`. This crate knows nothing of files, threads or models.

mod dot;
mod feedback;
mod float;
mod grid;
mod lanes;
mod search;
mod simd;
mod types;

pub use dot::{DOT_VECTORS, dot};
pub use feedback::{PANEL, Panel, feeds_back, round_panel};
pub use grid::{GridSurvey, RepackCounts, repack_q4_0, survey};
pub use simd::Simd;
use tensor::DType;
pub use types::sfp8::{sfp8_divide, sfp8_scale};

use types::{Rows, codec, f8_e4m3, sfp8};

/// Whether [`encode`] and [`decode`] know this type.
pub fn can_encode(dtype: DType) -> bool {
    codec(dtype).is_some()
}

/// Whether the numbers that [`encode`] takes and [`decode`] gives are weights only together with a scale that is stored
/// elsewhere (a tensor of its own, the head of a file): true for the 8-bit floats. To read such a type as if it were
/// like the others gives wrong weights.
pub fn scale_is_apart(dtype: DType) -> bool {
    matches!(dtype, DType::SFP8 | DType::F8_E4M3 | DType::F8_E5M2)
}

/// Encodes whole rows of `cols` values each.
///
/// `importance` holds `cols` weights (one an input column, all ≥ 0) that are shared by the rows. It steers the
/// search of the types that have a weighted one; the others ignore it, as ggml does.
/// `out` receives exactly the encoded bytes. Values should be finite, see [`first_beyond`]: others do no
/// harm but to their own block.
///
/// # Panics
/// When the sizes do not fit together, the type cannot be encoded or the CPU lacks `simd`:
/// mistakes of the caller, not of its input.
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

/// Decodes whole blocks; `out` receives exactly their values.
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

/// No block of this type can hold a larger value: for most, an f16 scale times the group scale and code of Q6_K, which
/// reach furthest. (Near the square root of `f32::MAX` their searches overflow and give blocks of zeros.)
/// A smaller value may still be too large: see [`invalid_block`]. Of the types whose [scale is apart](scale_is_apart)
/// it is the exact largest value: larger ones saturate.
pub fn largest(dtype: DType) -> f32 {
    match dtype {
        DType::MXFP4 => f32::MAX,
        DType::SFP8 => sfp8::LARGEST,
        DType::F8_E4M3 => f8_e4m3::LARGEST,
        dtype if dtype.is_quantized() => 65504.0 * 128.0 * 32.0,
        _ => f32::MAX,
    }
}

/// The largest magnitude; NaN if any value is, 0 of no values.
pub fn max_abs(x: &[f32]) -> f32 {
    // magnitudes are ordered as their bits, NaN last
    f32::from_bits(x.iter().fold(0, |most, v| most.max(v.to_bits() as i32 & i32::MAX)) as u32)
}

/// The index of the first value that is NaN or larger than `limit` in magnitude; with `f32::MAX` the first that is not
/// finite.
pub fn first_beyond(x: &[f32], limit: f32) -> Option<usize> {
    // magnitudes are ordered as their bits, NaN last
    let limit = limit.to_bits();
    float::first_bad(x, |v| v.abs().to_bits() > limit)
}

/// The index of the first block that cannot be right: a scale (or, in the plain types, a value) that is
/// infinite or NaN. What `ggml_validate_row_data` refuses; of SFP8, the byte that is reserved. Types without such
/// values have no invalid block.
///
/// # Panics
/// When `bytes` are not whole blocks of a type that [`can_encode`].
pub fn invalid_block(dtype: DType, bytes: &[u8]) -> Option<usize> {
    assert!(bytes.len().is_multiple_of(dtype.block_bytes()), "{} bytes are not whole {dtype}", bytes.len());
    codec(dtype)?.invalid_block(bytes)
}
