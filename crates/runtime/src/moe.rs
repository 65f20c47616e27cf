//! The mixture of experts (26B-A4B), a branch parallel to the dense network.
//!
//! A router selects and weights a few experts for each token. Its input is the residual stream, not the experts' normalised
//! input. All tokens of an expert are computed together, so each expert's weights are read once.

use ndarray::Axis;
use rayon::prelude::*;
use tensor::Result;

use crate::ffn::gated;
use crate::math::softmax;
use crate::model::Model;
use crate::norm::rms;
use crate::{Expert, LayerWeights, Matrix, Mixture, RowMajor};

impl Model<'_> {
    /// Dense network plus experts, each followed by a norm of its own.
    pub(crate) fn dense_and_experts(&self, w: &LayerWeights<'_>, x: &Matrix) -> Result<Matrix> {
        let (simd, eps) = (self.simd(), self.config().norm_eps);
        let mut out = rms(simd, &self.dense(w, x)?, Some(&w.vector("post_ffw_norm_1")?), eps);
        let n = rms(simd, x, Some(&w.vector("pre_ffw_norm_2")?), eps);
        let experts = self.experts(w, &n, &self.route(w, x)?)?;
        let experts_normed = rms(simd, &experts, Some(&w.vector("post_ffw_norm_2")?), eps);
        w.observe_mixture(&Mixture {
            experts: &experts,
            experts_normed: &experts_normed,
            dense_normed: &out,
        })?;
        out += &experts_normed;
        Ok(out)
    }

    /// The tokens of each expert, with their router weights.
    fn route(&self, w: &LayerWeights<'_>, x: &Matrix) -> Result<Vec<Vec<(usize, f32)>>> {
        let config = self.config();
        let used = config.experts_used.unwrap_or(0) as usize;
        let mut r = rms(self.simd(), x, None, config.norm_eps);
        let scale = w.vector("ffn_gate_inp_scale")?;
        let root = (config.hidden as f32).sqrt();
        for mut row in r.rows_mut() {
            row.iter_mut().zip(&scale).for_each(|(r, scale)| *r *= scale / root);
        }
        let mut probabilities = w.project("ffn_gate_inp", &r)?;
        let expert_scale = w.vector("ffn_down_exps_scale")?;

        let mut tokens = vec![Vec::new(); expert_scale.len()];
        for (token, p) in probabilities.values_mut().chunks_exact_mut(expert_scale.len()).enumerate() {
            softmax(self.simd(), p);
            let mut best: Vec<usize> = (0..p.len()).collect();
            best.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
            best.truncate(used);
            let sum: f32 = best.iter().map(|&expert| p[expert]).sum();
            for expert in best {
                tokens[expert].push((token, p[expert] / sum * expert_scale[expert]));
            }
        }
        Ok(tokens)
    }

    /// `Σ weight · down(gelu(gate n) · up n)` over the experts of each token. Gate and up are one tensor, gate first.
    fn experts(&self, w: &LayerWeights<'_>, n: &Matrix, tokens: &[Vec<(usize, f32)>]) -> Result<Matrix> {
        let (gate_up, down) = (w.get("ffn_gate_up_exps")?, w.get("ffn_down_exps")?);
        let (ffn, hidden) = (down.desc().cols(), n.ncols() as u64);
        let batch = n.nrows();
        let expert = |&expert: &usize| {
            let seen = || Some(Expert { number: expert, tokens: &tokens[expert] });
            let rows: Vec<usize> = tokens[expert].iter().map(|&(token, _)| token).collect();
            let n = n.select(Axis(0), &rows);
            w.observe("ffn_gate_up_exps", seen(), &n)?;
            let first = expert as u64;
            let start = first * 2 * ffn;
            let mut gate = gate_up.project_some(&n, start..start + ffn, batch)?;
            gated(self.simd(), &mut gate, &gate_up.project_some(&n, start + ffn..start + 2 * ffn, batch)?);
            w.observe("ffn_down_exps", seen(), &gate)?;
            down.project_some(&gate, first * hidden..(first + 1) * hidden, batch)
        };
        let busy: Vec<usize> = (0..tokens.len()).filter(|&expert| !tokens[expert].is_empty()).collect();
        let mut out = Matrix::zeros(n.raw_dim());
        // in parallel, because each expert is little work; not all at once, because of the memory for their results
        for some in busy.chunks(2 * rayon::current_num_threads()) {
            let results: Vec<Matrix> = some.par_iter().map(expert).collect::<Result<_>>()?;
            for (tokens, result) in some.iter().map(|&expert| &tokens[expert]).zip(&results) {
                for (row, &(token, weight)) in result.rows().into_iter().zip(tokens) {
                    out.row_mut(token).scaled_add(weight, &row);
                }
            }
        }
        Ok(out)
    }
}
