//! Products of the towers: `Gemma4ClippableLinear`, `clamp(clamp(x) · Wᵀ)`.

use quant::Simd;
use rayon::prelude::*;
use tensor::Result;

use super::weights::PartWeights;
use crate::vectorised;
use crate::{Matrix, RowMajor};

/// Rows of a weight in the unit of work of a thread. Towers have many rows of input, so that few rows of a weight are enough work,
/// and their weights are too small for more.
const ROWS: usize = 192;

impl PartWeights<'_> {
    /// `x · Wᵀ` of the linear of a role.
    pub(super) fn linear(&self, role: &'static str, x: &Matrix) -> Result<Matrix> {
        self.get(role)?.project_in_blocks(x, ROWS)
    }

    /// As [`PartWeights::linear`], with input and output clamped to the bounds beside the weight.
    pub(super) fn clipped(&self, role: &'static str, x: &Matrix) -> Result<Matrix> {
        let [input, output] = self.bounds(role)?;
        let simd = self.compute().simd;
        let mut y = if is_bounded(input) {
            let mut x = x.clone();
            clamp(simd, &mut x, input);
            self.linear(role, &x)?
        } else {
            self.linear(role, x)?
        };
        if is_bounded(output) {
            clamp(simd, &mut y, output);
        }
        Ok(y)
    }
}

fn is_bounded((least, largest): (f32, f32)) -> bool {
    least != f32::NEG_INFINITY || largest != f32::INFINITY
}

fn clamp(simd: Simd, x: &mut Matrix, (least, largest): (f32, f32)) {
    x.values_mut().par_chunks_mut(32 * 1024).for_each(|x| clamp_slice(simd, x, least, largest));
}

vectorised! {
    /// As torch does it: NaN stays NaN, and the largest value wins over the least.
    fn clamp_slice(x: &mut [f32], least: f32, largest: f32) {
        for x in x {
            let raised = if *x < least { least } else { *x };
            *x = if raised > largest { largest } else { raised };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_clamped_as_torch_does() {
        for simd in Simd::available() {
            let mut x = vec![-3.0, -1.0, 0.5, 2.0, 9.0, f32::NAN, f32::INFINITY];
            clamp_slice(simd, &mut x, -1.0, 2.0);
            assert_eq!(x[..5], [-1.0, -1.0, 0.5, 2.0, 2.0]);
            assert!(x[5].is_nan() && x[6] == 2.0);
            clamp_slice(simd, &mut x[..1], 5.0, 4.0);
            assert_eq!(x[0], 4.0);
        }
    }
}
