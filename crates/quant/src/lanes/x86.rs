//! [`Lanes`] over AVX2 and AVX-512 registers.
//!
//! # Safety
//! The intrinsics need their CPU feature. Values of [`X8`] and [`X16`] are only created below the two entry points of
//! `types` that enable the feature, which are called only if [`Simd::is_available`](crate::Simd::is_available). Every
//! method is `#[inline(always)]`, so it is compiled as part of them, with the feature.
#![allow(clippy::undocumented_unsafe_blocks, reason = "one reason for all of them, above")]

use std::arch::x86_64::*;
use std::ops::{Add, BitAnd, Div, Mul, Sub};

use super::Lanes;

/// Eight lanes, AVX2.
#[derive(Clone, Copy)]
pub(crate) struct X8(__m256);

/// Sixteen lanes, AVX-512.
#[derive(Clone, Copy)]
pub(crate) struct X16(__m512);

macro_rules! operators {
    ($($lanes:ident $op:ident $function:ident $intrinsic:ident;)*) => {$(
        impl $op for $lanes {
            type Output = $lanes;
            #[inline(always)]
            fn $function(self, other: $lanes) -> $lanes {
                $lanes(unsafe { $intrinsic(self.0, other.0) })
            }
        }
    )*};
}
operators! {
    X8 Add add _mm256_add_ps;
    X8 Sub sub _mm256_sub_ps;
    X8 Mul mul _mm256_mul_ps;
    X8 Div div _mm256_div_ps;
    X8 BitAnd bitand _mm256_and_ps;
    X16 Add add _mm512_add_ps;
    X16 Sub sub _mm512_sub_ps;
    X16 Mul mul _mm512_mul_ps;
    X16 Div div _mm512_div_ps;
}

impl Lanes for X8 {
    /// Each lane has all bits set, or none.
    type Mask = X8;
    const N: usize = 8;

