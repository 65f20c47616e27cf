//! Quantization with error feedback (LDLQ): later values of a row compensate the quantization errors of earlier ones.
//!
//! Rows w become ŵ so that (ŵ − w)·H·(ŵ − w)ᵀ is small, where H, the Gram matrix of the inputs, says how errors
//! combine. With H = M·D·Mᵀ, M unit upper triangular and D diagonal, that is Σ Dᵢ·(ŵᵢ − tᵢ)² with
//! tᵢ = wᵢ − Σ_{j<i} (ŵⱼ − wⱼ)·Mⱼᵢ: each value is rounded to the level nearest to its *target* tᵢ, and its error,
//! weighted with Dᵢ, moves the targets after it. This is LDLQ (Chee et al., arXiv:2307.13304), which gives the codes of
//! GPTQ (arXiv:2210.17323).
//!
//! The best block scale depends on the codes, each of which moves the targets of the next ones. So scales are chosen by
//! trial: each [lane](crate::lanes) tries a candidate on a whole group, and the least Σ Dᵢ·(ŵᵢ − tᵢ)² wins
//! (`group.rs`). There are two kinds of types: blocks of 32 (`plain.rs`) and super-blocks (`nested.rs`), whose 16 or 8
//! groups share 16-bit scales that the ordinary search finds on the targets.
//!
//! All SIMD levels give the same results, because lanes are candidates and never mix.

mod group;
mod nested;
mod plain;

use tensor::DType;

use crate::Simd;
use crate::lanes::Lanes;
#[cfg(target_arch = "x86_64")]
use crate::lanes::{X8, X16};

/// Maximum number of values in a panel: one super-block.
pub const PANEL: usize = 256;

/// A segment of a row: whole blocks, at most [`PANEL`] values.
#[derive(Clone, Copy, Debug)]
pub struct Panel<'a> {
    /// The weights w.
    pub weights: &'a [f32],
    /// The targets t, given the errors of all values before the panel.
    pub targets: &'a [f32],
    /// M of the panel, row by row with stride [`PANEL`]: the factor from the error of value `i` to the target of value
    /// `j > i` is at `PANEL·i + j`. Only entries above the diagonal are read.
    pub feedback: &'a [f32],
    /// D: the weight of the squared distance of each value from its target.
    pub importance: &'a [f32],
    /// Scales to try beside the usual ones, one for each block of 32 values, with either sign; empty for none. Types with
    /// super-blocks or a minimum do not use them.
    pub scales: &'a [f32],
}

/// True if [`round_panel`] supports this type.
pub fn feeds_back(dtype: DType) -> bool {
    plain::Plain::of(dtype).is_some() || nested::Nested::of(dtype).is_some()
}

/// Quantizes a panel of a row: writes its bytes to `out`, and the decoded values to `values`.
///
/// # Panics
/// If the sizes do not match, the type is not one that [`feeds_back`] or the CPU lacks `simd`.
pub fn round_panel(simd: Simd, dtype: DType, panel: &Panel<'_>, out: &mut [u8], values: &mut [f32]) {
    let len = panel.weights.len();
    assert!(len <= PANEL && len.is_multiple_of(dtype.block_len()), "a panel of {len} values of {dtype}");
    assert!(panel.targets.len() == len && panel.importance.len() == len && values.len() == len);
    assert!(panel.scales.is_empty() || panel.scales.len() * 32 == len, "{} scales", panel.scales.len());
    assert!(panel.feedback.len() >= PANEL * len, "feedback among {len} values");
    assert_eq!(out.len(), len / dtype.block_len() * dtype.block_bytes(), "bytes of the output");
    assert!(simd.is_available(), "this CPU lacks {simd:?}");
    let kind = plain::Plain::of(dtype).map(Kind::Plain).or(nested::Nested::of(dtype).map(Kind::Nested));
    let kind = kind.unwrap_or_else(|| panic!("{dtype} is not rounded with feedback"));
    match simd {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the CPU has AVX2, see the assertion.
        Simd::Avx2 => unsafe { round_avx2(kind, panel, out, values) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the CPU has these parts of AVX-512, see the assertion.
        Simd::Avx512 => unsafe { round_avx512(kind, panel, out, values) },
        Simd::Scalar => round::<f32>(simd, kind, panel, out, values),
        _ => round::<crate::lanes::X4>(simd, kind, panel, out, values),
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Plain(&'static plain::Plain),
    Nested(&'static nested::Nested),
}

#[inline(always)]
fn round<V: Lanes>(simd: Simd, kind: Kind, panel: &Panel<'_>, out: &mut [u8], values: &mut [f32]) {
    match kind {
        Kind::Plain(plain) => plain.round::<V>(simd, panel, out, values),
        Kind::Nested(nested) => nested.round::<V>(simd, panel, out, values),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn round_avx2(kind: Kind, panel: &Panel<'_>, out: &mut [u8], values: &mut [f32]) {
    round::<X8>(Simd::Avx2, kind, panel, out, values);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn round_avx512(kind: Kind, panel: &Panel<'_>, out: &mut [u8], values: &mut [f32]) {
    round::<X16>(Simd::Avx512, kind, panel, out, values);
}
