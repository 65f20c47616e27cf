//! Vectors of f32 with one lane for each of several blocks, used by the scale searches.
//!
//! A search is written once, over [`Lanes`]; with `f32` itself as the vector it is the plain scalar algorithm. No
//! operation mixes lanes or is fused with another, so each lane rounds exactly as ggml does.
//!
//! Most levels are written with intrinsics because LLVM does not generate that code: on x86 its code for the Q6_K search
//! over `[f32; 16]` and `[f32; 8]` was three and two times slower, and for aarch64 it adds and divides lane by lane. For
//! `[f32; 4]` on x86 LLVM does well, so that level is plain Rust.

use std::ops::{Add, BitAnd, Div, Mul, Sub};

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(not(target_arch = "aarch64"))]
mod plain;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub(crate) use neon::X4;
#[cfg(not(target_arch = "aarch64"))]
pub(crate) use plain::X4;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{X8, X16};

/// Number of lanes of the widest level.
pub(crate) const MAX_LANES: usize = 16;

/// A vector of `N` lanes.
pub(crate) trait Lanes:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// A boolean for each lane.
    type Mask: Copy + BitAnd<Output = Self::Mask>;
    /// Number of lanes, a divisor of [`MAX_LANES`].
    const N: usize;

    fn splat(value: f32) -> Self;
    /// Loads the first `N` values.
    fn load(values: &[f32]) -> Self;
    /// Stores to the first `N` values.
    fn store(self, values: &mut [f32]);
    fn abs(self) -> Self;
    fn sqrt(self) -> Self;
    /// `if self > other { self } else { other }`
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self::select(self.gt(other), self, other)
    }
    /// `if self < other { self } else { other }`
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self::select(other.gt(self), self, other)
    }
    /// [`nearest_int`](crate::float::nearest_int), as a float.
    fn nearest_int(self) -> Self;
    fn gt(self, other: Self) -> Self::Mask;
    fn eq(self, other: Self) -> Self::Mask;
    /// `yes` where the mask is set, else `no`.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
    /// True if any lane is set.
    fn any(mask: Self::Mask) -> bool;

    /// Puts value `i` of up to `N` groups into the lanes of vector `i`; lanes without a group are zero.
    #[inline(always)]
    fn transpose<const K: usize>(groups: &[[f32; K]]) -> [Self; K] {
        let mut columns = [[0.0; MAX_LANES]; K];
        for (lane, group) in groups.iter().take(Self::N).enumerate() {
            for (column, &value) in columns.iter_mut().zip(group) {
                column[lane] = value;
            }
        }
        let mut out = [Self::splat(0.0); K];
        for (vector, column) in out.iter_mut().zip(&columns) {
            *vector = Self::load(column);
        }
        out
    }
}

impl Lanes for f32 {
    type Mask = bool;
    const N: usize = 1;

    #[inline(always)]
    fn splat(value: f32) -> f32 {
        value
    }
    #[inline(always)]
    fn load(values: &[f32]) -> f32 {
        values[0]
    }
    #[inline(always)]
    fn store(self, values: &mut [f32]) {
        values[0] = self;
    }
    #[inline(always)]
    fn abs(self) -> f32 {
        self.abs()
    }
    #[inline(always)]
    fn sqrt(self) -> f32 {
        self.sqrt()
    }
    #[inline(always)]
    fn nearest_int(self) -> f32 {
        crate::float::nearest_int(self) as f32
    }
    #[inline(always)]
    fn gt(self, other: f32) -> bool {
        self > other
    }
    #[inline(always)]
    fn eq(self, other: f32) -> bool {
        self == other
    }
    #[inline(always)]
    fn select(mask: bool, yes: f32, no: f32) -> f32 {
        if mask { yes } else { no }
    }
    #[inline(always)]
    fn any(mask: bool) -> bool {
        mask
    }
}
