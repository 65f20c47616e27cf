//! The image tower of E2B, E4B, 26B-A4B and 31B: a transformer over patches, whose outputs are pooled to soft tokens.

mod attention;

use gemma::towers::{Tower, Towers, Vision};
use rayon::prelude::*;
use tensor::{Error, Result};

use super::weights::PartWeights;
use super::{Features, ImagePatches, TowerStage, TowerWeights, check_finite};
use crate::math::{gelu_times, quick_gelu_times};
use crate::norm::rms;
use crate::{Matrix, RowMajor, rope};

pub use attention::TOWER_QUERIES;

/// The activation function of the feed-forward networks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// gelu in its tanh form: the checkpoint's, `hidden_activation` of every published config.
    #[default]
    TanhGelu,
    /// `x · σ(1.702 x)`: what llama.cpp computes for an mmproj file without the key `clip.use_gelu`, and stock files have none.
    QuickGelu,
}

/// The image tower.
pub struct VisionTower<'a> {
    config: Vision,
    weights: TowerWeights<'a>,
    activation: Activation,
    frequencies: Vec<f32>,
}

/// The grid of the patches of an image.
#[derive(Clone, Copy)]
struct Grid {
    columns: usize,
    rows: usize,
}

impl Grid {
    /// Column and row of a patch: x and y.
    fn position(self, patch: usize) -> [usize; 2] {
        [patch % self.columns, patch / self.columns]
    }
}

impl<'a> VisionTower<'a> {
    /// The image tower of this model with these weights.
    ///
    /// # Errors
    /// `Unsupported` for a model without one.
    pub fn new(towers: &Towers, weights: TowerWeights<'a>) -> Result<VisionTower<'a>> {
        let config = towers.vision.ok_or_else(|| {
            Error::unsupported("model", "it has no image tower")
                .help("Its config has no vision_config with layers.")
        })?;
        Ok(VisionTower::of(config, weights))
    }

    pub(super) fn of(config: Vision, weights: TowerWeights<'a>) -> VisionTower<'a> {
        let frequencies = rope::frequencies(config.rope_base, config.head_dim as usize / 2, None);
        VisionTower { config, weights, activation: Activation::default(), frequencies }
    }

    /// The same tower with another activation function.
    pub fn with_activation(self, activation: Activation) -> VisionTower<'a> {
        VisionTower { activation, ..self }
    }

    /// Its config.
    pub fn config(&self) -> &Vision {
        &self.config
    }

    /// The soft tokens of an image: `W · RMS(z)`, with `z` the pooled and standardized outputs of the tower, one for each
    /// `pooling` × `pooling` patches. `observe` gets the states at every stage.
    ///
    /// # Errors
    /// `Malformed` and `Limit` for patches that are no grid of the model's, `Malformed` for a state that is not finite, naming the
    /// stage; `Io`.
    pub fn encode(
        &self,
        image: &ImagePatches,
        mut observe: impl FnMut(TowerStage, &Matrix),
    ) -> Result<Features> {
        let config = &self.config;
        image.check(config.patch, config.pooling, config.positions)?;
        let grid = Grid { columns: image.columns, rows: image.rows };
        let mut see = |stage, x: &Matrix| {
            check_finite("image tower", stage, x)?;
            observe(stage, x);
            Ok(())
        };
        let mut x = self.embed(image, grid)?;
        see(TowerStage::Patches, &x)?;
        for block in 0..config.layers {
            self.block(&self.weights.layer(Tower::Vision, block), grid, &mut x)?;
            see(TowerStage::Block(block), &x)?;
        }
        let global = self.weights.global(Tower::Vision);
        let mut pooled = self.pool(grid, &x);
        if config.standardize {
            let (bias, scale) = (global.vector("std_bias")?, global.vector("std_scale")?);
            for row in pooled.values_mut().chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(&bias).zip(&scale).for_each(|((x, bias), scale)| *x = (*x - bias) * scale);
            }
        }
        global.soft_tokens("mm", pooled, config.norm_eps)
    }

    /// `W (2p − 1) + X[x] + Y[y]`.
    fn embed(&self, image: &ImagePatches, grid: Grid) -> Result<Matrix> {
        let global = self.weights.global(Tower::Vision);
        let values = image.in_order(self.weights.form(), |value| 2.0 * (value - 0.5));
        let mut x = global.linear("patch_embd", &values)?;
        // the table of y comes after that of x
        let table = global.get("position_embd")?;
        let first = self.config.positions as u32;
        let of_x = table.gather(&(0..grid.columns as u32).collect::<Vec<_>>())?;
        let of_y = table.gather(&(first..first + grid.rows as u32).collect::<Vec<_>>())?;
        for (patch, mut row) in x.outer_iter_mut().enumerate() {
            let [column, line] = grid.position(patch);
            // the sum first, as transformers does it
            row += &(&of_x.row(column) + &of_y.row(line));
        }
        Ok(x)
    }

    fn block(&self, w: &PartWeights<'_>, grid: Grid, x: &mut Matrix) -> Result<()> {
        let (eps, simd) = (self.config.norm_eps, w.compute().simd);
        let a = self.attention(w, grid, &rms(simd, x, Some(&w.vector("ln1")?), eps))?;
        *x += &rms(simd, &a, Some(&w.vector("attn_post_norm")?), eps);
        let f = self.feed_forward(w, &rms(simd, x, Some(&w.vector("ln2")?), eps))?;
        *x += &rms(simd, &f, Some(&w.vector("ffn_post_norm")?), eps);
        Ok(())
    }

    /// `down(gelu(gate n) · up n)`.
    fn feed_forward(&self, w: &PartWeights<'_>, n: &Matrix) -> Result<Matrix> {
        const PIECE: usize = 32 * 1024;
        let mut gate = w.clipped("ffn_gate", n)?;
        let up = w.clipped("ffn_up", n)?;
        let simd = w.compute().simd;
        let pieces = gate.values_mut().par_chunks_mut(PIECE).zip(up.values().par_chunks(PIECE));
        pieces.for_each(|(gate, up)| match self.activation {
            Activation::TanhGelu => gelu_times(simd, gate, up),
            Activation::QuickGelu => quick_gelu_times(simd, gate, up),
        });
        w.clipped("ffn_down", &gate)
    }

    /// The means of `pooling` × `pooling` patches, times `√width`.
    fn pool(&self, grid: Grid, x: &Matrix) -> Matrix {
        let (pooling, width) = (self.config.pooling as usize, x.ncols());
        let (columns, rows) = (grid.columns / pooling, grid.rows / pooling);
        let factor = (width as f32).sqrt();
        let share = 1.0 / (pooling * pooling) as f32;
        let mut out = Matrix::zeros((columns * rows, width));
        out.values_mut().par_chunks_mut(width).enumerate().for_each(|(token, out)| {
            let [column, row] = [token % columns * pooling, token / columns * pooling];
            for y in row..row + pooling {
                for patch in column..column + pooling {
                    let values = x.row_values(y * grid.columns + patch);
                    out.iter_mut().zip(values).for_each(|(out, x)| *out += share * x);
                }
            }
            out.iter_mut().for_each(|x| *x *= factor);
        });
        out
    }
}
