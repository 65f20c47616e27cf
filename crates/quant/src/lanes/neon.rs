//! [`Lanes`] over a NEON register.
//!
//! # Safety
//! The intrinsics need NEON, which every aarch64 target with a standard library has.
#![allow(clippy::undocumented_unsafe_blocks, reason = "one reason for all of them, above")]

use std::arch::aarch64::*;
use std::ops::{Add, BitAnd, Div, Mul, Sub};

use super::Lanes;

/// Four lanes.
#[derive(Clone, Copy)]
pub(crate) struct X4(float32x4_t);

/// Each lane has all bits set, or none.
#[derive(Clone, Copy)]
pub(crate) struct Mask4(uint32x4_t);

impl BitAnd for Mask4 {
    type Output = Mask4;
    #[inline(always)]
    fn bitand(self, other: Mask4) -> Mask4 {
        Mask4(unsafe { vandq_u32(self.0, other.0) })
    }
}

macro_rules! operators {
    ($($op:ident $function:ident $intrinsic:ident;)*) => {$(
        impl $op for X4 {
            type Output = X4;
            #[inline(always)]
            fn $function(self, other: X4) -> X4 {
                X4(unsafe { $intrinsic(self.0, other.0) })
            }
        }
    )*};
}
operators! {
    Add add vaddq_f32;
    Sub sub vsubq_f32;
    Mul mul vmulq_f32;
    Div div vdivq_f32;
}

impl Lanes for X4 {
    type Mask = Mask4;
    const N: usize = 4;

    #[inline(always)]
    fn splat(value: f32) -> X4 {
        X4(unsafe { vdupq_n_f32(value) })
    }
    #[inline(always)]
    fn load(values: &[f32]) -> X4 {
        let values = &values[..Self::N];
        X4(unsafe { vld1q_f32(values.as_ptr()) })
    }
    #[inline(always)]
    fn store(self, values: &mut [f32]) {
        let values = &mut values[..Self::N];
        unsafe { vst1q_f32(values.as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    fn abs(self) -> X4 {
        X4(unsafe { vabsq_f32(self.0) })
    }
    #[inline(always)]
    fn sqrt(self) -> X4 {
        X4(unsafe { vsqrtq_f32(self.0) })
    }
    // `max` and `min` are the provided ones: NEON's own treat NaN in another way
    #[inline(always)]
    fn nearest_int(self) -> X4 {
        unsafe {
            let magic = vdupq_n_f32(12_582_912.0);
            let shifted = vreinterpretq_u32_f32(vaddq_f32(self.0, magic));
            let bits = vbslq_u32(vdupq_n_u32(0x007f_ffff), shifted, vdupq_n_u32(0x4b00_0000));
            X4(vsubq_f32(vreinterpretq_f32_u32(bits), magic))
        }
    }
    #[inline(always)]
    fn gt(self, other: X4) -> Mask4 {
        Mask4(unsafe { vcgtq_f32(self.0, other.0) })
    }
    #[inline(always)]
    fn eq(self, other: X4) -> Mask4 {
        Mask4(unsafe { vceqq_f32(self.0, other.0) })
    }
    #[inline(always)]
    fn select(mask: Mask4, yes: X4, no: X4) -> X4 {
        X4(unsafe { vbslq_f32(mask.0, yes.0, no.0) })
    }
    #[inline(always)]
    fn any(mask: Mask4) -> bool {
        unsafe { vmaxvq_u32(mask.0) != 0 }
    }
    #[inline(always)]
    fn transpose<const K: usize>(groups: &[[f32; K]]) -> [X4; K] {
        const { assert!(K.is_multiple_of(4)) };
        let mut out = [X4::splat(0.0); K];
        for (n, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let mut rows = [X4::splat(0.0); 4];
            for (row, group) in rows.iter_mut().zip(groups) {
                *row = X4::load(&group[4 * n..]);
            }
            *out = transpose_square(rows);
        }
        out
    }
}

#[inline(always)]
fn transpose_square([a, b, c, d]: [X4; 4]) -> [X4; 4] {
    unsafe {
        // columns 0 and 2, 1 and 3, of two rows
        let even = [vtrn1q_f32(a.0, b.0), vtrn1q_f32(c.0, d.0)].map(|pair| vreinterpretq_f64_f32(pair));
        let odd = [vtrn2q_f32(a.0, b.0), vtrn2q_f32(c.0, d.0)].map(|pair| vreinterpretq_f64_f32(pair));
        let low = |[ab, cd]: [float64x2_t; 2]| X4(vreinterpretq_f32_f64(vtrn1q_f64(ab, cd)));
        let high = |[ab, cd]: [float64x2_t; 2]| X4(vreinterpretq_f32_f64(vtrn2q_f64(ab, cd)));
        [low(even), low(odd), high(even), high(odd)]
    }
}
