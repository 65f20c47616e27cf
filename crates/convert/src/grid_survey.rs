//! A survey of checkpoint tensors: whether they are already on a 4-bit quantization grid, as weights of
//! quantization-aware training (QAT) are, or close to one, as after fine-tuning. It judges by a sample of blocks.

use std::collections::HashMap;

use checkpoint::Checkpoint;
use quant::{GridSurvey, Simd};
use tensor::{DType, Result, TensorSource};

/// Values per block.
const BLOCK: u64 = 32;
/// Blocks per read: 4 KiB of BF16.
const PIECE: u64 = 64;
/// Number of sampled positions in a tensor.
const PIECES: u64 = 8;

/// Surveys of the given tensors, by index: 512 blocks of 32 values each, spread evenly, or fewer once a tensor is
/// clearly off every quantization grid. Tensors whose rows are not whole blocks, or that are stored in an encoding,
/// are left out.
///
/// # Errors
/// `Io` for a shard that cannot be read.
pub fn survey_grid(
    simd: Simd,
    checkpoint: &Checkpoint,
    tensors: &[usize],
) -> Result<HashMap<usize, GridSurvey>> {
    let mut seen = HashMap::new();
    if checkpoint.has_headers_only() {
        return Ok(seen);
    }
    for &index in tensors {
        if let Some(survey) = survey_one(simd, checkpoint, index)? {
            seen.insert(index, survey);
        }
    }
    Ok(seen)
}

fn survey_one(simd: Simd, checkpoint: &Checkpoint, index: usize) -> Result<Option<GridSurvey>> {
    let Some(desc) = checkpoint.tensors().get(index) else { return Ok(None) };
    let plain = matches!(desc.dtype, DType::BF16 | DType::F16 | DType::F32);
    if !plain || checkpoint.encoding(index).is_some() || !desc.cols().is_multiple_of(BLOCK) {
        return Ok(None);
    }
    let (blocks, cols, size) = (desc.elements() / BLOCK, desc.cols(), desc.dtype.block_bytes() as u64);
    let pieces = PIECES.min(blocks.div_ceil(PIECE));
    let (mut bytes, mut values, mut all) = (Vec::new(), Vec::new(), GridSurvey::default());
    for piece in 0..pieces {
        let first = blocks * piece / pieces;
        let count = PIECE.min(blocks * (piece + 1) / pieces - first);
        // the rows that contain the blocks
        let rows = first * BLOCK / cols..((first + count) * BLOCK).div_ceil(cols);
        bytes.resize(((rows.end - rows.start) * desc.row_bytes()) as usize, 0);
        checkpoint.read_rows(index, rows.start, &mut bytes)?;
        bytes.drain(..((first * BLOCK - rows.start * cols) * size) as usize);
        bytes.truncate((count * BLOCK * size) as usize);
        values.resize((count * BLOCK) as usize, 0.0);
        quant::decode(simd, desc.dtype, &bytes, &mut values);
        if desc.dtype != DType::BF16 {
            bytes.resize(values.len() * DType::BF16.block_bytes(), 0);
            quant::encode(simd, DType::BF16, values.len(), &values, None, &mut bytes);
            quant::decode(simd, DType::BF16, &bytes, &mut values);
        }
        all += quant::survey(simd, &values);
        if all.telling >= PIECE / 2 && !all.may_be_moved() {
            break;
        }
    }
    Ok(Some(all))
}
