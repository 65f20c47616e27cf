//! Per-layer embeddings (PLE) of E2B and E4B: an additional input of each layer for each token.
//!
//! It is the mean of a row that is looked up by token, and a projection of the token's ordinary embedding. A row of the table
//! has a slice for each layer; the slice is decoded when the layer runs.

use tensor::Result;

use crate::Matrix;
use crate::batch::Batch;
use crate::ffn::gated;
use crate::model::Model;
use crate::norm::{rms, rms_in_place};

/// The role of the table.
const TABLE: &str = "per_layer_token_embd";

impl Model<'_> {
    /// The contribution of the per-layer embedding to the residual stream.
    pub(crate) fn per_layer(&self, layer: usize, batch: &Batch) -> Result<Matrix> {
        let w = self.weights().layer(layer);
        let mut gate = w.project("inp_gate", &batch.hidden)?;
        gated(self.simd(), &mut gate, &self.per_layer_input(layer, batch)?);
        let x = w.project("proj", &gate)?;
        Ok(rms(self.simd(), &x, Some(&w.vector("post_norm")?), self.config().norm_eps))
    }

    /// `(RMSNorm(P x₀ / √hidden) + √ple · table[token]) / √2`, the slice of `layer`: `[tokens, ple]`.
    fn per_layer_input(&self, layer: usize, batch: &Batch) -> Result<Matrix> {
        let (config, w) = (self.config(), self.weights().global());
        let ple = config.ple as usize;
        let first = layer * ple;

        let mut context =
            w.get("per_layer_model_proj")?.project(&batch.embedding, first as u64..(first + ple) as u64)?;
        context *= 1.0 / (config.hidden as f32).sqrt();
        rms_in_place(
            self.simd(),
            &mut context,
            ple,
            Some(&w.vector("per_layer_proj_norm")?),
            config.norm_eps,
        );

        let mut token = self.table.gather(w.get(TABLE)?, &batch.tokens, first, ple)?;
        token *= (ple as f32).sqrt();

        context += &token;
        context *= std::f32::consts::FRAC_1_SQRT_2;
        Ok(context)
    }
}
