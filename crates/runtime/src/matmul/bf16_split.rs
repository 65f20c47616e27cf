//! f32 values as sums of BF16 values, laid out for the tiles of [`super::amx`].
//!
//! An f32 is the exact sum of three BF16 values of 8 mantissa bits each. Products of the parts, summed in f32, have the
//! precision of f32 products.

use quant::Simd;
use rayon::prelude::*;

use super::amx::{TILE_COLS, TILE_ROWS, Values};
use crate::vectorised;
use crate::{Matrix, RowMajor};

/// Rows of a pair of tiles.
pub(super) const PAIR: usize = 2 * TILE_ROWS;

/// Tokens in parts: for each pair of tiles of them, for each 32 columns, for each part, the pair of tiles.
pub(super) struct Packed {
    tiles: Vec<Values>,
    /// Parts of a value: 2 (16 bits) or 3 (all 24).
    parts: usize,
    /// Tiles of columns.
    steps: usize,
}

impl Packed {
    /// `x` must have whole tiles of columns.
    pub(super) fn new(simd: Simd, x: &Matrix, parts: usize) -> Packed {
        let steps = x.ncols() / TILE_COLS;
        let pair = 2 * parts * steps;
        // missing tokens are zeros
        let mut tiles = vec![Values::ZERO; x.nrows().div_ceil(PAIR) * pair];
        let rows = x.values().par_chunks(PAIR * x.ncols());
        rows.zip(tiles.par_chunks_mut(pair)).for_each(|(rows, tiles)| {
            rows.chunks_exact(x.ncols()).enumerate().for_each(|(row, x)| split(simd, x, parts, row, tiles));
        });
        Packed { tiles, parts, steps }
    }

    /// Some tiles of columns of a pair.
    pub(super) fn pair(&self, pair: usize, steps: std::ops::Range<usize>) -> &[Values] {
        let step = 2 * self.parts;
        &self.tiles[pair * self.steps * step..][steps.start * step..steps.end * step]
    }
}

vectorised! {
    /// A row of values in parts, to that row of consecutive pairs of tiles.
    pub(super) fn split(x: &[f32], parts: usize, row: usize, tiles: &mut [Values]) {
        for (x, tiles) in x.as_chunks::<TILE_COLS>().0.iter().zip(tiles.chunks_exact_mut(2 * parts)) {
            let mut rest = *x;
            for part in 0..parts {
                let bits = &mut tiles[2 * part + row / TILE_ROWS].0[row % TILE_ROWS];
                if part + 1 < parts {
                    bits.iter_mut().zip(&mut rest).for_each(|(bits, rest)| *bits = cut(rest));
                } else {
                    bits.iter_mut().zip(&rest).for_each(|(bits, rest)| *bits = round(*rest));
                }
            }
        }
    }
}

/// The upper half of `x` as BF16; leaves the rest in `x`.
#[inline(always)]
fn cut(x: &mut f32) -> u16 {
    let high = x.to_bits() & 0xffff_0000;
    *x -= f32::from_bits(high);
    (high >> 16) as u16
}

/// `x` as BF16, rounded to nearest, ties to even. NaN stays NaN: the remainder of an infinity or a NaN is a quiet one.
#[inline(always)]
fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(bits: u16) -> f32 {
        f32::from_bits(u32::from(bits) << 16)
    }

    #[test]
    fn three_parts_are_the_value_and_two_nearly() {
        for n in 1..100_000u32 {
            let x = f32::from_bits(n.wrapping_mul(2_654_435_761) & 0x8fff_ffff | 0x3000_0000);
            let mut rest = x;
            let [first, second, third] = [cut(&mut rest), cut(&mut rest), round(rest)].map(value);
            assert_eq!(first + second + third, x);
            let mut rest = x;
            let error = (value(cut(&mut rest)) + value(round(rest)) - x).abs();
            assert!(error <= x.abs() * 2f32.powi(-16), "{x}: {error}");
        }
    }

    #[test]
    fn a_pair_of_tiles_holds_32_columns_of_a_part_of_32_tokens() {
        let x = Matrix::from_shape_fn((34, 64), |(row, col)| (row * 64 + col) as f32 / 3.0);
        let packed = Packed::new(Simd::detect(), &x, 3);
        for (token, column) in [(0, 0), (5, 1), (15, 31), (16, 32), (31, 33), (33, 63)] {
            let tiles = packed.pair(token / 32, column / 32..column / 32 + 1);
            let part = |part: usize| value(tiles[2 * part + token % 32 / 16].0[token % 16][column % 32]);
            assert_eq!((0..3).map(part).sum::<f32>(), x[[token, column]]);
        }
        // a token that is not there
        assert_eq!(packed.pair(1, 0..2)[0].0[2], [0; 32]);
    }
}
