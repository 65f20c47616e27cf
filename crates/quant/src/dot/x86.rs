//! [`Lanes16`] with one AVX-512 register or two AVX2 registers, and the rows of a [`Job`] with them.
//!
//! # Safety
//! The intrinsics need their CPU feature. Values of [`One`] and [`Two`] are only created below the entry points
//! [`avx512`] and [`avx2`], which enable the feature and are called only on a CPU that has it. Every method is
//! `#[inline(always)]`, so it is compiled as part of them, with the feature.
#![allow(clippy::undocumented_unsafe_blocks, reason = "one reason for all of them, above")]

use std::arch::x86_64::*;

use super::Job;
use super::lanes::{Lanes16, Widen};
use super::rows::by_type;

/// # Safety
/// The CPU must have these parts of AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn avx512<const V: usize>(job: &Job<'_>, y: &mut [f32]) {
    by_type::<One, V>(job, y);
}

/// # Safety
/// The CPU must have AVX2, F16C and FMA.
#[target_feature(enable = "avx2,f16c,fma")]
pub(super) fn avx2<const V: usize>(job: &Job<'_>, y: &mut [f32]) {
    by_type::<Two, V>(job, y);
}

/// One AVX-512 register.
#[derive(Clone, Copy)]
struct One(__m512);

impl Lanes16 for One {
    #[inline(always)]
    fn splat(value: f32) -> One {
        One(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    fn load(values: &[f32; 16]) -> One {
        One(unsafe { _mm512_loadu_ps(values.as_ptr()) })
    }
    #[inline(always)]
    fn add(self, other: One) -> One {
        One(unsafe { _mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul(self, other: One) -> One {
        One(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    fn mul_add(self, other: One, sum: One) -> One {
        One(unsafe { _mm512_fmadd_ps(self.0, other.0, sum.0) })
    }
    #[inline(always)]
    fn fold(self) -> f32 {
        unsafe {
            fold_eight(_mm256_add_ps(_mm512_castps512_ps256(self.0), _mm512_extractf32x8_ps::<1>(self.0)))
        }
    }
}

impl Widen for One {
    /// A table of values: a permutation uses only the lowest four bits of a lane as index.
    type Nibble = __m512;

    #[inline(always)]
    fn line(scale: One, min: One) -> __m512 {
        unsafe {
            let codes = _mm512_setr_ps(0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.);
            _mm512_sub_ps(_mm512_mul_ps(scale.0, codes), min.0)
        }
    }
    #[inline(always)]
    fn centred(d: One) -> __m512 {
        unsafe {
            let codes =
                _mm512_setr_ps(-8., -7., -6., -5., -4., -3., -2., -1., 0., 1., 2., 3., 4., 5., 6., 7.);
            _mm512_mul_ps(codes, d.0)
        }
    }
    #[inline(always)]
    fn store(self) -> [f32; 16] {
        let mut out = [0.0; 16];
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), self.0) };
        out
    }
    #[inline(always)]
    fn prefetch(address: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[inline(always)]
    fn half(bits: [u8; 2]) -> One {
        One(unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(i16::from_le_bytes(bits))) })
    }
    #[inline(always)]
    fn signed(codes: &[u8; 16]) -> One {
        One(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(codes.as_ptr().cast()))) })
    }
    #[inline(always)]
    fn low_nibbles(codes: &[u8; 16], values: __m512) -> One {
        One(unsafe { _mm512_permutexvar_ps(bytes(codes), values) })
    }
    #[inline(always)]
    fn high_nibbles(codes: &[u8; 16], values: __m512) -> One {
        One(unsafe { _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(bytes(codes)), values) })
    }
    #[inline(always)]
    fn f16(values: &[u8; 32]) -> One {
        One(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(values.as_ptr().cast())) })
    }
    #[inline(always)]
    fn bf16(values: &[u8; 32]) -> One {
        let values = unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(values.as_ptr().cast())) };
        One(unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(values)) })
    }
}

#[inline(always)]
unsafe fn bytes(codes: &[u8; 16]) -> __m512i {
    unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.as_ptr().cast())) }
}

