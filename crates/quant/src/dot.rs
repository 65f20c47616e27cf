//! Dot products of f32 vectors with stored (quantized) rows, as needed to multiply one token with the weights.
//!
//! Definition: [`decode`](crate::decode) the row, and add `w[i] · x[i]` to lane `i mod 32` of sums that begin at 0,
//! with ascending `i`; then fold the lanes in halves (16 onto 16, 8 onto 8, …). Product and sum are one fused
//! multiply-add, which rounds once. So every level gives the same bits, for any distribution of rows among threads.
//!
//! [`Simd::Scalar`], and the baseline of x86, implement the definition, a few blocks at a time. With AVX2, AVX-512 and NEON
//! the types below have a faster path: a weight goes from its code to its product in registers, which is 4 to 9 times as
//! fast on x86, and for up to four vectors at once it is unpacked once. LLVM does not find this for plain loops: it widens
//! codes through the stack, a few at a time. (No closures in the loops of `rows.rs`, `unpack.rs` and `x86.rs`: they do not
//! inherit the enclosing CPU features.)
//!
//! Types that no recipe uses for large matrices have no fast path and follow the definition.

use tensor::DType;

use self::lanes::{Lanes16, Plain};
use crate::Simd;
use crate::types::{AnyCodec, codec};

mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod rows;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod unpack;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub(crate) use neon::decode;

/// Maximum number of vectors of [`dot`].
pub const DOT_VECTORS: usize = 4;

/// Number of values that are decoded at a time, on the path without unpacking in registers: a block of any type, or
/// several.
const DECODED: usize = 256;

/// `y[r, v] = Σ x[v] · row[r]`: `x` has vectors of `cols` values, `rows` has stored rows of `cols` values.
///
/// # Panics
/// If the sizes do not match, the number of vectors is 0 or more than [`DOT_VECTORS`], the type cannot be decoded or
/// the CPU lacks `simd`: errors of the caller, not of its input.
pub fn dot(simd: Simd, dtype: DType, cols: usize, rows: &[u8], x: &[f32], y: &mut [f32]) {
    let codec = codec(dtype).unwrap_or_else(|| panic!("{dtype} has no decoder"));
    assert!(simd.is_available(), "this CPU lacks {simd:?}");
    assert!(cols > 0 && cols.is_multiple_of(dtype.block_len()), "{cols} columns of {dtype}");
    let row_bytes = cols / dtype.block_len() * dtype.block_bytes();
    assert!(x.len().is_multiple_of(cols) && rows.len().is_multiple_of(row_bytes), "whole vectors and rows");
    assert_eq!(y.len(), rows.len() / row_bytes * (x.len() / cols), "a result for each row and vector");
    let job = Job { codec, simd, cols, row_bytes, rows, x };
    match x.len() / cols {
        1 => job.run::<1>(y),
        2 => job.run::<2>(y),
        3 => job.run::<3>(y),
        DOT_VECTORS => job.run::<DOT_VECTORS>(y),
        count => panic!("{count} vectors"),
    }
}

/// The arguments of [`dot`].
#[derive(Clone, Copy)]
struct Job<'a> {
    codec: &'static dyn AnyCodec,
    simd: Simd,
    cols: usize,
    row_bytes: usize,
    rows: &'a [u8],
    x: &'a [f32],
}

impl Job<'_> {
    fn run<const V: usize>(&self, y: &mut [f32]) {
        match self.simd {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the CPU has the level, see `dot`
            Simd::Avx512 => unsafe { x86::avx512::<V>(self, y) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above, and both features have been checked
            Simd::Avx2 if is_x86_feature_detected!("f16c") && is_x86_feature_detected!("fma") => unsafe {
                x86::avx2::<V>(self, y)
            },
            #[cfg(target_arch = "aarch64")]
            Simd::Baseline => rows::by_type::<neon::Four, V>(self, y),
            _ => self.decoded::<Plain, V>(y),
        }
    }

    /// Computes by the definition.
    #[inline(always)]
    fn decoded<L: Lanes16, const V: usize>(&self, y: &mut [f32]) {
        let dtype = self.codec.dtype();
        let bytes = DECODED / dtype.block_len() * dtype.block_bytes();
        let mut values = [0.0; DECODED];
        for (row, y) in self.rows.chunks_exact(self.row_bytes).zip(y.as_chunks_mut::<V>().0) {
            let mut sums = Sums::<L, V>::new();
            for (n, bytes) in row.chunks(bytes).enumerate() {
                let first = n * DECODED;
                let values = &mut values[..DECODED.min(self.cols - first)];
                self.codec.decode(self.simd, bytes, values);
                let (whole, rest) = values.as_chunks::<32>();
                for (n, w) in whole.iter().enumerate() {
                    sums.add(load(w), self.x, self.cols, first + 32 * n);
                }
                if !rest.is_empty() {
                    sums.add_rest(load(&padded(rest)), self.x, self.cols, self.cols - rest.len());
                }
            }
            *y = sums.fold();
        }
    }
}

/// 32 lanes of sums for each vector.
struct Sums<L, const V: usize>([[L; 2]; V]);

impl<L: Lanes16, const V: usize> Sums<L, V> {
    #[inline(always)]
    fn new() -> Self {
        Sums([[L::splat(0.0); 2]; V])
    }

    /// Adds the products of 32 weights with the values of each vector from `first` on.
    #[inline(always)]
    fn add(&mut self, w: [L; 2], x: &[f32], cols: usize, first: usize) {
        for (v, sums) in self.0.iter_mut().enumerate() {
            let x: &[f32; 32] = x[v * cols + first..].first_chunk().expect("as many values as weights");
            let [x0, x1] = load(x);
            *sums = [w[0].mul_add(x0, sums[0]), w[1].mul_add(x1, sums[1])];
        }
    }

    /// As [`Sums::add`] for the last weights of a row, fewer than 32: the padding zeros add nothing to a lane.
    #[inline(always)]
    fn add_rest(&mut self, w: [L; 2], x: &[f32], cols: usize, first: usize) {
        for (v, sums) in self.0.iter_mut().enumerate() {
            let [x0, x1] = load(&padded(&x[v * cols..][first..cols]));
            *sums = [w[0].mul_add(x0, sums[0]), w[1].mul_add(x1, sums[1])];
        }
    }

    #[inline(always)]
    fn fold(self) -> [f32; V] {
        let mut folded = [0.0; V];
        for (folded, [low, high]) in folded.iter_mut().zip(self.0) {
            *folded = low.add(high).fold();
        }
        folded
    }
}

#[inline(always)]
fn load<L: Lanes16>(values: &[f32; 32]) -> [L; 2] {
    let (halves, _) = values.as_chunks::<16>();
    [L::load(&halves[0]), L::load(&halves[1])]
}

/// Fewer than 32 items, padded with zeros.
#[inline(always)]
fn padded(items: &[f32]) -> [f32; 32] {
    let mut all = [0.0; 32];
    all[..items.len()].copy_from_slice(items);
    all
}
