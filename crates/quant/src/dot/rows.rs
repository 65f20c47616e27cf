//! The rows of a [`Job`], whose weights go from their codes to their products in registers.

use tensor::DType;

use super::lanes::Widen;
use super::unpack::{self, Unpack};
use super::{Job, Sums};

/// Computes by the type; a type without [`Unpack`] by the definition.
#[inline(always)]
pub(super) fn by_type<W: Widen, const V: usize>(job: &Job<'_>, y: &mut [f32]) {
    match job.codec.dtype() {
        DType::Q4_0 => rows::<W, unpack::Q4_0, V>(job, y),
        DType::Q8_0 => rows::<W, unpack::Q8_0, V>(job, y),
        DType::Q4_K => rows::<W, unpack::Q4K, V>(job, y),
        DType::Q6_K => rows::<W, unpack::Q6K, V>(job, y),
        DType::F16 => rows::<W, unpack::F16, V>(job, y),
        DType::BF16 => rows::<W, unpack::Bf16, V>(job, y),
        _ => job.decoded::<W, V>(y),
    }
}

/// Bytes of a cache line.
const CACHE_LINE: usize = 64;
/// Distance in bytes at which stored weights are requested from memory. They are used once, so they come from there; the prefetcher
/// of the processor ends at each page of 4 KiB.
const AHEAD: usize = 3 * 1024;

#[inline(always)]
fn rows<W: Widen, U: Unpack, const V: usize>(job: &Job<'_>, y: &mut [f32]) {
    for (row, y) in job.rows.chunks_exact(job.row_bytes).zip(y.as_chunks_mut::<V>().0) {
        let mut sums = Sums::<W, V>::new();
        let blocks = row.chunks_exact(U::BYTES);
        let rest = blocks.remainder();
        for (first, bytes) in (0..).step_by(U::LEN).zip(blocks) {
            for line in (0..U::BYTES).step_by(CACHE_LINE) {
                W::prefetch(bytes.as_ptr().wrapping_add(AHEAD + line));
            }
            let block = U::open::<W>(bytes);
            for n in 0..U::LEN / 32 {
                sums.add(U::lanes::<W>(&block, n), job.x, job.cols, first + 32 * n);
            }
        }
        // the plain types have values of two bytes
        if U::PLAIN && !rest.is_empty() {
            let mut bytes = [0; 64];
            bytes[..rest.len()].copy_from_slice(rest);
            let w = U::lanes::<W>(&U::open::<W>(&bytes), 0);
            sums.add_rest(w, job.x, job.cols, job.cols - rest.len() / 2);
        }
        *y = sums.fold();
    }
}
