//! Sums of exponentials over slices of a row of logits, for probabilities and KL divergences.

use quant::Simd;
use runtime::{exp, vectorised};

/// Sums over a slice of the vocabulary. `p` and `q` are the logits of two models.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ExpSums {
    /// `Σ exp(p − tops[0])`
    pub p: f64,
    /// `Σ exp(q − tops[1])`
    pub q: f64,
    /// `Σ exp(p − tops[0]) · (p − q)`
    pub cross: f64,
}

/// The sums for `q`, and for `p` unless it is empty. `tops` must be at least the largest logits of `p` and `q`.
///
/// # Panics
/// If `p` is neither empty nor as long as `q`.
pub fn exp_sums(simd: Simd, p: &[f32], q: &[f32], tops: [f32; 2]) -> ExpSums {
    /// Number of values summed in f32; these sums are added in f64.
    const PIECE: usize = 1024;
    assert!(p.is_empty() || p.len() == q.len(), "logits of the same tokens");
    let mut all = ExpSums::default();
    for (n, q) in q.chunks(PIECE).enumerate() {
        let p = if p.is_empty() { p } else { &p[n * PIECE..][..q.len()] };
        let [a, b, cross] = piece(simd, p, q, tops);
        all.p += f64::from(a);
        all.q += f64::from(b);
        all.cross += f64::from(cross);
    }
    all
}

vectorised! {
    fn piece(p: &[f32], q: &[f32], tops: [f32; 2]) -> [f32; 3] {
        const LANES: usize = 16;
        let mut sums = [[0.0f32; LANES]; 3];
        let (q_blocks, q_rest) = q.as_chunks::<LANES>();
        let (p_blocks, p_rest) = p.as_chunks::<LANES>();
        for q in q_blocks {
            for lane in 0..LANES {
                sums[1][lane] += exp(q[lane] - tops[1]);
            }
        }
        for (p, q) in p_blocks.iter().zip(q_blocks) {
            for lane in 0..LANES {
                let e = exp(p[lane] - tops[0]);
                sums[0][lane] += e;
                sums[2][lane] += e * (p[lane] - q[lane]);
            }
        }
        for (lane, q) in q_rest.iter().enumerate() {
            sums[1][lane] += exp(q - tops[1]);
        }
        for (lane, (p, q)) in p_rest.iter().zip(q_rest).enumerate() {
            let e = exp(p - tops[0]);
            sums[0][lane] += e;
            sums[2][lane] += e * (p - q);
        }
        sums.map(|lanes| lanes.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_take_every_value() {
        let p: Vec<f32> = (0..2500).map(|n| -(n % 37) as f32 * 0.25).collect();
        let q: Vec<f32> = (0..2500).map(|n| 3.0 - (n % 41) as f32 * 0.25).collect();
        let sums = exp_sums(Simd::detect(), &p, &q, [0.0, 3.0]);
        let (mut a, mut b, mut cross) = (0.0, 0.0, 0.0);
        for (&p, &q) in p.iter().zip(&q) {
            let (p, q) = (f64::from(p), f64::from(q));
            a += p.exp();
            b += (q - 3.0).exp();
            cross += p.exp() * (p - q);
        }
        for (ours, exact) in [(sums.p, a), (sums.q, b), (sums.cross, cross)] {
            assert!((ours - exact).abs() < 1e-5 * exact.abs(), "{ours} is not {exact}");
        }
        let alone = exp_sums(Simd::detect(), &[], &q, [0.0, 3.0]);
        assert_eq!(alone, ExpSums { q: sums.q, ..ExpSums::default() });
    }
}
