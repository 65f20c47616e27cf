//! f32 values as sums of BF16 values, laid out for the tiles of [`super::tiles`].
//!
//! Cut off after 8 bits of the mantissa, again, and once more, an f32 is the exact sum of three BF16 values. Products of
//! the parts, summed in f32, are then as good as products of f32.

use rayon::prelude::*;

use super::tiles::{TILE_COLS, TILE_ROWS};
use crate::Matrix;
use crate::math::vectorised;

/// `x` transposed into tiles: for each group of 16 tokens and each 32 columns, `parts` tiles after another.
pub(super) struct Packed {
    /// Groups in pairs; tokens that are not there are zeros.
    pub(super) data: Vec<u32>,
    /// Values (pairs of BF16) of a group.
    pub(super) group: usize,
    /// How many parts a value has: 2 (16 bits) or 3 (all 24).
    pub(super) parts: usize,
}

impl Packed {
    /// `x` must have whole tiles of columns.
    pub(super) fn new(x: &Matrix, parts: usize) -> Packed {
        let tokens = x.rows().next_multiple_of(2 * TILE_ROWS);
        let group = x.cols() / 2 * TILE_ROWS * parts;
        let mut data = vec![0; tokens / TILE_ROWS * group];
        let rows = x.data().par_chunks(TILE_ROWS * x.cols());
        rows.zip(data.par_chunks_mut(group)).for_each(|(x_rows, group)| pack(x_rows, x.cols(), parts, group));
        Packed { data, group, parts }
    }
}

vectorised! {
    /// One group. A row of a tile holds two columns of all 16 tokens: that is how the second factor is multiplied.
    fn pack(x: &[f32], cols: usize, parts: usize, out: &mut [u32]) {
        for (token, x) in x.chunks_exact(cols).enumerate() {
            for (columns, tiles) in x.chunks_exact(TILE_COLS).zip(out.chunks_exact_mut(parts * TILE)) {
                let mut rest = [0.0; TILE_COLS];
                rest.copy_from_slice(columns);
                for (part, tile) in tiles.chunks_exact_mut(TILE).enumerate() {
                    let last = part + 1 == parts;
                    let mut bits = [0; TILE_COLS];
                    for (bits, rest) in bits.iter_mut().zip(&mut rest) {
                        *bits = if last { round(*rest) } else { cut(rest) };
                    }
                    for (row, pair) in tile.chunks_exact_mut(TILE_ROWS).zip(bits.chunks_exact(2)) {
                        row[token] = pair[0] | pair[1] << 16;
                    }
                }
            }
        }
    }
}

/// Values (pairs of BF16) of a tile.
const TILE: usize = TILE_ROWS * TILE_COLS / 2;

vectorised! {
    /// A row of weights as two parts, to a row of consecutive tiles each.
    pub(super) fn split(w: &[f32], high: &mut [u16], low: &mut [u16]) {
        let tiles = high.chunks_mut(TILE_ROWS * TILE_COLS).zip(low.chunks_mut(TILE_ROWS * TILE_COLS));
        for (w, (high, low)) in w.as_chunks::<TILE_COLS>().0.iter().zip(tiles) {
            for ((w, high), low) in w.iter().zip(&mut high[..TILE_COLS]).zip(&mut low[..TILE_COLS]) {
                let mut rest = *w;
                *high = cut(&mut rest) as u16;
                *low = round(rest) as u16;
            }
        }
    }
}

/// The upper half of `x` as BF16; leaves the rest in `x`.
#[inline(always)]
fn cut(x: &mut f32) -> u32 {
    let high = x.to_bits() & 0xffff_0000;
    *x -= f32::from_bits(high);
    high >> 16
}

/// `x` as BF16, to nearest, ties to even. NaN stays NaN: what is left of an infinity or a NaN is a quiet one.
#[inline(always)]
fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    (bits + 0x7fff + (bits >> 16 & 1)) >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(bits: u32) -> f32 {
        f32::from_bits(bits << 16)
    }

    #[test]
    fn three_parts_are_the_value_and_two_nearly() {
        for n in 1..100_000u32 {
            let x = f32::from_bits(n.wrapping_mul(2_654_435_761) & 0x8fff_ffff | 0x3000_0000);
            let mut rest = x;
            let parts = [cut(&mut rest), cut(&mut rest), round(rest)];
            assert_eq!(parts.map(value).iter().sum::<f32>(), x);
            let (mut high, mut low) = ([0; TILE_COLS], [0; TILE_COLS]);
            split(&[x; TILE_COLS], &mut high, &mut low);
            let error = (value(high[0].into()) + value(low[0].into()) - x).abs();
            assert!(error <= x.abs() * 2f32.powi(-16), "{x}: {error}");
        }
    }

    #[test]
    fn tiles_hold_pairs_of_columns_of_sixteen_tokens() {
        let mut x = Matrix::zeros(18, 64);
        x.data_mut().iter_mut().enumerate().for_each(|(n, x)| *x = n as f32 / 3.0);
        let packed = Packed::new(&x, 3);
        assert_eq!(packed.data.len(), 32 * 64 / 2 * 3);
        for (token, column) in [(0, 0), (5, 1), (15, 31), (16, 32), (17, 63)] {
            let tiles = &packed.data[token / 16 * packed.group..][column / 32 * 3 * TILE..];
            let pair = |part: usize| tiles[part * TILE + column % 32 / 2 * 16 + token % 16];
            let sum: f32 = (0..3).map(|part| value(pair(part) >> (column % 2 * 16) & 0xffff)).sum();
            assert_eq!(sum, x.row(token)[column]);
        }
        // a token that is not there
        assert_eq!(packed.data[packed.group + 2], 0);
    }
}