    #[inline(always)]
    fn splat(value: f32) -> X8 {
        X8(unsafe { _mm256_set1_ps(value) })
    }
    #[inline(always)]
    fn load(values: &[f32]) -> X8 {
        let values = &values[..Self::N];
        X8(unsafe { _mm256_loadu_ps(values.as_ptr()) })
    }
    #[inline(always)]
    fn store(self, values: &mut [f32]) {
        let values = &mut values[..Self::N];
        unsafe { _mm256_storeu_ps(values.as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    fn abs(self) -> X8 {
        X8(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
    }
    #[inline(always)]
    fn sqrt(self) -> X8 {
        X8(unsafe { _mm256_sqrt_ps(self.0) })
    }
    #[inline(always)]
    fn max(self, other: X8) -> X8 {
        X8(unsafe { _mm256_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn min(self, other: X8) -> X8 {
        X8(unsafe { _mm256_min_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn nearest_int(self) -> X8 {
        unsafe {
            let magic = _mm256_set1_ps(12_582_912.0);
            let low = _mm256_castsi256_ps(_mm256_set1_epi32(0x007f_ffff));
            let high = _mm256_castsi256_ps(_mm256_set1_epi32(0x4b00_0000));
            let shifted = _mm256_or_ps(_mm256_and_ps(_mm256_add_ps(self.0, magic), low), high);
            X8(_mm256_sub_ps(shifted, magic))
        }
    }
    #[inline(always)]
    fn gt(self, other: X8) -> X8 {
        X8(unsafe { _mm256_cmp_ps::<_CMP_GT_OQ>(self.0, other.0) })
    }
    #[inline(always)]
    fn eq(self, other: X8) -> X8 {
        X8(unsafe { _mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, other.0) })
    }
    #[inline(always)]
    fn select(mask: X8, yes: X8, no: X8) -> X8 {
        X8(unsafe { _mm256_blendv_ps(no.0, yes.0, mask.0) })
    }
    #[inline(always)]
    fn any(mask: X8) -> bool {
        unsafe { _mm256_movemask_ps(mask.0) != 0 }
    }
}

impl Lanes for X16 {
    type Mask = __mmask16;
    const N: usize = 16;

    #[inline(always)]
    fn splat(value: f32) -> X16 {
        X16(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    fn load(values: &[f32]) -> X16 {
        let values = &values[..Self::N];
        X16(unsafe { _mm512_loadu_ps(values.as_ptr()) })
    }
    #[inline(always)]
    fn store(self, values: &mut [f32]) {
        let values = &mut values[..Self::N];
        unsafe { _mm512_storeu_ps(values.as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    fn abs(self) -> X16 {
        X16(unsafe { _mm512_abs_ps(self.0) })
    }
    #[inline(always)]
    fn sqrt(self) -> X16 {
        X16(unsafe { _mm512_sqrt_ps(self.0) })
    }
    #[inline(always)]
    fn max(self, other: X16) -> X16 {
        X16(unsafe { _mm512_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn min(self, other: X16) -> X16 {
        X16(unsafe { _mm512_min_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn nearest_int(self) -> X16 {
        unsafe {
            let magic = _mm512_set1_ps(12_582_912.0);
            let (low, high) = (_mm512_set1_epi32(0x007f_ffff), _mm512_set1_epi32(0x4b00_0000));
            let shifted = _mm512_castps_si512(_mm512_add_ps(self.0, magic));
            let shifted = _mm512_or_si512(_mm512_and_si512(shifted, low), high);
            X16(_mm512_sub_ps(_mm512_castsi512_ps(shifted), magic))
        }
    }
    #[inline(always)]
    fn gt(self, other: X16) -> __mmask16 {
        unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, other.0) }
    }
    #[inline(always)]
    fn eq(self, other: X16) -> __mmask16 {
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, other.0) }
    }
    #[inline(always)]
    fn select(mask: __mmask16, yes: X16, no: X16) -> X16 {
        X16(unsafe { _mm512_mask_blend_ps(mask, no.0, yes.0) })
    }
    #[inline(always)]
    fn any(mask: __mmask16) -> bool {
        mask != 0
    }
    /// Transposes with shuffles; LLVM compiles the generic version to sixteen slow gathers.
    #[inline(always)]
    fn transpose<const K: usize>(groups: &[[f32; K]]) -> [X16; K] {
        const { assert!(K.is_multiple_of(16)) };
        let mut out = [X16::splat(0.0); K];
        for (n, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let mut rows = [X16::splat(0.0); 16];
            for (row, group) in rows.iter_mut().zip(groups) {
                *row = X16::load(&group[16 * n..]);
            }
            *out = transpose_square(rows);
        }
        out
    }
}

/// Transposes 16 × 16 values in four rounds.
#[inline(always)]
fn transpose_square(rows: [X16; 16]) -> [X16; 16] {
    let (mut quads, mut out) = (rows, rows);
    // Columns of four rows: part b of quads[4·i + c] becomes column 4·b + c of rows 4·i ‥ 4·i + 3.
    for i in (0..16).step_by(4) {
        let [a, b, c, d] = [rows[i].0, rows[i + 1].0, rows[i + 2].0, rows[i + 3].0];
        unsafe {
            let low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
            let high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
            let low_b = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
            let high_b = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
            quads[i] = X16(_mm512_castpd_ps(_mm512_unpacklo_pd(low, low_b)));
            quads[i + 1] = X16(_mm512_castpd_ps(_mm512_unpackhi_pd(low, low_b)));
            quads[i + 2] = X16(_mm512_castpd_ps(_mm512_unpacklo_pd(high, high_b)));
            quads[i + 3] = X16(_mm512_castpd_ps(_mm512_unpackhi_pd(high, high_b)));
        }
    }
    // Then the parts, four by four.
    for i in 0..4 {
        let [a, b, c, d] = [quads[i].0, quads[i + 4].0, quads[i + 8].0, quads[i + 12].0];
        unsafe {
            let (even, odd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
            let (even_b, odd_b) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
            out[i] = X16(_mm512_shuffle_f32x4::<0x88>(even, even_b));
            out[i + 4] = X16(_mm512_shuffle_f32x4::<0x88>(odd, odd_b));
            out[i + 8] = X16(_mm512_shuffle_f32x4::<0xdd>(even, even_b));
            out[i + 12] = X16(_mm512_shuffle_f32x4::<0xdd>(odd, odd_b));
        }
    }
    out
}
