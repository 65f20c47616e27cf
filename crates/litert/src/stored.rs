//! The rows of a constant in its model: as values, and held against the rounded rows of a checkpoint.

use quant::IntegerScales;
use tensor::Result;

use crate::constants::{Constant, ConstantEncoding, Scales};
use crate::source::{self, Source};
use crate::tflite::Model;

/// A constant with its model.
#[derive(Clone, Copy)]
pub struct StoredConstant<'a> {
    pub(crate) constant: &'a Constant,
    model: &'a Model,
    from: &'a dyn Source,
    encoding: ConstantEncoding,
}

impl<'a> StoredConstant<'a> {
    /// A constant of `model`, whose bytes are `from`. `None` for quantization that this tool does not handle.
    pub fn new(model: &'a Model, from: &'a dyn Source, constant: &'a Constant) -> Option<Self> {
        Some(StoredConstant { constant, model, from, encoding: constant.encoding? })
    }

    /// Bytes of codes and of one copy of the scales.
    pub fn bytes(&self) -> u64 {
        let (codes, scales) = self.encoding.row_bytes(self.constant.cols as usize);
        self.constant.rows * (codes + scales) as u64
    }

    /// The values of `count` rows from `first` on.
    ///
    /// # Errors
    /// Those of reading.
    pub fn values(&self, first: u64, count: u64) -> Result<Vec<f32>> {
        let codes = self.codes(first, count)?;
        let scales = self.constant.scales.first().map(|copy| self.scales(copy, first, count)).transpose()?;
        Ok(self.encoding.decode(self.constant.cols as usize, &codes, &scales.unwrap_or_default()))
    }

    /// The number of rows from `first` on whose codes or scales, in any copy, are not those of rounding `x` by `rule`. Rows of `x` that
    /// are codes times a scale may have both.
    ///
    /// # Errors
    /// Those of reading.
    pub fn differing(&self, first: u64, x: &[f32], rule: IntegerScales<'_>) -> Result<u64> {
        let cols = self.constant.cols as usize;
        let equal = self.equal_rows(first, x, rule, false)?;
        if equal.iter().all(|equal| *equal) {
            return Ok(0);
        }
        let mut differing = 0;
        for (number, x) in x.chunks_exact(cols).enumerate().filter(|(number, _)| !equal[*number]) {
            differing += u64::from(self.equal_rows(first + number as u64, x, rule, true)? != [true]);
        }
        Ok(differing)
    }

    /// Whether each row has the bytes of an encoding of `x`.
    fn equal_rows(
        &self,
        first: u64,
        x: &[f32],
        rule: IntegerScales<'_>,
        keep_grid: bool,
    ) -> Result<Vec<bool>> {
        let cols = self.constant.cols as usize;
        let count = (x.len() / cols) as u64;
        let (code_bytes, scale_bytes) = self.encoding.row_bytes(cols);
        let (codes, scales) = self.encoding.encode(cols, x, rule, keep_grid);
        let stored = self.codes(first, count)?;
        let of_rows = codes.chunks_exact(code_bytes).zip(stored.chunks_exact(code_bytes));
        let mut equal: Vec<bool> = of_rows.map(|(encoded, stored)| encoded == stored).collect();
        for copy in &self.constant.scales {
            let stored = self.scales(copy, first, count)?;
            let of_rows = stored.chunks_exact(scale_bytes).zip(scales.chunks_exact(scale_bytes));
            for (equal, (stored, encoded)) in equal.iter_mut().zip(of_rows) {
                *equal &= same_scales(self.encoding, stored, encoded);
            }
        }
        Ok(equal)
    }

    fn codes(&self, first: u64, count: u64) -> Result<Vec<u8>> {
        let (bytes, _) = self.encoding.row_bytes(self.constant.cols as usize);
        self.rows(self.model.buffers[self.constant.buffer].range.start, bytes, first, count)
    }

    fn scales(&self, copy: &Scales, first: u64, count: u64) -> Result<Vec<u8>> {
        let (_, bytes) = self.encoding.row_bytes(self.constant.cols as usize);
        let start = match copy {
            Scales::Vector(range) => range.start,
            Scales::Buffer(buffer) => self.model.buffers[*buffer].range.start,
        };
        self.rows(start, bytes, first, count)
    }

    /// Rows of `bytes` bytes each, the first of which begins at `start`.
    fn rows(&self, start: u64, bytes: usize, first: u64, count: u64) -> Result<Vec<u8>> {
        source::read(self.from, start + first * bytes as u64, count * bytes as u64)
    }
}

/// True for equal scales. A block of zeros may have the scale 0 in the bundle, as ai-edge-quantizer writes it.
fn same_scales(encoding: ConstantEncoding, stored: &[u8], encoded: &[u8]) -> bool {
    let is_block = matches!(encoding, ConstantEncoding::Integers(integers) if integers.block.is_some());
    let zero_block = quant::ZERO_BLOCK.to_le_bytes();
    stored == encoded
        || is_block
            && stored
                .chunks_exact(2)
                .zip(encoded.chunks_exact(2))
                .all(|(stored, encoded)| stored == encoded || stored == [0, 0] && encoded == zero_block)
}
