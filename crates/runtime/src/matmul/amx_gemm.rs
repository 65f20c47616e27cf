//! Matrix product on AMX tiles, block by block, with weights and tokens split into BF16 parts.
//!
//! Some columns of a block are decoded into tiles that stay in the L2 cache while they are multiplied with all tokens; then
//! come the next columns.

use std::ops::Range;

use ndarray::{ArrayViewMut2, Axis};
use rayon::prelude::*;
use tensor::{DType, Result};

use super::amx::{self, NO_SUMS, Parts, Sums, TILE_COLS, TILE_ROWS, Values};
use super::bf16_split::{PAIR, Packed, split};
use super::{SCRATCH, room};
use crate::{Matrix, Weight};

/// Rows and columns of weights in tiles at a time. They fit into the L2 cache with room for the tokens. With fewer rows the
/// tokens are read from memory more often, with fewer columns the sums.
const TILED_ROWS: usize = 256;
const TILED_COLS: usize = 512;

impl Weight<'_> {
    /// `y = x · Wᵀ` for the rows from `first` on. `x` must have whole tiles of columns.
    ///
    /// # Errors
    /// `Io` and `Malformed` of the source.
    pub(super) fn tiled(&self, x: &Matrix, first: u64, y: &mut Matrix) -> Result<()> {
        let (count, steps) = (y.ncols(), x.ncols() / TILE_COLS);
        let parts = if self.desc().dtype == DType::BF16 { Parts::ThreeByOne } else { Parts::TwoByTwo };
        let x_tiles = Packed::new(self.compute().simd, x, parts.of_tokens());
        let shares = 2 * rayon::current_num_threads();
        let block = count.div_ceil(shares).next_multiple_of(PAIR).min(TILED_ROWS);
        let blocks = y.axis_chunks_iter_mut(Axis(1), block).into_par_iter().enumerate();
        blocks.try_for_each(|(n, out)| {
            SCRATCH.with_borrow_mut(|scratch| {
                let rows = out.ncols();
                let (row_pairs, token_pairs) = (rows.div_ceil(PAIR), x.nrows().div_ceil(PAIR));
                let bytes = room(&mut scratch.bytes, rows * self.desc().row_bytes() as usize, 0);
                self.read_bytes(first + (n * block) as u64, bytes)?;
                scratch.sums.clear();
                scratch.sums.resize(token_pairs * row_pairs, NO_SUMS);
                for step in (0..steps).step_by(TILED_COLS / TILE_COLS) {
                    let steps = step..steps.min(step + TILED_COLS / TILE_COLS);
                    let tiles = room(
                        &mut scratch.tiles,
                        row_pairs * steps.len() * 2 * parts.of_weights(),
                        Values::ZERO,
                    );
                    self.tiles(&scratch.bytes, rows, steps.clone(), parts, &mut scratch.values, tiles);
                    for (pair, sums) in scratch.sums.chunks_exact_mut(row_pairs).enumerate() {
                        amx::multiply(parts, steps.len(), x_tiles.pair(pair, steps.clone()), tiles, sums);
                    }
                }
                store(&scratch.sums, out);
                Ok(())
            })
        })
    }

    /// Decodes some columns of rows of weights into tiles of the second factor. Rows that pad the last pair of tiles are
    /// unspecified.
    fn tiles(
        &self,
        bytes: &[u8],
        rows: usize,
        steps: Range<usize>,
        parts: Parts,
        values: &mut Vec<f32>,
        tiles: &mut [Values],
    ) {
        let (dtype, row_bytes) = (self.desc().dtype, self.desc().row_bytes() as usize);
        let stored = |step: usize| step * TILE_COLS / dtype.block_len() * dtype.block_bytes();
        let values = room(values, steps.len() * TILE_COLS, 0.0);
        let pair = steps.len() * 2 * parts.of_weights();
        let span = stored(steps.start)..stored(steps.end);
        for (rows, tiles) in
            bytes[..rows * row_bytes].chunks(PAIR * row_bytes).zip(tiles.chunks_exact_mut(pair))
        {
            for (row, bytes) in rows.chunks_exact(row_bytes).enumerate() {
                let bytes = &bytes[span.clone()];
                match parts {
                    Parts::ThreeByOne => {
                        for (bytes, tiles) in bytes.chunks_exact(2 * TILE_COLS).zip(tiles.chunks_exact_mut(2))
                        {
                            // a CPU with AMX is little-endian, like the file
                            let values = &mut tiles[row / TILE_ROWS].0[row % TILE_ROWS];
                            bytemuck::cast_slice_mut(values).copy_from_slice(bytes);
                        }
                    }
                    Parts::TwoByTwo => {
                        quant::decode(self.compute().simd, dtype, bytes, values);
                        split(self.compute().simd, values, 2, row, tiles);
                    }
                }
            }
            amx::transpose(tiles);
        }
    }
}

/// Writes sums to some columns of the product: a row a token.
fn store(sums: &[Sums], mut out: ArrayViewMut2<'_, f32>) {
    let row_pairs = out.ncols().div_ceil(PAIR);
    for (token, out) in out.outer_iter_mut().enumerate() {
        let sums = &sums[token / PAIR * row_pairs..][..row_pairs];
        let tile = |n: usize| &sums[n / 2][token / TILE_ROWS % 2 * 2 + n % 2].0[token % TILE_ROWS];
        let (whole, rest) = out.into_slice().expect("columns side by side").as_chunks_mut::<TILE_ROWS>();
        rest.copy_from_slice(if rest.is_empty() { &[] } else { &tile(whole.len())[..rest.len()] });
        whole.iter_mut().enumerate().for_each(|(n, out)| *out = *tile(n));
    }
}
