//! The 12B: patches and samples are embedded without a tower.
//!
//! A patch of 48 × 48 pixels or 40 ms of a sound is a soft token. `Gemma4UnifiedVisionEmbedder` and
//! `Gemma4UnifiedMultimodalEmbedder` in `models/gemma4_unified/modeling_gemma4_unified.py` of huggingface/transformers.

use gemma::towers::{Embedders, Tower, Towers};
use tensor::{Error, Result};

use super::weights::PartWeights;
use super::{Features, ImagePatches, TowerForm, TowerWeights};
use crate::Matrix;
use crate::norm::layer_norm;

/// The ε of `torch.nn.LayerNorm`.
const LAYER_NORM_EPS: f32 = 1e-5;

/// The embedder of patches and samples.
pub struct Embedder<'a> {
    config: Embedders,
    weights: TowerWeights<'a>,
}

impl<'a> Embedder<'a> {
    /// The embedder of this model with these weights.
    ///
    /// # Errors
    /// `Unsupported` for a model without one.
    pub fn new(towers: &Towers, weights: TowerWeights<'a>) -> Result<Embedder<'a>> {
        let config =
            towers.embedders.ok_or_else(|| Error::unsupported("model", "it has no embedder of patches"))?;
        Ok(Embedder::of(config, weights))
    }

    pub(super) fn of(config: Embedders, weights: TowerWeights<'a>) -> Embedder<'a> {
        Embedder { config, weights }
    }

    /// Its config.
    pub fn config(&self) -> &Embedders {
        &self.config
    }

    /// The soft tokens of an image, one a patch: `W · RMS(LN₃(LN₂(P · LN₁(p) + b) + X[x] + Y[y]))`.
    ///
    /// # Errors
    /// `Malformed` and `Limit` for patches that are no grid of the model's, `Malformed` for soft tokens that are not finite; `Io`.
    pub fn encode_patches(&self, image: &ImagePatches) -> Result<Features> {
        let Embedders { patch, positions, norm_eps, .. } = self.config;
        image.check(patch, 1, positions)?;
        let w = self.weights.global(Tower::ImageEmbedder);
        // the weights of the first norm have the order of the columns
        let mut x = image.in_order(self.weights.form(), |value| value);
        normalise(&w, &mut x, ["patch_norm_1", "patch_norm_1_bias"])?;
        let mut x = w.linear("patch_embd", &x)?;
        x += &ndarray::Array1::from(w.vector("patch_embd_bias")?);
        normalise(&w, &mut x, ["patch_norm_2", "patch_norm_2_bias"])?;
        let (of_x, of_y) = (self.table(&w, 0, image.columns)?, self.table(&w, 1, image.rows)?);
        for (patch, mut row) in x.outer_iter_mut().enumerate() {
            row += &(&of_x.row(patch % image.columns) + &of_y.row(patch / image.columns));
        }
        normalise(&w, &mut x, ["patch_norm_3", "patch_norm_3_bias"])?;
        w.soft_tokens("mm", x, norm_eps)
    }

    /// The soft tokens of a sound, `W · RMS(s)`: a row of `samples` holds those of a soft token.
    ///
    /// # Errors
    /// `Unsupported` for a model without audio, `Malformed` for rows of another length and for soft tokens that are not finite; `Io`.
    pub fn encode_samples(&self, samples: &Matrix) -> Result<Features> {
        let wanted =
            self.config.audio.ok_or_else(|| Error::unsupported("model", "it has no embedder of samples"))?;
        if samples.ncols() as u64 != wanted {
            return Err(
                Error::malformed("sound", "samples of a soft token").expected(wanted, samples.ncols())
            );
        }
        let w = self.weights.global(Tower::SoundEmbedder);
        w.soft_tokens("mm_a", samples.clone(), self.config.audio_norm_eps)
    }

    /// The first `count` rows of the position table of an axis.
    fn table(&self, w: &PartWeights<'_>, axis: u32, count: usize) -> Result<Matrix> {
        let row = |position: u32| match self.weights.form() {
            TowerForm::Checkpoint => 2 * position + axis,
            TowerForm::Mmproj => axis * self.config.positions as u32 + position,
        };
        w.get("position_embd")?.gather(&(0..count as u32).map(row).collect::<Vec<_>>())
    }
}

/// Layer norm of whole rows.
fn normalise(w: &PartWeights<'_>, x: &mut Matrix, [weight, bias]: [&'static str; 2]) -> Result<()> {
    let (weight, bias) = (w.vector(weight)?, w.vector(bias)?);
    let width = x.ncols();
    layer_norm(w.compute().simd, x, width, &weight, Some(&bias), LAYER_NORM_EPS);
    Ok(())
}