/// Two AVX2 registers: lanes 0 to 7, and 8 to 15.
#[derive(Clone, Copy)]
struct Two(__m256, __m256);

impl Lanes16 for Two {
    #[inline(always)]
    fn splat(value: f32) -> Two {
        let all = unsafe { _mm256_set1_ps(value) };
        Two(all, all)
    }
    #[inline(always)]
    fn load(values: &[f32; 16]) -> Two {
        let at = values.as_ptr();
        unsafe { Two(_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))) }
    }
    #[inline(always)]
    fn add(self, other: Two) -> Two {
        unsafe { Two(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
    }
    #[inline(always)]
    fn mul(self, other: Two) -> Two {
        unsafe { Two(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
    }
    #[inline(always)]
    fn mul_add(self, other: Two, sum: Two) -> Two {
        unsafe { Two(_mm256_fmadd_ps(self.0, other.0, sum.0), _mm256_fmadd_ps(self.1, other.1, sum.1)) }
    }
    #[inline(always)]
    fn fold(self) -> f32 {
        unsafe { fold_eight(_mm256_add_ps(self.0, self.1)) }
    }
}

impl Widen for Two {
    /// Scale and minimum.
    type Nibble = (Two, Two);

    #[inline(always)]
    fn line(scale: Two, min: Two) -> (Two, Two) {
        (scale, min)
    }
    #[inline(always)]
    fn centred(d: Two) -> (Two, Two) {
        (d, d.mul(Two::splat(8.0)))
    }
    #[inline(always)]
    fn store(self) -> [f32; 16] {
        let mut out = [0.0; 16];
        let at = out.as_mut_ptr();
        unsafe {
            _mm256_storeu_ps(at, self.0);
            _mm256_storeu_ps(at.add(8), self.1);
        }
        out
    }
    #[inline(always)]
    fn prefetch(address: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[inline(always)]
    fn half(bits: [u8; 2]) -> Two {
        let all = unsafe { _mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes(bits))) };
        Two(all, all)
    }
    #[inline(always)]
    fn signed(codes: &[u8; 16]) -> Two {
        unsafe {
            let codes = _mm_loadu_si128(codes.as_ptr().cast());
            Two(
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(codes, codes))),
            )
        }
    }
    #[inline(always)]
    fn low_nibbles(codes: &[u8; 16], values: (Two, Two)) -> Two {
        unsafe { on_line(_mm_loadu_si128(codes.as_ptr().cast()), values) }
    }
    #[inline(always)]
    fn high_nibbles(codes: &[u8; 16], values: (Two, Two)) -> Two {
        unsafe { on_line(_mm_srli_epi16::<4>(_mm_loadu_si128(codes.as_ptr().cast())), values) }
    }
    #[inline(always)]
    fn f16(values: &[u8; 32]) -> Two {
        let at = values.as_ptr().cast::<__m128i>();
        unsafe { Two(_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128(at.add(1)))) }
    }
    #[inline(always)]
    fn bf16(values: &[u8; 32]) -> Two {
        let at = values.as_ptr().cast::<__m128i>();
        unsafe { Two(upper_halves(_mm_loadu_si128(at)), upper_halves(_mm_loadu_si128(at.add(1)))) }
    }
}

/// The values of the low four bits of each byte.
#[inline(always)]
unsafe fn on_line(bytes: __m128i, (scale, min): (Two, Two)) -> Two {
    unsafe {
        let codes = _mm_and_si128(bytes, _mm_set1_epi8(15));
        let low = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(codes));
        let high = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_unpackhi_epi64(codes, codes)));
        let scaled = Two(low, high).mul(scale);
        Two(_mm256_sub_ps(scaled.0, min.0), _mm256_sub_ps(scaled.1, min.1))
    }
}

#[inline(always)]
unsafe fn upper_halves(words: __m128i) -> __m256 {
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(words))) }
}

/// The sum of eight lanes: 4 onto 4, 2 onto 2, 1 onto 1.
#[inline(always)]
unsafe fn fold_eight(eight: __m256) -> f32 {
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}
