//! Search for one scale of the scales (or minima) of a super-block, all ≥ 0. ggml: `make_qp_quants`.

use crate::float::{GROUP_MAX_EPS, nearest_int};

/// Returns the scale and the codes of `x`, 0 to nmax, with the least squared error weighted by `w`.
pub(crate) fn positive<const K: usize>(nmax: i32, x: &[f32; K], w: &[f32; K]) -> (f32, [u8; K]) {
    let mut codes = [0u8; K];
    let max = x.iter().fold(0.0, |max, &v| if max > v { max } else { v });
    if max < GROUP_MAX_EPS {
        return (0.0, codes);
    }

    let mut inverse = nmax as f32 / max;
    let mut least = error(1.0 / inverse, x, w, |v| i32::from(nearest_int(inverse * v) as u8));
    for step in -4..=4 {
        if step == 0 {
            continue;
        }
        let candidate = (0.1 * step as f32 + nmax as f32) / max;
        let e = error(1.0 / candidate, x, w, |v| nearest_int(candidate * v).min(nmax));
        if e < least {
            least = e;
            inverse = candidate;
        }
    }

    let (mut sum_lx, mut sum_l2) = (0.0, 0.0);
    for i in 0..K {
        let l = nearest_int(inverse * x[i]).min(nmax);
        codes[i] = l as u8;
        sum_lx += w[i] * x[i] * l as f32;
        sum_l2 += w[i] * l as f32 * l as f32;
    }
    for _ in 0..5 {
        let mut changed = false;
        for i in 0..K {
            // The fit of the other values without value i, and the code that it gives value i.
            let (old, wx) = (f32::from(codes[i]), w[i] * x[i]);
            let mut lx = sum_lx - wx * old;
            let mut l2 = sum_l2 - w[i] * old * old;
            if lx > 0.0 && l2 > 0.0 {
                let code = nearest_int(x[i] * l2 / lx).min(nmax);
                if code != i32::from(codes[i]) {
                    lx += wx * code as f32;
                    l2 += w[i] * code as f32 * code as f32;
                    if lx * lx * sum_l2 > sum_lx * sum_lx * l2 {
                        codes[i] = code as u8;
                        (sum_lx, sum_l2) = (lx, l2);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    (if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }, codes)
}

/// Σ w·(x − scale·code)².
fn error<const K: usize>(scale: f32, x: &[f32; K], w: &[f32; K], code: impl Fn(f32) -> i32) -> f32 {
    let mut sum = 0.0;
    for i in 0..K {
        let difference = x[i] - scale * code(x[i]) as f32;
        sum += w[i] * difference * difference;
    }
    sum
}
