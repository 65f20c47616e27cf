//! The subsampling: two convolutions of 3 × 3 with stride 2, each with a layer norm over channels and ReLU. A quarter of the frames
//! is left, and a quarter of the frequencies, which a projection joins.
//!
//! States are rows of frequencies of channels, so that a convolution is a product with rows of its 9 inputs side by side.

use ndarray::{Array2, ArrayView2, ArrayViewMut2};
use rayon::prelude::*;
use tensor::Result;

use super::{AudioTower, MEL_BINS};
use crate::gemm::general_mat_mul;
use crate::norm::layer_norm;
use crate::towers::weights::PartWeights;
use crate::{Matrix, RowMajor};

/// Frames of the output in the unit of work of a thread.
const FRAMES: usize = 16;

/// Frames, and frequencies, that an output of a convolution sees.
const KERNEL: usize = 3;

impl AudioTower<'_> {
    /// The states before the first block: `[frames / 4, width]`, rounded up.
    pub(super) fn subsample(&self, w: &PartWeights<'_>, mel: &Matrix) -> Result<Matrix> {
        let eps = self.config.norm_eps;
        let first = Convolution::read(w, "conv1d_0", "conv1d_norm_0")?;
        let half = first.apply(w, mel, MEL_BINS, eps);
        let second = Convolution::read(w, "conv1d_1", "conv1d_norm_1")?;
        let quarter = second.apply(w, &half, MEL_BINS / 2, eps);
        w.linear("input_projection", &quarter)
    }
}

/// A convolution and its norm.
struct Convolution {
    /// A row an output: frame, frequency, channel of the input.
    kernel: Matrix,
    norm: Vec<f32>,
}

impl Convolution {
    fn read(w: &PartWeights<'_>, role: &'static str, norm: &'static str) -> Result<Convolution> {
        let (stored, norm) = (w.vector(role)?, w.vector(norm)?);
        // stored: output, channel, frame, frequency
        let taps = KERNEL * KERNEL;
        let channels = stored.len() / norm.len() / taps;
        let value = |(output, column): (usize, usize)| {
            let (tap, channel) = (column / channels, column % channels);
            stored[(output * channels + channel) * taps + tap]
        };
        Ok(Convolution { kernel: Array2::from_shape_fn((norm.len(), taps * channels), value), norm })
    }

    /// The convolution of `x`, whose rows have `bins` frequencies. Beyond the edges there are zeros.
    fn apply(&self, w: &PartWeights<'_>, x: &Matrix, bins: usize, eps: f32) -> Matrix {
        let (outputs, columns) = self.kernel.dim();
        let (frames, out_bins) = (x.nrows().div_ceil(2), bins.div_ceil(2));
        let mut out = Matrix::zeros((frames, out_bins * outputs));
        let parts = out.values_mut().par_chunks_mut(FRAMES * out_bins * outputs).enumerate();
        parts.for_each_init(Vec::new, |inputs, (n, out)| {
            let rows = out.len() / outputs;
            inputs.clear();
            inputs.resize(rows * columns, 0.0);
            for (row, inputs) in inputs.chunks_exact_mut(columns).enumerate() {
                gather(x, bins, [n * FRAMES + row / out_bins, row % out_bins], inputs);
            }
            let inputs = ArrayView2::from_shape((rows, columns), &inputs[..]).expect("whole rows");
            let out = ArrayViewMut2::from_shape((rows, outputs), out).expect("whole rows");
            general_mat_mul(1.0, inputs, self.kernel.t(), 0.0, out);
        });
        layer_norm(w.compute().simd, &mut out, outputs, &self.norm, None, eps);
        out.values_mut().par_chunks_mut(32 * 1024).for_each(|x| x.iter_mut().for_each(|x| *x = x.max(0.0)));
        out
    }
}

/// The 9 inputs of an output at a frame and a frequency. Those beyond the edges are left as they are.
fn gather(x: &Matrix, bins: usize, [frame, bin]: [usize; 2], inputs: &mut [f32]) {
    let channels = x.ncols() / bins;
    for (tap, inputs) in inputs.chunks_exact_mut(channels).enumerate() {
        // one frame and one frequency before the first are padding
        let (frame, bin) = (2 * frame + tap / KERNEL, 2 * bin + tap % KERNEL);
        if (1..=x.nrows()).contains(&frame) && (1..=bins).contains(&bin) {
            inputs.copy_from_slice(&x.row_values(frame - 1)[(bin - 1) * channels..][..channels]);
        }
    }
}
