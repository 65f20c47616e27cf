//! RMS norm: `x · (mean(x²) + ε)^-½ · w`. Gemma 4 multiplies by `w`, Gemma 1 to 3 by `1 + w`.
//!
//! And layer norm, `(x − mean(x)) · (mean((x − mean(x))²) + ε)^-½ · w + b`, which the input of audio and the 12B's patches have.

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

/// Normalises each run of `width` values in place by layer norm.
pub(crate) fn layer_norm(
    simd: Simd,
    x: &mut Matrix,
    width: usize,
    weight: &[f32],
    bias: Option<&[f32]>,
    eps: f32,
) {
    x.values_mut()
        .par_chunks_mut(width * PIECE.div_ceil(width))
        .for_each(|piece| layer_norm_runs(simd, piece, width, weight, bias, eps));
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

vectorised! {
    fn layer_norm_runs(x: &mut [f32], width: usize, weight: &[f32], bias: Option<&[f32]>, eps: f32) {
        for run in x.chunks_exact_mut(width) {
            let mean = sum(run, |x| x) / width as f32;
            let variance = sum(run, |x| (x - mean) * (x - mean)) / width as f32;
            let factor = 1.0 / (variance + eps).sqrt();
            run.iter_mut().zip(weight).for_each(|(x, w)| *x = (*x - mean) * factor * w);
            if let Some(bias) = bias {
                run.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_norm_is_its_formula() {
        for simd in Simd::available() {
            let mut x = ndarray::array![[1.0, 2.0, 3.0, 6.0]];
            layer_norm(simd, &mut x, 4, &[1.0, 1.0, 2.0, 1.0], Some(&[0.0, 0.5, 0.0, 0.0]), 0.5);
            // mean 3, variance 3.5
            assert_eq!(x, ndarray::array![[-1.0, 0.0, 0.0, 1.5]]);
        }
    }
}
