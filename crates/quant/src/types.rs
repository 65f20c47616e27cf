//! The codecs, one file each, and the table that lists them.
//!
//! To add a type: write its file with a unit struct that implements [`Codec`], and add it to [`CODECS`] (and to
//! `tensor::DType`, which describes its block). Layouts of ggml's types: its `ggml-common.h`; algorithms:
//! `quantize_row_*` and `dequantize_row_*` in `ggml-quants.c`. The other types name their source.

use tensor::DType;

use crate::Simd;
use crate::float::first_bad;
use crate::lanes::{Lanes, X4};
#[cfg(target_arch = "x86_64")]
use crate::lanes::{X8, X16};

mod bf16;
mod f16;
mod f32;
pub(crate) mod f8_e4m3;
pub(crate) mod iq4_nl;
mod iq4_xs;
mod mxfp4;
mod q2_k;
mod q3_k;
pub(crate) mod q4_0;
pub(crate) mod q4_1;
pub(crate) mod q4_k;
pub(crate) mod q5_0;
pub(crate) mod q5_1;
pub(crate) mod q5_k;
pub(crate) mod q6_k;
pub(crate) mod q8_0;
pub(crate) mod sfp8;

mod blocks;
pub(crate) mod iq4;
pub(crate) mod superblocks;

static CODECS: [&dyn AnyCodec; 18] = [
    &f32::F32,
    &f16::F16,
    &bf16::Bf16,
    &q4_0::Q4_0,
    &q4_1::Q4_1,
    &q5_0::Q5_0,
    &q5_1::Q5_1,
    &q8_0::Q8_0,
    &q2_k::Q2K,
    &q3_k::Q3K,
    &q4_k::Q4K,
    &q5_k::Q5K,
    &q6_k::Q6K,
    &iq4_nl::Iq4Nl,
    &iq4_xs::Iq4Xs,
    &mxfp4::Mxfp4,
    &f8_e4m3::F8E4M3,
    &sfp8::Sfp8,
];

/// The codec of a type, if there is one.
pub(crate) fn codec(dtype: DType) -> Option<&'static dyn AnyCodec> {
    CODECS.into_iter().find(|codec| codec.dtype() == dtype)
}

/// Rows to encode.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// Whole rows that consist of whole blocks.
    pub(crate) x: &'a [f32],
    /// Number of values in a row.
    pub(crate) cols: usize,
    /// One weight for each column.
    pub(crate) importance: Option<&'a [f32]>,
}

/// Consecutive blocks that may be encoded together, and the weights of their values.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) importance: Option<&'a [f32]>,
}

impl<'a> Rows<'a> {
    /// Without importance blocks are independent: one run has all values. With importance each row is a run, because
    /// its weights begin anew.
    #[inline(always)]
    pub(crate) fn runs(&self) -> impl Iterator<Item = Run<'a>> {
        let run = if self.importance.is_some() { self.cols } else { self.x.len() };
        let importance = self.importance;
        self.x.chunks(run.max(1)).map(move |x| Run { x, importance })
    }
}

/// Encoder and decoder of a type.
///
/// `encode` and `decode` must be `#[inline(always)]`, as must be the functions that they call in loops: they are
/// compiled once for each [`Simd`] level, inside a function that enables it.
pub(crate) trait Codec: Sync {
    const DTYPE: DType;

    fn encode<V: Lanes>(rows: &Rows<'_>, out: &mut [u8]);

    fn decode(bytes: &[u8], out: &mut [f32]);

    /// The first block with a scale or value that is not finite.
    fn invalid_block(bytes: &[u8]) -> Option<usize>;
}

/// The first block with a non-finite value among the f16 at the byte offsets `at`.
pub(crate) fn invalid_f16<const BYTES: usize>(bytes: &[u8], at: &[usize]) -> Option<usize> {
    first_bad(bytes.as_chunks::<BYTES>().0, |block: [u8; BYTES]| {
        at.iter().any(|&at| block[at + 1] & 0x7c == 0x7c)
    })
}

/// A [`Codec`] with the SIMD level as an argument.
pub(crate) trait AnyCodec: Sync {
    fn dtype(&self) -> DType;
    /// Panics if the CPU lacks the level.
    fn encode(&self, simd: Simd, rows: &Rows<'_>, out: &mut [u8]);
    /// Panics if the CPU lacks the level.
    fn decode(&self, simd: Simd, bytes: &[u8], out: &mut [f32]);
    fn invalid_block(&self, bytes: &[u8]) -> Option<usize>;
}

impl<C: Codec> AnyCodec for C {
    fn dtype(&self) -> DType {
        C::DTYPE
    }

    fn encode(&self, simd: Simd, rows: &Rows<'_>, out: &mut [u8]) {
        assert!(simd.is_available(), "this CPU lacks {simd:?}");
        match simd {
            Simd::Scalar => C::encode::<f32>(rows, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the CPU has AVX2, see the assertion.
            Simd::Avx2 => unsafe { encode_avx2::<C>(rows, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the CPU has these parts of AVX-512, see the assertion.
            Simd::Avx512 => unsafe { encode_avx512::<C>(rows, out) },
            _ => C::encode::<X4>(rows, out),
        }
    }

    fn decode(&self, simd: Simd, bytes: &[u8], out: &mut [f32]) {
        assert!(simd.is_available(), "this CPU lacks {simd:?}");
        // the compiler's AVX-512 code for blocks is up to 7 times slower than its AVX2 code (`cargo bench -p xtask`)
        let simd = if C::DTYPE.block_len() > 1 { simd.min(Simd::Avx2) } else { simd };
        match simd {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the CPU has AVX2, see the assertion; every CPU with AVX-512 has it.
            Simd::Avx2 => unsafe { decode_avx2::<C>(bytes, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the CPU has these parts of AVX-512, see the assertion.
            Simd::Avx512 => unsafe { decode_avx512::<C>(bytes, out) },
            #[cfg(target_arch = "aarch64")]
            Simd::Baseline if crate::dot::decode(C::DTYPE, bytes, out) => {}
            _ => C::decode(bytes, out),
        }
    }

    fn invalid_block(&self, bytes: &[u8]) -> Option<usize> {
        C::invalid_block(bytes)
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn encode_avx2<C: Codec>(rows: &Rows<'_>, out: &mut [u8]) {
    C::encode::<X8>(rows, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn encode_avx512<C: Codec>(rows: &Rows<'_>, out: &mut [u8]) {
    C::encode::<X16>(rows, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn decode_avx2<C: Codec>(bytes: &[u8], out: &mut [f32]) {
    C::decode(bytes, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn decode_avx512<C: Codec>(bytes: &[u8], out: &mut [f32]) {
    C::decode(bytes, out);
}
