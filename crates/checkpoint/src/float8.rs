//! Weights stored as 8-bit floats with separate scales, presented as the values they encode.
//!
//! Two conventions are read:
//! - **compressed-tensors** "float-quantized" (written by llm-compressor, loaded by vLLM and transformers):
//!   `config.json` has a `quantization_config`; a weight `X` of type F8_E4M3 has a tensor `X_scale` with one scale a
//!   row or one in all. Source: vllm-project/compressed-tensors, `compressors/naive_quantized`.
//! - **SFP8**, ours: the shard's `__metadata__` has `format` = `sfp8`; a weight `X` of type U8 has a tensor
//!   `X.sfp_scale`. Source: formats/sfp8-safetensors.md.
//!
//! The value of a weight is its decoded code times its scale. Weights are presented as BF16 if that type holds every
//! value exactly (SFP8 with a power of two as scale), else as F32; the scale tensors are not presented. Other layouts
//! are refused.

use std::collections::{HashMap, HashSet};

use quant::Simd;
use serde_json::Value;
use tensor::{DType, Error, Result, TensorDesc};

use crate::open::{Checkpoint, Location};
use crate::pieces::{Entry, Piece};

/// Suffixes that turn the name of a weight into the name of its scale.
const SFP8_SCALE: &str = ".sfp_scale";
const F8_SCALE: &str = "_scale";

/// Stored encoding of a weight whose stored type differs from the presented type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StoredEncoding {
    /// The stored type: `SFP8` or `F8_E4M3`.
    pub dtype: DType,
    /// Scale by which the decoded values are multiplied.
    pub scale: Scale,
}

/// Location of the scales of a weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Stored type: F32, F16 or BF16.
    pub dtype: DType,
    /// Position of the first scale.
    pub location: Location,
    /// True for one scale a row, false for one scale for the whole tensor.
    pub per_row: bool,
}

/// True if `config.json` declares FP8 weights in the form that this crate reads.
///
/// # Errors
/// `Unsupported` for any other quantisation.
pub fn is_fp8(config: &Value) -> Result<bool> {
    let Some(quantization) = config.get("quantization_config").filter(|q| !q.is_null()) else {
        return Ok(false);
    };
    if quantization["format"] == "sfp8" && quantization["quant_method"].is_null() {
        return Ok(false); // ours: the metadata of the shards decides
    }
    let groups: Vec<&Value> =
        quantization["config_groups"].as_object().into_iter().flat_map(|groups| groups.values()).collect();
    let known = |group: &&Value| {
        let weights = &group["weights"];
        weights["type"] == "float"
            && weights["num_bits"] == 8
            && weights["symmetric"] != false
            && ["channel", "tensor"].iter().any(|strategy| weights["strategy"] == *strategy)
    };
    let formats = ["float-quantized", "naive-quantized"];
    let fits = quantization["quant_method"] == "compressed-tensors"
        && formats.iter().any(|format| quantization["format"] == *format)
        && !groups.is_empty()
        && groups.iter().all(known);
    if fits {
        return Ok(true);
    }
    let found = format!("{} {}", quantization["quant_method"], quantization["format"]).replace('"', "");
    Err(Error::unsupported("config.json: quantization_config", "this checkpoint is already quantised")
        .expected("no quantisation, or FP8 of compressed-tensors with a scale a row or a tensor", found)
        .help("Give the BF16 checkpoint that it was made from."))
}

