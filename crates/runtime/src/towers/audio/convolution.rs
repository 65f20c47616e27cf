//! The convolution of a block of the audio tower: a gate, a causal convolution of each channel over time, a projection.
//!
//! `x += end(silu(RMS(conv(glu(start n)))))`, with `n` the normalised input. `Gemma4AudioLightConv1d`.

use rayon::prelude::*;
use tensor::Result;

use super::AudioTower;
use crate::math::{glu, silu};
use crate::norm::{rms, rms_in_place};
use crate::towers::weights::PartWeights;
use crate::{Matrix, RowMajor};

impl AudioTower<'_> {
    /// Adds the output of the convolution.
    pub(super) fn convolution(&self, w: &PartWeights<'_>, x: &mut Matrix) -> Result<()> {
        let (eps, simd, width) = (self.config.norm_eps, w.compute().simd, x.ncols());
        let start = w.clipped("conv_pw1", &rms(simd, x, Some(&w.vector("conv_norm")?), eps))?;
        let mut gated = Matrix::zeros(x.raw_dim());
        let rows = gated.values_mut().par_chunks_mut(width).zip(start.values().par_chunks(2 * width));
        rows.with_min_len(8).for_each(|(out, row)| glu(simd, &row[..width], &row[width..], out));

        let mut y = causal(&gated, &w.matrix("conv_dw")?);
        rms_in_place(simd, &mut y, width, Some(&w.vector("norm_conv")?), eps);
        y.values_mut().par_chunks_mut(32 * 1024).for_each(|y| silu(simd, y));
        *x += &w.clipped("conv_pw2", &y)?;
        Ok(())
    }
}

/// `y[t][c] = Σ_k w[c][k] · x[t − (taps − 1) + k][c]`: the last tap is of the current row, and zeros are before the first.
fn causal(x: &Matrix, w: &Matrix) -> Matrix {
    let (width, taps) = w.dim();
    let by_tap = w.t().as_standard_layout().into_owned();
    let mut y = Matrix::zeros(x.raw_dim());
    y.values_mut().par_chunks_mut(width).enumerate().with_min_len(8).for_each(|(row, y)| {
        for tap in (taps - 1).saturating_sub(row)..taps {
            let (w, x) = (by_tap.row_values(tap), x.row_values(row + tap + 1 - taps));
            y.iter_mut().zip(w).zip(x).for_each(|((y, w), x)| *y += w * x);
        }
    });
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_tap_is_of_the_current_row() {
        let x = ndarray::array![[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]];
        let y = causal(&x, &ndarray::array![[100.0, 10.0, 1.0], [0.0, 0.0, 2.0]]);
        assert_eq!(y, ndarray::array![[1.0, 20.0], [12.0, 40.0], [123.0, 60.0], [234.0, 80.0]]);
    }
}
