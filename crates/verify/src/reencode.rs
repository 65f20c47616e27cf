//! Second quantization of the checkpoint, compared with the artifact byte by byte. If it is known how an artifact was
//! made, each of its blocks must be the block that the checkpoint gives. `reencode/verdict.rs` interprets the
//! differences of a whole file.
//!
//! There may be several legitimate ways to make a file: a BF16 or an F16 file between the checkpoint and the quantizer,
//! QAT weights that were quantized instead of repacked, an imatrix without an entry for a tensor. The manifest of a
//! file that this tool wrote names the one way.

mod verdict;

use checkpoint::{Checkpoint, StoredEncoding};
use convert::{Buffers, Encoding, Scales, Steps};
use serde::{Deserialize, Serialize};
use tensor::{DType, Result, TensorDesc};

use crate::errors::{GROUP, Pair};
use crate::expected::Expected;

pub(crate) use verdict::{Verdict, findings, verdicts};

/// A block whose squared error is at most this factor of the expected block's may differ only by the order of additions
/// in the search for a scale.
const AS_NEAR: f64 = 1.02;

/// How reliably the ways of making an artifact are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// This tool wrote the file, and its manifest records the way.
    Known,
    /// The file or the user says how it was made.
    Said,
    /// It was quantized with an imatrix that was not found.
    Importance,
    /// It was quantized with error feedback, on a calibration text.
    Feedback,
}

/// The ways to quantize a tensor again.
pub(crate) struct Reencode<'a> {
    ways: Vec<Encoding<'a>>,
    pub(crate) trust: Trust,
    dtype: DType,
    cols: usize,
    /// For tensors of a folder that have separate scales: the folder, the tensor's index, and the encoding.
    coded: Option<(&'a Checkpoint, usize, StoredEncoding)>,
    /// The factor of the whole tensor.
    scale: f32,
}

/// Result of the comparison of some blocks.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Bytes {
    pub(crate) blocks: u64,
    /// Blocks that differ from the checkpoint's in every way.
    pub(crate) differing: u64,
    /// Those of them with a larger error than the order of additions explains.
    pub(crate) farther: u64,
    /// Rows with such blocks.
    pub(crate) rows: u64,
    pub(crate) first: Option<Mismatch>,
    /// Over the differing blocks: Σ expected · found, Σ expected².
    factor: (f64, f64),
    /// The largest magnitude of the base.
    pub(crate) largest: f32,
}

/// The first block that differs.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Mismatch {
    pub(crate) row: u64,
    /// Index of the block in its row.
    pub(crate) block: usize,
    pub(crate) column: usize,
    pub(crate) expected: f32,
    pub(crate) found: f32,
    /// Whether the row's scale differs, and not only its codes.
    pub(crate) scale: bool,
}

/// Buffers of a worker.
#[derive(Default)]
pub(crate) struct Kept {
    buffers: Buffers,
    found: Vec<u8>,
    found_scales: Vec<u8>,
    expected: Vec<u8>,
    scales: Vec<u8>,
    values: Vec<f32>,
}

