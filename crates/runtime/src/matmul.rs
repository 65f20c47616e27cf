//! `y = x · Wᵀ` with quantized weights, which are decoded a few rows at a time.
//!
//! The unit of work is a block of rows of W: read, decoded, multiplied with all of x. A matrix is read once for any number of
//! tokens, and is never whole in memory. There are three kernels:
//!
//! | kernel | used for | precision |
//! |---|---|---|
//! | [`quant::dot`], from the stored bytes | up to four tokens | f32 |
//! | the `gemm` crate | more tokens; then always for F32 weights, such as the router's | f32 |
//! | `amx_gemm.rs` | more tokens, on a CPU with AMX, see [`Kernel`] | BF16 weights: as f32; others: 16 bits of x and of W |
//!
//! Results do not depend on the number of threads: threads divide the rows of W, and each row is computed by one.

mod amx;
mod amx_gemm;
mod bf16_split;

use std::cell::RefCell;
use std::ops::Range;

use ndarray::{ArrayView2, Axis};
use quant::DOT_VECTORS;
use rayon::prelude::*;
use tensor::{DType, Result};

use self::amx::{Sums, TILE_COLS, Values};
use crate::gemm::general_mat_mul;
use crate::{Matrix, RowMajor, Weight};

/// The kernel for products with more than four tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// f32 products of the `gemm` crate: the reference.
    F32,
    /// Intel AMX tiles; each value is a sum of BF16 values.
    AmxBf16,
}

impl Kernel {
    /// The name of the kernel in files that depend on it.
    pub const fn name(self) -> &'static str {
        match self {
            Kernel::F32 => "f32",
            Kernel::AmxBf16 => "amx",
        }
    }

    /// The fastest kernel that this CPU and its operating system support.
    pub fn detect() -> Kernel {
        if Kernel::AmxBf16.is_available() { Kernel::AmxBf16 } else { Kernel::F32 }
    }

    /// All kernels that they support.
    pub fn available() -> Vec<Kernel> {
        [Kernel::F32, Kernel::AmxBf16].into_iter().filter(|kernel| kernel.is_available()).collect()
    }

    /// Whether this CPU and its operating system support the kernel.
    pub fn is_available(self) -> bool {
        self == Kernel::F32 || amx::is_available()
    }
}

/// f32 values of a block of weights: the size of a core's L2 cache.
const BLOCK: usize = 512 * 1024;

/// Bytes of the decoded weights that a thread holds.
pub const SCRATCH_BYTES: usize = BLOCK * size_of::<f32>();

/// Bytes of a block of weights that are used as stored: they pass from the page cache through the L2 cache, and the block is
/// large enough to hide the cost of a system call.
const BLOCK_STORED: usize = 128 * 1024;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// Buffers for a block of weights. They are reused, because fresh memory costs as much as the work on it.
#[derive(Default)]
struct Scratch {
    /// As stored.
    bytes: Vec<u8>,
    /// Decoded.
    values: Vec<f32>,
    /// Decoded, in tiles: for each pair of tiles of rows, for each 32 columns, for each part, the pair.
    tiles: Vec<Values>,
    /// Sums so far: for each pair of tiles of tokens, for each pair of tiles of rows.
    sums: Vec<Sums>,
}

/// The first `len` items, after growing the vector if needed.
fn room<T: Clone>(items: &mut Vec<T>, len: usize, new: T) -> &mut [T] {
    if items.len() < len {
        items.resize(len, new);
    }
    &mut items[..len]
}

