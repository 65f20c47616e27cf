//! Scales of 8-bit floats: their computation, and the division of the weights.
//!
//! - **Per row** (FP8): in BF16 throughout, as compressed-tensors computes on BF16 weights
//!   (`quantization/utils/helpers.py`, `calculate_qparams`; `quantization/lifecycle/forward.py`): the scale is the
//!   row's largest magnitude over the type's, rounded; a weight divided by its scale is rounded again before it is
//!   encoded.
//! - **Per tensor** (SFP8): gemma.cpp's, see `quant::sfp8_scale`. It is 1 for most tensors, so tensors are encoded
//!   with 1 while the checkpoint is read, and the few with another scale are encoded a second time.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use quant::Simd;
use tensor::DType;

/// `torch.finfo(torch.bfloat16).eps`: the scale of a row of zeros.
const SCALE_OF_ZEROS: f32 = 1.0 / 128.0;

/// The largest magnitude of a tensor, collected over its blocks.
#[derive(Debug)]
pub(crate) struct Largest {
    rows_left: AtomicU64,
    /// Bits of a non-negative float, which have the same order as the float.
    bits: AtomicU32,
}

impl Largest {
    pub(crate) fn new(rows: u64) -> Largest {
        Largest { rows_left: AtomicU64::new(rows), bits: AtomicU32::new(0) }
    }

    /// The largest magnitude so far.
    pub(crate) fn so_far(&self) -> f32 {
        f32::from_bits(self.bits.load(Ordering::Acquire))
    }

    /// Adds the largest magnitude of some rows. Returns that of the tensor from the call that completes the rows,
    /// else `None`.
    pub(crate) fn add(&self, rows: u64, largest: f32) -> Option<f32> {
        self.bits.fetch_max(largest.to_bits(), Ordering::AcqRel);
        let left = self.rows_left.fetch_sub(rows, Ordering::AcqRel);
        (left == rows).then(|| self.so_far())
    }
}

/// Buffers for weights divided by their scales.
#[derive(Default)]
pub(crate) struct Divided {
    pub(crate) values: Vec<f32>,
    scales: Vec<f32>,
    narrow: Vec<u8>,
    /// The encoded scales.
    pub(crate) scale_bytes: Vec<u8>,
}

impl Divided {
    /// Divides each row of `cols` BF16 weights by its own scale, for `dtype`.
    pub(crate) fn by_rows(&mut self, simd: Simd, dtype: DType, cols: usize, weights: &[f32]) {
        let largest = quant::largest(dtype);
        self.scales.clear();
        self.scales.extend(weights.chunks_exact(cols).map(|row| quant::max_abs(row) / largest));
        let count = self.scales.len();
        self.scale_bytes.resize(2 * count, 0);
        round(simd, &mut self.scales, &mut self.scale_bytes);
        if self.scales.contains(&0.0) {
            self.scales.iter_mut().filter(|s| **s == 0.0).for_each(|s| *s = SCALE_OF_ZEROS);
            round(simd, &mut self.scales, &mut self.scale_bytes);
        }
        self.values.resize(weights.len(), 0.0);
        let rows = weights.chunks_exact(cols).zip(&self.scales);
        for (out, (row, scale)) in self.values.chunks_exact_mut(cols).zip(rows) {
            out.iter_mut().zip(row).for_each(|(out, weight)| *out = weight / scale);
        }
        self.narrow.resize(2 * weights.len(), 0);
        round(simd, &mut self.values, &mut self.narrow);
        self.values.iter_mut().for_each(|v| *v = v.clamp(-largest, largest));
    }

    /// Divides weights by the scale of their tensor.
    pub(crate) fn by_one(&mut self, weights: &[f32], scale: f32) {
        self.values.clear();
        self.values.extend_from_slice(weights);
        quant::sfp8_divide(&mut self.values, scale);
    }
}

/// Rounds values to BF16 in place, and leaves the BF16 bytes in `narrow`.
fn round(simd: Simd, values: &mut [f32], narrow: &mut [u8]) {
    quant::encode(simd, DType::BF16, values.len(), values, None, narrow);
    quant::decode(simd, DType::BF16, narrow, values);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_of_a_tensor_comes_with_its_last_rows() {
        let largest = Largest::new(5);
        assert_eq!(largest.add(2, 1.5), None);
        assert_eq!(largest.add(2, 0.5), None);
        assert_eq!(largest.add(1, 1.0), Some(1.5));
    }

    #[test]
    fn rows_are_scaled_apart() {
        let mut divided = Divided::default();
        divided.by_rows(Simd::Scalar, DType::F8_E4M3, 2, &[448.0, -224.0, 0.0, 0.0, 3.5, 1.75]);
        assert_eq!(divided.values, [448.0, -224.0, 0.0, 0.0, 448.0, 224.0]);
        // 1, 2⁻⁷, 2⁻⁷
        assert_eq!(divided.scale_bytes, [0x80, 0x3f, 0x00, 0x3c, 0x00, 0x3c]);
    }
}
