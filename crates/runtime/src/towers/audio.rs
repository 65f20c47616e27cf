//! The audio tower of E2B and E4B: convolutions that make a quarter of the frames, then blocks of two feed-forward networks around
//! attention and a convolution over time (a Conformer).
//!
//! The clamps of transformers to ± `gradient_clipping`, 1e10, are left out, as llama.cpp does: such a state is far from any that a
//! model has.

mod attention;
mod convolution;
mod subsampling;

use gemma::towers::{Audio, Tower, Towers};
use rayon::prelude::*;
use tensor::{Error, Result};

use super::weights::PartWeights;
use super::{Features, TowerStage, TowerWeights, check_finite};
use crate::math::silu;
use crate::norm::rms;
use crate::{Matrix, RowMajor};

/// Mel bins of a frame.
pub(super) const MEL_BINS: usize = 128;

/// The ε of the norms of a block, those of the convolution excepted. It is not in the config.
const NORM_EPS: f32 = 1e-6;

/// The audio tower.
pub struct AudioTower<'a> {
    config: Audio,
    weights: TowerWeights<'a>,
    /// Sines and cosines of the distances that a query sees, `[window, width]`.
    distances: Matrix,
}

impl<'a> AudioTower<'a> {
    /// The audio tower of this model with these weights.
    ///
    /// # Errors
    /// `Unsupported` for a model without one.
    pub fn new(towers: &Towers, weights: TowerWeights<'a>) -> Result<AudioTower<'a>> {
        let config = towers.audio.ok_or_else(|| {
            Error::unsupported("model", "it has no audio tower")
                .help("Its config has no audio_config with layers.")
        })?;
        Ok(AudioTower::of(config, weights))
    }

    pub(super) fn of(config: Audio, weights: TowerWeights<'a>) -> AudioTower<'a> {
        let distances = attention::distances(config.window as usize, config.hidden as usize);
        AudioTower { config, weights, distances }
    }

    /// Its config.
    pub fn config(&self) -> &Audio {
        &self.config
    }

    /// The soft tokens of a sound, one for four frames: `W · RMS(e)`, with `e` the outputs of the tower. `mel` has a row of 128
    /// values for each frame: the logarithm of the mel spectrum, without frames of padding. `observe` gets the states at every
    /// stage.
    ///
    /// # Errors
    /// `Malformed` for rows of another length, and for a state that is not finite, naming the stage; `Io`.
    pub fn encode(&self, mel: &Matrix, mut observe: impl FnMut(TowerStage, &Matrix)) -> Result<Features> {
        if mel.ncols() != MEL_BINS {
            return Err(Error::malformed("sound", "not a mel spectrum")
                .expected(format!("{MEL_BINS} bins"), mel.ncols()));
        }
        let mut see = |stage, x: &Matrix| {
            check_finite("audio tower", stage, x)?;
            observe(stage, x);
            Ok(())
        };
        let global = self.weights.global(Tower::Audio);
        let mut x = self.subsample(&global, mel)?;
        see(TowerStage::Subsampling, &x)?;
        for block in 0..self.config.layers {
            self.block(block, &mut x, &mut see)?;
        }
        let mut encoder = global.linear("pre_encode_out", &x)?;
        let bias = global.vector("pre_encode_out_bias")?;
        for row in encoder.values_mut().chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(&bias).for_each(|(x, bias)| *x += bias);
        }
        global.soft_tokens("mm_a", encoder, self.config.norm_eps)
    }

    fn block(
        &self,
        block: usize,
        x: &mut Matrix,
        see: &mut impl FnMut(TowerStage, &Matrix) -> Result<()>,
    ) -> Result<()> {
        let w = self.weights.layer(Tower::Audio, block);
        let simd = w.compute().simd;
        self.feed_forward(&w, ["ffn_norm", "ffn_up", "ffn_down", "ffn_post_norm"], x)?;
        see(TowerStage::FeedForward1(block), x)?;

        let a = self.attention(&w, &rms(simd, x, Some(&w.vector("attn_pre_norm")?), NORM_EPS))?;
        see(TowerStage::Attention(block), &a)?;
        *x += &rms(simd, &a, Some(&w.vector("attn_post_norm")?), NORM_EPS);

        self.convolution(&w, x)?;
        see(TowerStage::Convolution(block), x)?;
        self.feed_forward(&w, ["ffn_norm_1", "ffn_up_1", "ffn_down_1", "ffn_post_norm_1"], x)?;
        see(TowerStage::FeedForward2(block), x)?;

        *x = rms(simd, x, Some(&w.vector("ln2")?), NORM_EPS);
        see(TowerStage::Block(block), x)
    }

    /// `x += residual · RMS(down(silu(up n)))`, with `n` the normalised input.
    fn feed_forward(
        &self,
        w: &PartWeights<'_>,
        [norm, up, down, post_norm]: [&'static str; 4],
        x: &mut Matrix,
    ) -> Result<()> {
        let simd = w.compute().simd;
        let mut f = w.clipped(up, &rms(simd, x, Some(&w.vector(norm)?), NORM_EPS))?;
        f.values_mut().par_chunks_mut(32 * 1024).for_each(|f| silu(simd, f));
        let f = rms(simd, &w.clipped(down, &f)?, Some(&w.vector(post_norm)?), NORM_EPS);
        x.scaled_add(self.config.residual, &f);
        Ok(())
    }
}
