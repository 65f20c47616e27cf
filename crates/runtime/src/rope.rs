//! Rotary position embedding (RoPE): pairs of dimensions are rotated by an angle proportional to the position.
//!
//! Pairs are (j, j + d/2), as in GPT-NeoX. Sliding layers rotate all pairs; full layers rotate the first quarter, with
//! frequencies computed over the whole head ("proportional"). The other pairs are not rotated: `rope_freqs` divides their
//! frequencies by 1e30.

use rayon::prelude::*;

use crate::sin_cos::sin_cos;
use crate::{Matrix, RowMajor};

/// The frequency of each pair of a head, in radians a position.
pub(crate) fn frequencies(base: f32, head_dim: usize, divisors: Option<&[f32]>) -> Vec<f32> {
    let frequency = |j: usize| {
        let exponent = 2.0 * j as f64 / head_dim as f64;
        // as torch does it: the power in f32, and its inverse
        let frequency = 1.0 / f64::from(base).powf(exponent) as f32;
        divisors.map_or(frequency, |divisors| frequency / divisors[j])
    };
    (0..head_dim / 2).map(frequency).collect()
}

/// Rotates all heads of each row by the row's position.
pub(crate) fn rotate(x: &mut Matrix, positions: &[usize], frequencies: &[f32]) {
    rotate_axes(x, |row| [positions[row]], frequencies);
}

/// Rotates all heads of each row by the row's positions on several axes: a head has a part for each axis, one after the other, and
/// its pairs are inside of a part.
pub(crate) fn rotate_axes<const AXES: usize>(
    x: &mut Matrix,
    positions: impl Fn(usize) -> [usize; AXES] + Sync,
    frequencies: &[f32],
) {
    let half = frequencies.len();
    let cols = x.ncols();
    x.values_mut().par_chunks_mut(cols).enumerate().with_min_len(8).for_each_init(
        || vec![(0.0, 0.0); AXES * half],
        |turns, (row, values)| {
            for (turns, position) in turns.chunks_exact_mut(half).zip(positions(row)) {
                for (turn, frequency) in turns.iter_mut().zip(frequencies) {
                    *turn = sin_cos(position as f32 * frequency);
                }
            }
            for head in values.chunks_exact_mut(AXES * 2 * half) {
                for (part, turns) in head.chunks_exact_mut(2 * half).zip(turns.chunks_exact(half)) {
                    let (left, right) = part.split_at_mut(half);
                    for ((a, b), (sin, cos)) in left.iter_mut().zip(right).zip(turns) {
                        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                    }
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_turns_by_position_times_frequency() {
        let frequencies = frequencies(1e4, 4, Some(&[1.0, 1e30]));
        assert_eq!(frequencies, [1.0, 0.01 / 1e30]);
        let mut x = ndarray::array![[1.0, 2.0, 0.0, 3.0], [1.0, 2.0, 0.0, 3.0]];
        rotate(&mut x, &[0, 2], &frequencies);
        assert_eq!(x, ndarray::array![[1.0, 2.0, 0.0, 3.0], [sin_cos(2.0).1, 2.0, sin_cos(2.0).0, 3.0]]);
        // two axes: the first half of a head turns by the first position
        let mut x = ndarray::array![[1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0]];
        rotate_axes(&mut x, |_| [2, 3], &[1.0]);
        let [(a, b), (c, d)] = [2.0, 3.0].map(sin_cos);
        assert_eq!(x, ndarray::array![[b, a, d, c, -a, b, d, c]]);
    }
}
