//! RMS norm: `x · (mean(x²) + ε)^-½ · w`. Gemma 4 multiplies by `w`, Gemma 1 to 3 by `1 + w`.

use quant::Simd;
use rayon::prelude::*;

use crate::math::sum;
use crate::vectorised;
use crate::{Matrix, RowMajor};

/// Normalises each run of `width` values in place: whole rows, or the heads in a row. Without a weight it is 1.
pub(crate) fn rms_in_place(simd: Simd, x: &mut Matrix, width: usize, weight: Option<&[f32]>, eps: f32) {
    x.values_mut()
        .par_chunks_mut(width * PIECE.div_ceil(width))
        .for_each(|piece| rms_runs(simd, piece, width, weight, eps));
}

/// The normalised rows of `x`.
pub(crate) fn rms(simd: Simd, x: &Matrix, weight: Option<&[f32]>, eps: f32) -> Matrix {
    let mut x = x.clone();
    let width = x.ncols();
    rms_in_place(simd, &mut x, width, weight, eps);
    x
}

/// Values in the unit of work of a thread.
const PIECE: usize = 16 * 1024;

vectorised! {
    fn rms_runs(x: &mut [f32], width: usize, weight: Option<&[f32]>, eps: f32) {
        for run in x.chunks_exact_mut(width) {
            let mean = sum(run, |x| x * x) / width as f32;
            let factor = 1.0 / (mean + eps).sqrt();
            match weight {
                Some(weight) => run.iter_mut().zip(weight).for_each(|(x, w)| *x = *x * factor * w),
                None => run.iter_mut().for_each(|x| *x *= factor),
            }
        }
    }
}
