//! [`Lanes16`] with four NEON registers, and the decoders for which LLVM does not use them.
//!
//! # Safety
//! The intrinsics need NEON, which every aarch64 target with a standard library has.
#![allow(clippy::undocumented_unsafe_blocks, reason = "one reason for all of them, above")]

use std::arch::aarch64::*;
use std::array::from_fn;

use tensor::DType;

use super::lanes::{Lanes16, Widen};
use super::unpack::{self, Unpack};
use crate::float::f16_to_f32;

/// Decodes whole blocks. False for a type for which LLVM's code is as good.
pub(crate) fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) -> bool {
    match dtype {
        DType::Q4_0 => blocks::<unpack::Q4_0>(bytes, out),
        DType::Q6_K => blocks::<unpack::Q6K>(bytes, out),
        _ => return false,
    }
    true
}

fn blocks<U: Unpack>(bytes: &[u8], out: &mut [f32]) {
    for (bytes, out) in bytes.chunks_exact(U::BYTES).zip(out.chunks_exact_mut(U::LEN)) {
        let block = U::open::<Four>(bytes);
        for (n, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (out, lanes) in out.as_chunks_mut::<16>().0.iter_mut().zip(U::lanes::<Four>(&block, n)) {
                *out = lanes.store();
            }
        }
    }
}

/// Four registers: lanes 0 to 3, 4 to 7, 8 to 11 and 12 to 15.
#[derive(Clone, Copy)]
pub(super) struct Four([float32x4_t; 4]);

impl Lanes16 for Four {
    #[inline(always)]
    fn splat(value: f32) -> Four {
        Four([unsafe { vdupq_n_f32(value) }; 4])
    }
    #[inline(always)]
    fn load(values: &[f32; 16]) -> Four {
        let quads = values.as_chunks::<4>().0;
        Four(from_fn(|i| unsafe { vld1q_f32(quads[i].as_ptr()) }))
    }
    #[inline(always)]
    fn add(self, other: Four) -> Four {
        Four(from_fn(|i| unsafe { vaddq_f32(self.0[i], other.0[i]) }))
    }
    #[inline(always)]
    fn mul(self, other: Four) -> Four {
        Four(from_fn(|i| unsafe { vmulq_f32(self.0[i], other.0[i]) }))
    }
    #[inline(always)]
    fn mul_add(self, other: Four, sum: Four) -> Four {
        Four(from_fn(|i| unsafe { vfmaq_f32(sum.0[i], self.0[i], other.0[i]) }))
    }
    #[inline(always)]
    fn fold(self) -> f32 {
        let [a, b, c, d] = self.0;
        unsafe {
            let four = vaddq_f32(vaddq_f32(a, c), vaddq_f32(b, d));
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }
}

impl Widen for Four {
    type Nibble = Line;

    #[inline(always)]
    fn line(scale: Four, min: Four) -> Line {
        Line { zero: 0, scale, min }
    }
    #[inline(always)]
    fn centred(d: Four) -> Line {
        // the sign of a zero is that of the product
        Line { zero: 8, scale: d, min: Four::splat(0.0) }
    }
    #[inline(always)]
    fn store(self) -> [f32; 16] {
        let mut out = [0.0; 16];
        for (out, quad) in out.as_chunks_mut::<4>().0.iter_mut().zip(self.0) {
            unsafe { vst1q_f32(out.as_mut_ptr(), quad) }
        }
        out
    }
    /// Does nothing: `prfm` has no stable intrinsic.
    #[inline(always)]
    fn prefetch(_: *const u8) {}
    #[inline(always)]
    fn half(bits: [u8; 2]) -> Four {
        Four::splat(f16_to_f32(u16::from_le_bytes(bits)))
    }
    #[inline(always)]
    fn signed(codes: &[u8; 16]) -> Four {
        unsafe { widen(vld1q_s8(codes.as_ptr().cast())) }
    }
    #[inline(always)]
    fn low_nibbles(codes: &[u8; 16], line: Line) -> Four {
        unsafe { line.values(vandq_u8(vld1q_u8(codes.as_ptr()), vdupq_n_u8(15))) }
    }
    #[inline(always)]
    fn high_nibbles(codes: &[u8; 16], line: Line) -> Four {
        unsafe { line.values(vshrq_n_u8::<4>(vld1q_u8(codes.as_ptr()))) }
    }
    #[inline(always)]
    fn f16(values: &[u8; 32]) -> Four {
        // the conversion in hardware has no stable intrinsic in the oldest toolchain that is supported
        let words = values.as_chunks::<2>().0;
        Four::load(&from_fn(|i| f16_to_f32(u16::from_le_bytes(words[i]))))
    }
    #[inline(always)]
    fn bf16(values: &[u8; 32]) -> Four {
        let quads = values.as_chunks::<8>().0;
        Four(from_fn(|i| unsafe {
            let words = vmovl_u16(vld1_u16(quads[i].as_ptr().cast()));
            vreinterpretq_f32_u32(vshlq_n_u32::<16>(words))
        }))
    }
}

/// Values `scale · (code − zero) − min` of 4-bit codes.
#[derive(Clone, Copy)]
pub(super) struct Line {
    zero: i8,
    scale: Four,
    min: Four,
}

impl Line {
    #[inline(always)]
    unsafe fn values(self, codes: uint8x16_t) -> Four {
        unsafe {
            let codes = vsubq_s8(vreinterpretq_s8_u8(codes), vdupq_n_s8(self.zero));
            let scaled = widen(codes).mul(self.scale);
            Four(from_fn(|i| vsubq_f32(scaled.0[i], self.min.0[i])))
        }
    }
}

#[inline(always)]
unsafe fn widen(codes: int8x16_t) -> Four {
    unsafe {
        let (low, high) = (vmovl_s8(vget_low_s8(codes)), vmovl_high_s8(codes));
        let [a, b] = [vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low)];
        let [c, d] = [vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)];
        Four([vcvtq_f32_s32(a), vcvtq_f32_s32(b), vcvtq_f32_s32(c), vcvtq_f32_s32(d)])
    }
}