impl Checkpoint {
    /// Presents encoded weights in a float type, and removes their scales from the list.
    pub(crate) fn resolve(&self, entries: Vec<Entry>, fp8: bool) -> Result<Vec<Entry>> {
        let numbers: HashMap<&str, usize> =
            entries.iter().enumerate().map(|(i, e)| (e.desc.name.as_str(), i)).collect();
        let mut scales = HashSet::new();
        let mut codes = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let (desc, shard) = (&entry.desc, &self.shards()[entry.shard()]);
            let sfp8 = shard.metadata.get("format").is_some_and(|format| format == "sfp8");
            let (dtype, suffix) = match desc.dtype {
                DType::U8 if sfp8 => (DType::SFP8, SFP8_SCALE),
                DType::F8_E4M3 if fp8 => (DType::F8_E4M3, F8_SCALE),
                _ => continue,
            };
            let name = format!("{}{suffix}", desc.name);
            let within = |e: Error| e.within(shard.path.display());
            let number = *numbers.get(name.as_str()).ok_or_else(|| {
                within(
                    Error::malformed(format!("tensor {}", desc.name), format!("its scale {name} is missing"))
                        .help("Is every shard there? Weights without their scales are worth nothing."),
                )
            })?;
            let stored = &entries[number];
            let scale = scale(desc, &stored.desc, stored.pieces[0].location).map_err(within)?;
            let code = StoredEncoding { dtype, scale };
            scales.insert(number);
            codes.push((index, code, self.presented_as(code, &name)?));
        }
        let mut entries = entries;
        for (index, code, dtype) in codes {
            let entry = &mut entries[index];
            entry.code = Some(code.dtype);
            entry.desc.dtype = dtype;
            entry.pieces.iter_mut().for_each(|piece| piece.scale = Some(code.scale));
        }
        let mut index = 0;
        entries.retain(|_| {
            index += 1;
            !scales.contains(&(index - 1))
        });
        Ok(entries)
    }

    /// The float type that holds every value of a weight with this encoding.
    fn presented_as(&self, code: StoredEncoding, name: &str) -> Result<DType> {
        if code.dtype != DType::SFP8 || code.scale.per_row {
            return Ok(DType::F32);
        }
        let mut scale = [0.0];
        self.read_scales(&code.scale, 0, &mut scale).map_err(|e| e.within(name))?;
        // normal numbers only, so that no product with a code is subnormal and beyond BF16
        let power_of_two = scale[0].to_bits() & 0x7f_ffff == 0 && (1e-20..=1e20).contains(&scale[0]);
        Ok(if power_of_two { DType::BF16 } else { DType::F32 })
    }

    /// Reads scales: those of the rows from `first` on, or copies of the tensor's only one.
    ///
    /// # Errors
    /// `Malformed` for a scale that is not a positive number; those of [`read_at`](Self::read_at).
    pub fn read_scales(&self, scale: &Scale, first: u64, out: &mut [f32]) -> Result<()> {
        let size = scale.dtype.block_bytes();
        let first = if scale.per_row { first } else { 0 };
        let count = if scale.per_row { out.len() } else { 1 };
        let mut bytes = vec![0; count * size];
        let Location { shard, offset } = scale.location;
        self.read_at(shard, offset + first * size as u64, &mut bytes)?;
        quant::decode(self.simd, scale.dtype, &bytes, &mut out[..count]);
        match out[..count].iter().position(|s| !(s.is_finite() && *s > 0.0)) {
            Some(at) => {
                let row = if scale.per_row {
                    format!("the scale of row {}", first + at as u64)
                } else {
                    "the scale".into()
                };
                Err(Error::malformed(row, "not a usable scale").expected("a positive number", out[at]))
            }
            None => {
                let one = out[0];
                out[count..].fill(one);
                Ok(())
            }
        }
    }

    /// Reads and decodes rows of an encoded weight into its presented type: the rows of `piece`.
    pub(crate) fn read_coded(
        &self,
        desc: &TensorDesc,
        code: DType,
        piece: &Piece,
        out: &mut [u8],
    ) -> Result<()> {
        let Location { shard, offset } = piece.location;
        let cols = desc.cols() as usize;
        let mut codes = vec![0; out.len() / desc.dtype.block_bytes()];
        self.read_at(shard, offset, &mut codes)?;
        let place = || format!("{}: tensor {}", self.shards()[shard].path.display(), desc.name);
        let mut values = vec![0.0; codes.len()];
        decode(self.simd, code, &codes, &mut values).map_err(|e| e.within(place()))?;
        let mut scales = vec![1.0; codes.len() / cols];
        if let Some(scale) = &piece.scale {
            self.read_scales(scale, 0, &mut scales).map_err(|e| e.within(place()))?;
        }
        multiply(&mut values, cols, &scales);
        match desc.dtype {
            DType::BF16 => quant::encode(self.simd, DType::BF16, cols, &values, None, out),
            _ => out.as_chunks_mut::<4>().0.iter_mut().zip(&values).for_each(|(o, v)| *o = v.to_le_bytes()),
        }
        Ok(())
    }
}

/// Decodes 8-bit codes, without scale.
///
/// # Errors
/// `Malformed` for a byte that encodes no number.
pub fn decode(simd: Simd, dtype: DType, codes: &[u8], out: &mut [f32]) -> Result<()> {
    if let Some(at) = quant::invalid_block(dtype, codes) {
        return Err(Error::malformed(
            format!("byte {at} of these rows"),
            format!("encodes no number in {dtype}"),
        )
        .expected("a number", format!("{:#04x}", codes[at])));
    }
    quant::decode(simd, dtype, codes, out);
    Ok(())
}

/// Multiplies each row of `cols` values by its scale.
pub fn multiply(values: &mut [f32], cols: usize, scales: &[f32]) {
    for (row, &scale) in values.chunks_exact_mut(cols).zip(scales) {
        if scale != 1.0 {
            row.iter_mut().for_each(|v| *v *= scale);
        }
    }
}

/// The scale of `weight` in tensor `desc`, if type and shape fit.
fn scale(weight: &TensorDesc, desc: &TensorDesc, location: Location) -> Result<Scale> {
    let rows = weight.rows();
    let wrong = |problem: &str, expected: String, found: String| {
        Error::malformed(format!("tensor {}", desc.name), problem).expected(expected, found)
    };
    if !matches!(desc.dtype, DType::F32 | DType::F16 | DType::BF16) {
        return Err(wrong("not a type of scales", "f32, f16 or bf16".into(), desc.dtype.to_string()));
    }
    let per_row = match desc.elements() {
        1 => false,
        n if n == rows && desc.shape.first() == Some(&rows) => true,
        _ => {
            return Err(wrong(
                "wrong shape",
                format!("one scale, or one for each of {rows} rows"),
                format!("{:?}", desc.shape),
            ));
        }
    };
    Ok(Scale { dtype: desc.dtype, location, per_row })
}
