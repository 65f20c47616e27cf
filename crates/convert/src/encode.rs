//! Encoding of one block of rows: from the checkpoint's bytes to the bytes of each artifact.

use plan::StoredPiece;
use quant::Simd;
use tensor::{DType, Error, Result};

use crate::fp8_scales::Divided;
use crate::schedule::{Use, Wanted, rows_of_matrix};

/// The values of the block that a worker has read. Encoders get a shared reference, so that no artifact of a run can
/// change the input of another.
#[derive(Default)]
pub(crate) struct Loaded {
    values: Vec<f32>,
}

/// An encoder's buffers, with undefined content between calls.
#[derive(Default)]
pub(crate) struct Scratch {
    rounded: Vec<f32>,
    changed: Vec<f32>,
    narrow: Vec<u8>,
    divided: Divided,
    weights: Vec<f32>,
    pub(crate) encoded: Vec<u8>,
}

/// The reason why a block cannot be encoded.
pub(crate) enum Flaw {
    /// A value is not finite; [`report`] determines the position and the number of such values.
    NotFinite,
    /// The values overflow the chosen type, or are invalid.
    Of(Error),
}

impl Loaded {
    /// Widens a block to f32 and checks that every value is finite and none overflows the types it is encoded in.
    /// `scales` are those of the block's rows, if it is encoded.
    pub(crate) fn load(
        &mut self,
        simd: Simd,
        wanted: &Wanted,
        bytes: &[u8],
        scales: &[f32],
    ) -> Result<(), Flaw> {
        let Wanted { stored, cols, uses, .. } = wanted;
        self.values.resize(stored.dtype.elements(bytes.len()), 0.0);
        if stored.pieces.are_scaled() {
            let within = |e: Error| Flaw::Of(e.within(format!("tensor {}", stored.tensor)));
            checkpoint::decode(simd, stored.dtype, bytes, &mut self.values).map_err(within)?;
            checkpoint::multiply(&mut self.values, *cols, scales);
        } else {
            quant::decode(simd, stored.dtype, bytes, &mut self.values);
        }
        if !wanted.finite {
            return Ok(());
        }
        // types with a scale of their own cannot overflow
        let unscaled = uses.iter().filter(|to| to.scale.is_none()).map(|to| to.desc.dtype);
        let narrowest = unscaled.min_by(|a, b| quant::largest(*a).total_cmp(&quant::largest(*b)));
        let narrowest = narrowest.unwrap_or(DType::F32);
        match quant::first_beyond(&self.values, quant::largest(narrowest)) {
            None => Ok(()),
            Some(at) if self.values[at].is_finite() => Err(overflow(wanted, narrowest, &self.values)),
            Some(_) if stored.pieces.are_scaled() => {
                let place = format!("tensor {}", stored.tensor);
                Err(Flaw::Of(Error::malformed(place, "its scale is too large: a weight is infinite")))
            }
            Some(_) => Err(Flaw::NotFinite),
        }
    }

    /// Checks a block that is only copied. Float types are checked without widening.
    pub(crate) fn check(&mut self, simd: Simd, wanted: &Wanted, bytes: &[u8]) -> Result<(), Flaw> {
        match wanted.stored.dtype {
            dtype @ (DType::BF16 | DType::F16 | DType::F32) => match quant::invalid_block(dtype, bytes) {
                None => Ok(()),
                Some(_) => Err(Flaw::NotFinite),
            },
            _ => self.load(simd, wanted, bytes, &[]),
        }
    }

    /// The largest magnitude of the loaded block.
    pub(crate) fn largest(&self) -> f32 {
        quant::max_abs(&self.values)
    }

    /// The loaded values.
    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }
}

impl Scratch {
    /// Encodes the values of a block, from row `first` on, for one use, into `self.encoded`.
    pub(crate) fn encode(
        &mut self,
        simd: Simd,
        wanted: &Wanted,
        to: &Use,
        first: u64,
        values: &[f32],
    ) -> Result<(), Flaw> {
        let Scratch { rounded, changed, narrow, weights, encoded, .. } = self;
        let values = match to.change {
            Some(change) => {
                changed.resize(values.len(), 0.0);
                change.kind.rows(wanted.cols, values, changed);
                changed
            }
            None => values,
        };
        let values = by_way_of(to.via, simd, wanted.cols, values, narrow, rounded);
        if to.lattice.is_some() {
            return repack(simd, wanted, to, values, encoded);
        }
        if to.importance.is_some() {
            return encode_weighted(simd, wanted, to, first, values, weights, encoded);
        }
        encode(simd, wanted, to, values, encoded)
    }

    /// Like [`encode`](Self::encode), with a scale for each row. Returns the encoded scales.
    pub(crate) fn encode_rows(
        &mut self,
        simd: Simd,
        wanted: &Wanted,
        to: &Use,
        values: &[f32],
    ) -> Result<&[u8], Flaw> {
        let Scratch { rounded, narrow, divided, encoded, .. } = self;
        let values = by_way_of(to.via, simd, wanted.cols, values, narrow, rounded);
        divided.by_rows(simd, to.desc.dtype, wanted.cols, values);
        encode(simd, wanted, to, &divided.values, encoded)?;
        Ok(&self.divided.scale_bytes)
    }

    /// The encoded scales of the rows of the last `encode_rows`.
    pub(crate) fn scale_bytes(&self) -> &[u8] {
        &self.divided.scale_bytes
    }

    /// Like [`encode`](Self::encode), with the scale of the tensor.
    pub(crate) fn encode_by(
        &mut self,
        simd: Simd,
        wanted: &Wanted,
        to: &Use,
        scale: f32,
        values: &[f32],
    ) -> Result<(), Flaw> {
        self.divided.by_one(values, scale);
        encode(simd, wanted, to, &self.divided.values, &mut self.encoded)
    }
}

