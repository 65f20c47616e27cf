//! Per-layer embeddings (E2B, E4B): each layer gets an input of its own for each token.
//!
//! Half of it is looked up by the token, half is projected from the token's ordinary embedding. The table has a slice
//! a layer in each row; a layer's slice is decoded when the layer runs, so that all layers' are never in memory at once.

use tensor::Result;

use crate::Matrix;
use crate::batch::Batch;
use crate::ffn::gated;
use crate::model::Model;
use crate::norm::{rms, rms_in_place};

/// The role of the table.
const TABLE: &str = "per_layer_token_embd";

impl Model<'_> {
    /// What the layer adds to its output `x` because of its own input.
    pub(crate) fn per_layer(&self, layer: usize, batch: &Batch) -> Result<Matrix> {
        let w = self.weights().layer(layer);
        let mut gate = w.project("inp_gate", &batch.hidden)?;
        gated(&mut gate, &self.per_layer_input(layer, batch)?);
        let x = w.project("proj", &gate)?;
        Ok(rms(&x, Some(&w.vector("post_norm")?), self.config().norm_eps))
    }

    /// `(RMSNorm(P x₀ / √hidden) + √ple · table[token]) / √2`, of which `layer`'s slice: `[tokens, ple]`.
    fn per_layer_input(&self, layer: usize, batch: &Batch) -> Result<Matrix> {
        let (config, w) = (self.config(), self.weights().global());
        let ple = config.ple as usize;
        let first = layer * ple;

        let mut context =
            w.get("per_layer_model_proj")?.project(&batch.embedding, first as u64..(first + ple) as u64)?;
        context.scale(1.0 / (config.hidden as f32).sqrt());
        rms_in_place(&mut context, ple, Some(&w.vector("per_layer_proj_norm")?), config.norm_eps);

        let mut token = self.table.gather(w.get(TABLE)?, &batch.tokens, first, ple)?;
        token.scale((ple as f32).sqrt());

        context.add(&token);
        context.scale(std::f32::consts::FRAC_1_SQRT_2);
        Ok(context)
    }
}