impl Weight<'_> {
    /// `x · Wᵀ` for some rows of W (dimensions before the last are one): `x` is `[tokens, cols]`, the result
    /// `[tokens, rows]`.
    ///
    /// # Errors
    /// `Io` and `Malformed` of the source.
    ///
    /// # Panics
    /// When the rows do not exist or `x` has another width.
    pub(crate) fn project(&self, x: &Matrix, rows: Range<u64>) -> Result<Matrix> {
        self.project_some(x, rows, x.nrows())
    }

    /// As [`Weight::project`] for some tokens of a batch of `batch` tokens. The size of the batch selects the kernel, so that a
    /// token's result does not depend on how many others the router sent to the same expert.
    ///
    /// # Errors
    /// Those of [`Weight::project`].
    pub(crate) fn project_some(&self, x: &Matrix, rows: Range<u64>, batch: usize) -> Result<Matrix> {
        self.product(x, rows, batch, BLOCK / x.ncols())
    }

    /// `x · Wᵀ` for all rows of W, in blocks of `block` rows: for weights so small that blocks as large as the L2 cache are too few
    /// to share among threads.
    ///
    /// # Errors
    /// Those of [`Weight::project`].
    pub(crate) fn project_in_blocks(&self, x: &Matrix, block: usize) -> Result<Matrix> {
        self.product(x, 0..self.desc().rows(), x.nrows(), block.min(BLOCK / x.ncols()))
    }

    fn product(&self, x: &Matrix, rows: Range<u64>, batch: usize, block: usize) -> Result<Matrix> {
        assert_eq!(x.ncols() as u64, self.desc().cols(), "columns of {}", self.desc().name);
        let mut y = Matrix::zeros((x.nrows(), (rows.end - rows.start) as usize));
        if batch <= DOT_VECTORS {
            self.dot_products(x, rows.start, &mut y)?;
        } else if self.compute().kernel == Kernel::AmxBf16 && self.fits_tiles() {
            self.tiled(x, rows.start, &mut y)?;
        } else {
            self.blocks(x, rows.start, block, &mut y)?;
        }
        Ok(y)
    }

    /// AMX needs whole tiles of columns, and would lose precision of F32 weights.
    fn fits_tiles(&self) -> bool {
        (self.desc().cols() as usize).is_multiple_of(TILE_COLS) && self.desc().dtype != DType::F32
    }

    fn dot_products(&self, x: &Matrix, first: u64, y: &mut Matrix) -> Result<()> {
        let (tokens, count) = (x.nrows(), y.ncols());
        if tokens == 0 || count == 0 {
            return Ok(());
        }
        let (row_bytes, dtype) = (self.desc().row_bytes() as usize, self.desc().dtype);
        let block = (BLOCK_STORED / row_bytes).max(1);
        // a row of weights after another, and for each the tokens
        let work = |(n, out): (usize, &mut [f32])| {
            let (first, count) = (first + (n * block) as u64, out.len() / tokens);
            let dot = |rows: &[u8], out: &mut [f32]| {
                quant::dot(self.compute().simd, dtype, x.ncols(), rows, x.values(), out);
            };
            if let Some(rows) = self.mapped(first, count as u64) {
                dot(rows, out);
                return Ok(());
            }
            SCRATCH.with_borrow_mut(|Scratch { bytes, .. }| {
                let rows = room(bytes, count * row_bytes, 0);
                self.read_bytes(first, rows)?;
                dot(rows, out);
                Ok(())
            })
        };
        if tokens == 1 {
            return y.values_mut().par_chunks_mut(block).enumerate().try_for_each(work);
        }
        let mut by_row = Matrix::zeros((count, tokens));
        by_row.values_mut().par_chunks_mut(block * tokens).enumerate().try_for_each(work)?;
        y.assign(&by_row.t());
        Ok(())
    }

    fn blocks(&self, x: &Matrix, first: u64, block: usize, y: &mut Matrix) -> Result<()> {
        let block = block.clamp(1, y.ncols());
        let blocks = y.axis_chunks_iter_mut(Axis(1), block).into_par_iter().enumerate();
        blocks.try_for_each(|(n, out)| {
            self.with_rows(first + (n * block) as u64, out.ncols(), |w| {
                general_mat_mul(1.0, x.view(), w.reversed_axes(), 0.0, out);
            })
        })
    }

    /// Calls `work` with `count` decoded rows.
    fn with_rows(&self, first: u64, count: usize, work: impl FnOnce(ArrayView2<'_, f32>)) -> Result<()> {
        SCRATCH.with_borrow_mut(|Scratch { bytes, values, .. }| {
            let shape = (count, self.desc().cols() as usize);
            let values = room(values, shape.0 * shape.1, 0.0);
            self.read(first, bytes, values)?;
            work(ArrayView2::from_shape(shape, values).expect("whole rows"));
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use quant::Simd;
    use tensor::{DType, TensorDesc};
    use testkit::MemoryTensors;

    use super::*;

    /// Numbers around 0 that repeat after a long time.
    fn fill(out: &mut [f32], seed: usize) {
        for (n, x) in out.iter_mut().enumerate() {
            *x = ((n * 7919 + seed) % 1009) as f32 / 504.0 - 1.0 + (n % 13) as f32 * 1e-4;
        }
    }

    /// Each row of the result is in its place; the values are tested in quant.
    #[test]
    fn few_tokens_equal_each_token_alone() {
        let (rows, cols) = (700, 512);
        let desc = TensorDesc::new("w", DType::Q8_0, [rows as u64, cols as u64]).unwrap();
        let mut w = vec![0.0; rows * cols];
        fill(&mut w, 1);
        let mut bytes = vec![0; desc.byte_len() as usize];
        quant::encode(Simd::detect(), DType::Q8_0, cols, &w, None, &mut bytes);
        let source = MemoryTensors::one(desc, bytes);
        let weight = Weight::alone(&source, Kernel::F32);
        for tokens in 2..=DOT_VECTORS {
            let mut x = Matrix::zeros((tokens, cols));
            fill(x.values_mut(), tokens);
            let together = weight.project(&x, 3..rows as u64).unwrap();
            for token in 0..tokens {
                let alone = weight.project(&x.select(Axis(0), &[token]), 3..rows as u64).unwrap();
                assert_eq!(together.row(token), alone.row(0));
            }
        }
    }

    #[test]
    fn every_kernel_computes_products_of_any_size() {
        let kernels = testkit::available("kernel", [Kernel::F32, Kernel::AmxBf16], Kernel::is_available);
        // tokens, rows, columns: whole tiles, less, more than the tiles take at a time
        for (tokens, rows, cols) in
            [(1, 5, 64), (2, 1, 32), (5, 3, 32), (33, 47, 96), (530, 70, 64), (40, 600, 1056), (7, 40, 48)]
        {
            let mut w = vec![0.0; rows * cols];
            fill(&mut w, 1);
            let mut x = Matrix::zeros((tokens, cols));
            fill(x.values_mut(), 5);
            for dtype in [DType::BF16, DType::F32, DType::Q8_0, DType::Q6_K] {
                let Ok(desc) = TensorDesc::new("w", dtype, [rows as u64, cols as u64]) else { continue };
                let mut bytes = vec![0; desc.byte_len() as usize];
                quant::encode(Simd::detect(), dtype, cols, &w, None, &mut bytes);
                let mut stored = vec![0.0; w.len()];
                quant::decode(Simd::detect(), dtype, &bytes, &mut stored);
                let source = MemoryTensors::one(desc, bytes);
                for &kernel in &kernels {
                    let (first, last) = (rows / 3, rows);
                    let y = Weight::alone(&source, kernel).project(&x, first as u64..last as u64).unwrap();
                    // f32 sums, or factors of 16 bits
                    let exact = kernel == Kernel::F32 || matches!(dtype, DType::BF16 | DType::F32);
                    let limit = if exact { 2f64.powi(-19) } else { 2f64.powi(-15) };
                    for (token, row) in (0..tokens).flat_map(|t| (first..last).map(move |r| (t, r))) {
                        let pairs = x.row(token).into_iter().zip(&stored[row * cols..][..cols]);
                        let products = pairs.map(|(x, w)| f64::from(*x) * f64::from(*w));
                        let (sum, size) =
                            products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
                        let found = f64::from(y[[token, row - first]]);
                        assert!(
                            (found - sum).abs() <= limit * size,
                            "{kernel:?} {dtype} {tokens}×{rows}×{cols} at {token}, {row}: {found}, not {sum}"
                        );
                    }
                }
            }
        }
    }
}