/// The values rounded to the intermediate type, if there is one.
fn by_way_of<'a>(
    via: Option<DType>,
    simd: Simd,
    cols: usize,
    values: &'a [f32],
    narrow: &mut Vec<u8>,
    rounded: &'a mut Vec<f32>,
) -> &'a [f32] {
    let Some(via) = via else { return values };
    narrow.resize(values.len() * via.block_bytes(), 0);
    quant::encode(simd, via, cols, values, None, narrow);
    rounded.resize(values.len(), 0.0);
    quant::decode(simd, via, narrow, rounded);
    rounded
}

fn encode(simd: Simd, wanted: &Wanted, to: &Use, values: &[f32], encoded: &mut Vec<u8>) -> Result<(), Flaw> {
    let dtype = to.desc.dtype;
    encoded.resize(values.len() / dtype.block_len() * dtype.block_bytes(), 0);
    quant::encode(simd, dtype, wanted.cols, values, None, encoded);
    match quant::invalid_block(dtype, encoded) {
        Some(_) if wanted.finite => Err(overflow(wanted, dtype, values)),
        _ => Ok(()),
    }
}

/// Like [`encode`], for a tensor on or near a 4-bit quantization grid: repacks it and counts the blocks.
fn repack(simd: Simd, wanted: &Wanted, to: &Use, values: &[f32], encoded: &mut Vec<u8>) -> Result<(), Flaw> {
    let dtype = to.desc.dtype;
    encoded.resize(values.len() / dtype.block_len() * dtype.block_bytes(), 0);
    to.repacked.add(quant::repack_q4_0(simd, values, encoded));
    match quant::invalid_block(dtype, encoded) {
        Some(_) if wanted.finite => Err(overflow(wanted, dtype, values)),
        _ => Ok(()),
    }
}

/// Like [`encode`], weighted by the imatrix; each row uses the entry of its matrix (expert).
fn encode_weighted(
    simd: Simd,
    wanted: &Wanted,
    to: &Use,
    first: u64,
    values: &[f32],
    weights: &mut Vec<f32>,
    encoded: &mut Vec<u8>,
) -> Result<(), Flaw> {
    let (cols, dtype) = (wanted.cols, to.desc.dtype);
    encoded.resize(values.len() / dtype.block_len() * dtype.block_bytes(), 0);
    weights.resize(cols, 0.0);
    let of_matrix = rows_of_matrix(&to.desc);
    let (mut row, mut values_left, mut bytes_left) = (first, values, encoded.as_mut_slice());
    while !values_left.is_empty() {
        let left = (values_left.len() / cols) as u64;
        let rows = left.min(of_matrix - row % of_matrix);
        if let Some(entry) = to.importance {
            entry.weights_from((row / of_matrix) as usize * cols, weights);
        }
        let (values, bytes);
        (values, values_left) = values_left.split_at(rows as usize * cols);
        (bytes, bytes_left) = bytes_left.split_at_mut((rows * to.desc.row_bytes()) as usize);
        quant::encode(simd, dtype, cols, values, Some(weights), bytes);
        row += rows;
    }
    match quant::invalid_block(dtype, encoded) {
        Some(_) if wanted.finite => Err(overflow(wanted, dtype, values)),
        _ => Ok(()),
    }
}

fn overflow(wanted: &Wanted, dtype: DType, values: &[f32]) -> Flaw {
    let place = format!("tensor {}", wanted.stored.tensor);
    Flaw::Of(
        Error::unsupported(place, format!("its values are too large for {dtype}"))
            .expected(format!("values whose scale fits into {}", scale(dtype)), largest(values))
            .help("Choose another type for this tensor, such as bf16."),
    )
}

fn scale(dtype: DType) -> &'static str {
    if dtype.is_quantized() { "an f16" } else { "the type" }
}

fn largest(values: &[f32]) -> String {
    format!("{:e}", values.iter().fold(0f32, |max, v| max.max(v.abs())))
}

/// Describes the non-finite values of a tensor. `read` reads bytes of one of its pieces, in whole elements.
pub(crate) fn report(
    simd: Simd,
    wanted: &Wanted,
    file: &str,
    mut read: impl FnMut(&StoredPiece, u64, &mut [u8]) -> Result<()>,
) -> Result<Error> {
    const PIECE: u64 = 1 << 20;
    let dtype = wanted.stored.dtype;
    let piece_bytes = PIECE / dtype.block_bytes() as u64 * dtype.block_bytes() as u64;
    let (mut count, mut first) = (0u64, None);
    let mut bytes = Vec::new();
    let mut values = Vec::new();
    let mut before = 0;
    for stretch in wanted.stored.pieces.all() {
        let mut at = 0;
        while at < stretch.bytes {
            let piece = piece_bytes.min(stretch.bytes - at);
            bytes.resize(piece as usize, 0);
            values.resize(dtype.elements(piece as usize), 0.0);
            read(stretch, at, &mut bytes)?;
            quant::decode(simd, dtype, &bytes, &mut values);
            for (i, value) in values.iter().enumerate().filter(|(_, v)| !v.is_finite()) {
                count += 1;
                first.get_or_insert((dtype.elements((before + at) as usize) as u64 + i as u64, *value));
            }
            at += piece;
        }
        before += stretch.bytes;
    }
    let (index, value) = first.unwrap_or((0, f32::NAN));
    let cols = wanted.cols as u64;
    Ok(Error::malformed(
        format!("{file}: tensor {}", wanted.stored.tensor),
        format!(
            "{count} values are not finite, the first at element {index} (row {}, column {})",
            index / cols,
            index % cols
        ),
    )
    .expected("finite weights", value)
    .help("The checkpoint is damaged or its training diverged; no output was written."))
}
