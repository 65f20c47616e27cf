//! Importance of the per-layer embedding (PLE) table of E2B and E4B. Rows are looked up, not multiplied, so there is
//! no input to sum. The importance of a column is the effect of an error in it on the residual stream of its layer.
//!
//! The layer adds `s · y / rms(y)` to the residual stream, `y = W·(gelu(g) · p)`: W is `proj`, s `post_norm`, g what
//! `inp_gate` gives, and p the token's slice of the table times `√(ple/2)`, plus what does not depend on the table. An
//! error of 1 in column j of the slice moves the residual stream by `√(ple/2) · gelu(g)ⱼ / rms(y) · s·Wⱼ`. The square
//! of that, summed over the tokens, is the importance of the column:
//!
//! ```text
//! Σ (gelu(g)ⱼ / rms(y))² · ple/2 · Σᵢ (sᵢ·Wᵢⱼ)²
//! ```
//!
//! Two effects are neglected: the norm removes the part of an error that is parallel to y, and later layers scale an error.
//! That scale is about the same for all columns of a layer, and a block never crosses layers: a layer has 256 columns.

use runtime::{Matrix, Model, gelu};
use tensor::Result;

/// The role of the table.
pub(crate) const ROLE: &str = "per_layer_token_embd";

/// `gelu(g) / rms(y)`, a row a token.
pub(crate) fn input(mut gates: Matrix, y: &Matrix, eps: f32) -> Matrix {
    for (mut gates, y) in gates.outer_iter_mut().zip(y.outer_iter()) {
        let mean = y.iter().map(|y| y * y).sum::<f32>() / y.len() as f32;
        let factor = 1.0 / (mean + eps).sqrt();
        gates.mapv_inplace(|gate| gelu(gate) * factor);
    }
    gates
}

/// For each layer, the factor of each column: `ple/2 · Σᵢ (sᵢ·Wᵢⱼ)²`. Empty for models without the table.
///
/// # Errors
/// `Malformed` for a missing weight; `Io`.
pub(crate) fn effects(model: &Model<'_>) -> Result<Vec<Vec<f64>>> {
    let config = model.config();
    let layers = if config.ple > 0 { config.layers() } else { 0 };
    (0..layers).map(|layer| effects_of(model, layer, config.ple as usize)).collect()
}

fn effects_of(model: &Model<'_>, layer: usize, ple: usize) -> Result<Vec<f64>> {
    let weights = model.weights().layer(layer);
    let (w, s) = (weights.get("proj")?.vector()?, weights.get("post_norm")?.vector()?);
    let mut effects = vec![0.0; ple];
    for (row, s) in w.chunks_exact(ple).zip(s) {
        effects.iter_mut().zip(row).for_each(|(sum, w)| *sum += f64::from(s * w).powi(2));
    }
    effects.iter_mut().for_each(|sum| *sum *= ple as f64 / 2.0);
    Ok(effects)
}
