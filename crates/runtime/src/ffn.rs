//! The feed-forward network: `down(gelu(gate n) · up n)`, with `n` the normalised input.

use quant::Simd;
use rayon::prelude::*;
use tensor::Result;

use crate::math::gelu_times;
use crate::model::Model;
use crate::norm::rms;
use crate::{LayerWeights, Matrix, RowMajor};

impl Model<'_> {
    /// The dense network of a layer.
    pub(crate) fn dense(&self, w: &LayerWeights<'_>, x: &Matrix) -> Result<Matrix> {
        let n = rms(self.simd(), x, Some(&w.vector("ffn_norm")?), self.config().norm_eps);
        let mut gate = w.project("ffn_gate", &n)?;
        let up = w.project("ffn_up", &n)?;
        gated(self.simd(), &mut gate, &up);
        w.project("ffn_down", &gate)
    }
}

/// `gate = gelu(gate) · up`.
pub(crate) fn gated(simd: Simd, gate: &mut Matrix, up: &Matrix) {
    const PIECE: usize = 32 * 1024;
    gate.values_mut()
        .par_chunks_mut(PIECE)
        .zip(up.values().par_chunks(PIECE))
        .for_each(|(g, u)| gelu_times(simd, g, u));
}