impl<'a> Reencode<'a> {
    /// `None` if the bytes cannot be reproduced: weights adjusted by a calibration, or a base that is itself quantized.
    pub(crate) fn of(pair: &Pair<'a>, expected: &'a Expected) -> Option<Reencode<'a>> {
        let (tensor, dtype, base) = (pair.tensor, pair.dtype(), pair.base_dtype());
        // F16 has lost small weights, which the artifact may have from another source
        let lossy = base.is_quantized() || expected.lenient && base == DType::F16;
        if tensor.fitted || lossy {
            return None;
        }
        let coded = match pair.code {
            None if quant::scale_is_apart(dtype) => return None,
            None => None,
            Some((folder, code)) => Some((folder, pair.index, code)),
        };
        let scales = match coded {
            None => Scales::None,
            Some((.., code)) if dtype == DType::SFP8 && !code.scale.per_row => Scales::Tensor,
            Some((.., code))
                if dtype == DType::F8_E4M3 && code.scale.per_row && code.scale.dtype == DType::BF16 =>
            {
                Scales::Rows
            }
            Some(_) => return None,
        };
        let planned = tensor.rounding;
        let steers = quant::uses_importance(dtype) && scales == Scales::None;
        let entry = expected.importance.as_deref().filter(|_| steers);
        let entry = entry.and_then(|entries| entries.get(&tensor.desc.name));
        let trust = match expected.known {
            _ if planned.feedback && (dtype.is_quantized() || dtype == DType::F32) => Trust::Feedback,
            _ if steers && planned.unknown_importance && planned.lattice.is_none() => Trust::Importance,
            true if dtype == tensor.desc.dtype => Trust::Known,
            _ => Trust::Said,
        };
        let same = dtype == tensor.desc.dtype;
        let wide = base != DType::BF16;
        let first = if same {
            let importance = entry.filter(|_| planned.steered);
            Steps { via: planned.via, lattice: planned.lattice, importance, scales }
        } else {
            let via = (wide && dtype.is_quantized()).then_some(DType::BF16);
            Steps { via, lattice: None, importance: entry, scales }
        };
        let mut steps = vec![first];
        if trust != Trust::Known && scales == Scales::None {
            let more = |steps: &mut Vec<Steps<'a>>, other: Steps<'a>| {
                let is = |s: &Steps<'a>| {
                    (s.via, s.lattice, s.importance.is_some())
                        == (other.via, other.lattice, other.importance.is_some())
                };
                if !steps.iter().any(is) {
                    steps.push(other);
                }
            };
            let plain = Steps { lattice: None, importance: None, ..first };
            let weighted = Steps { lattice: None, importance: entry, ..first };
            more(&mut steps, weighted);
            more(&mut steps, plain);
            // llama.cpp's quantizer reads a BF16 or an F16 file, not the checkpoint
            let by_a_file = dtype.is_quantized() || expected.quantised && tensor.desc.shape.len() > 1;
            if wide && by_a_file {
                for via in [None, Some(DType::BF16), Some(DType::F16)] {
                    more(&mut steps, Steps { via, ..weighted });
                    more(&mut steps, Steps { via, ..plain });
                }
            }
        }
        let desc = TensorDesc { dtype, shape: tensor.desc.shape.clone(), name: tensor.desc.name.clone() };
        let ways: Vec<_> = steps.into_iter().filter_map(|steps| Encoding::new(&desc, steps)).collect();
        let scale = pair.stored.scale;
        (!ways.is_empty()).then_some(Reencode { ways, trust, dtype, cols: pair.cols(), coded, scale })
    }

    /// How the tensor is quantized again: for comparison with another process.
    pub(crate) fn description(&self) -> String {
        format!("{:?}, {} ways", self.trust, self.ways.len())
    }

    /// Weights per compared block: a block of the type, or 32 for types without blocks.
    fn unit(&self) -> usize {
        if self.dtype.is_quantized() && self.coded.is_none() { self.dtype.block_len() } else { GROUP }
    }

    /// The expected and the actual scale of an SFP8 tensor, if its scale is not that of the largest magnitude.
    pub(crate) fn other_scale(&self, largest: f32) -> Option<(f32, f32)> {
        let should = quant::sfp8_scale(largest);
        (self.dtype == DType::SFP8 && should != self.scale).then_some((should, self.scale))
    }

    /// Compares rows from `first` on; `x` are the values of the base, `y` those of the artifact.
    pub(crate) fn compare(
        &self,
        pair: &Pair<'_>,
        first: u64,
        (x, y): (&[f32], &[f32]),
        kept: &mut Kept,
    ) -> Result<Bytes> {
        let Kept { buffers, found, found_scales, expected, scales, values } = kept;
        let simd = pair.simd;
        let rows = x.len() / self.cols;
        self.read(pair, first, rows, found, found_scales)?;
        let units = self.cols.div_ceil(self.unit());
        let mut result = Bytes {
            blocks: (rows * units) as u64,
            largest: if self.coded.is_some() { quant::max_abs(x) } else { 0.0 },
            ..Bytes::default()
        };
        let (bytes, of_rows) = self.ways[0].encode(simd, first, x, self.scale, buffers);
        if bytes == found.as_slice() && of_rows == found_scales.as_slice() {
            return Ok(result);
        }
        expected.clear();
        expected.extend_from_slice(bytes);
        scales.clear();
        scales.extend_from_slice(of_rows);
        let row_bytes = expected.len() / rows.max(1);
        let unit_bytes = self.unit() / self.dtype.block_len() * self.dtype.block_bytes();
        let place = |row: usize, unit: usize| {
            let end = ((unit + 1) * unit_bytes).min(row_bytes);
            row * row_bytes + unit * unit_bytes..row * row_bytes + end
        };
        let mut differ: Vec<(usize, usize)> = (0..rows)
            .flat_map(|row| (0..units).map(move |unit| (row, unit)))
            .filter(|&(row, unit)| expected[place(row, unit)] != found[place(row, unit)])
            .collect();
        for way in &self.ways[1..] {
            if differ.is_empty() {
                break;
            }
            let (bytes, _) = way.encode(simd, first, x, self.scale, buffers);
            differ.retain(|&(row, unit)| bytes[place(row, unit)] != found[place(row, unit)]);
        }
        let other_scale = |row: usize| {
            scales.get(2 * row..2 * row + 2).is_some_and(|scale| scale != &found_scales[2 * row..2 * row + 2])
        };
        for row in (0..rows).filter(|&row| other_scale(row)) {
            if let Err(at) = differ.binary_search(&(row, 0)) {
                differ.insert(at, (row, 0));
            }
        }
        if differ.is_empty() {
            return Ok(result);
        }
        values.resize(x.len(), 0.0);
        quant::decode(simd, self.dtype, expected, values);
        match self.coded {
            Some((.., code)) if code.scale.per_row => {
                let mut factors = vec![0.0; rows];
                quant::decode(simd, DType::BF16, scales, &mut factors);
                checkpoint::multiply(values, self.cols, &factors);
            }
            _ => checkpoint::multiply(values, self.cols, &vec![self.scale; rows]),
        }
        let mut last = None;
        for (row, unit) in differ {
            let start = row * self.cols + unit * self.unit();
            let end = (start + self.unit()).min((row + 1) * self.cols);
            let (x, y, should) = (&x[start..end], &y[start..end], &values[start..end]);
            let away = |of: &[f32]| {
                of.iter().zip(x).map(|(v, x)| (f64::from(*v) - f64::from(*x)).powi(2)).sum::<f64>()
            };
            result.differing += 1;
            let as_near = away(y) <= AS_NEAR * away(should);
            // NaN counts as a larger error
            if !as_near {
                result.farther += 1;
            }
            if last != Some(row) {
                result.rows += 1;
                last = Some(row);
            }
            for (y, should) in y.iter().zip(should).filter(|(y, _)| y.is_finite()) {
                result.factor.0 += f64::from(*y) * f64::from(*should);
                result.factor.1 += f64::from(*should) * f64::from(*should);
            }
            if result.first.is_none() {
                let at = y.iter().zip(should).position(|(y, should)| y.to_bits() != should.to_bits());
                let at = at.unwrap_or(0);
                result.first = Some(Mismatch {
                    row: first + row as u64,
                    block: unit,
                    column: unit * self.unit() + at,
                    expected: should[at],
                    found: y[at],
                    scale: other_scale(row),
                });
            }
        }
        Ok(result)
    }

    /// Reads the stored bytes of rows, and of their scales if there is one per row.
    fn read(
        &self,
        pair: &Pair<'_>,
        first: u64,
        rows: usize,
        bytes: &mut Vec<u8>,
        scales: &mut Vec<u8>,
    ) -> Result<()> {
        bytes.resize(rows * self.cols / self.dtype.block_len() * self.dtype.block_bytes(), 0);
        scales.clear();
        let Some((folder, index, code)) = self.coded else {
            return pair.artifact.read_rows(pair.index, first, bytes);
        };
        if let Some(place) = folder.location(index) {
            folder.read_at(place.shard, place.offset + first * self.cols as u64, bytes)?;
        }
        if code.scale.per_row {
            scales.resize(2 * rows, 0);
            folder.read_at(code.scale.location.shard, code.scale.location.offset + 2 * first, scales)?;
        }
        Ok(())
    }
}

impl Bytes {
    pub(crate) fn add(&mut self, other: &Bytes) {
        self.blocks += other.blocks;
        self.differing += other.differing;
        self.farther += other.farther;
        self.rows += other.rows;
        self.first = self.first.or(other.first);
        self.factor = (self.factor.0 + other.factor.0, self.factor.1 + other.factor.1);
        self.largest = self.largest.max(other.largest);
    }

    /// The factor between the differing blocks and the expected ones, if it clearly differs from 1.
    pub(crate) fn factor(&self) -> Option<f64> {
        let (xy, xx) = self.factor;
        let factor = xy / xx;
        (xx > 0.0 && (factor - 1.0).abs() > 0.01).then_some(factor)
    }
}
