//! The tensors as safetensors files: matrices of noise, everything of at most one dimension 1.0, integers counting up.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};
use checkpoint::SafetensorsWriter;
use serde_json::{Map, json};
use tensor::{DType, TensorDesc, TensorSink};

use super::noise::Noise;

/// Bytes written at a time, about.
const BLOCK: u64 = 4 << 20;
const BF16_ONE: [u8; 2] = 0x3F80u16.to_le_bytes();

/// What the weights are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    Noise,
    /// Zeros that take no room on the disk.
    Holes,
}

/// Writes one file, or several with an index when they would pass `limit` bytes; returns how many.
pub(super) fn write(out: &Path, tensors: Vec<TensorDesc>, limit: u64, fill: Fill) -> Result<usize> {
    let noise = Noise::new();
    let total: u64 = tensors.iter().map(TensorDesc::byte_len).sum();
    let shards = shards(tensors, limit);
    let mut weight_map = Map::new();
    let count = shards.len();
    for (number, shard) in shards.into_iter().enumerate() {
        let name = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
        weight_map.extend(shard.iter().map(|tensor| (tensor.name.clone(), json!(name))));
        let path = out.join(&name);
        match fill {
            Fill::Noise => write_file(&path, shard, &noise, (number as u64) << 32)?,
            Fill::Holes => {
                SafetensorsWriter::create(&path, shard, &[("format", "pt")])?.finish_with_holes()?
            }
        }
    }
    if count > 1 {
        let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
        fs::write(out.join("model.safetensors.index.json"), serde_json::to_vec_pretty(&index)?)?;
    }
    Ok(count)
}

fn shards(tensors: Vec<TensorDesc>, limit: u64) -> Vec<Vec<TensorDesc>> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0;
    for tensor in tensors {
        if filled > 0 && tensor.byte_len() > limit.saturating_sub(filled) {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += tensor.byte_len();
        shards.last_mut().expect("starts with one").push(tensor);
    }
    shards
}

fn write_file(path: &Path, tensors: Vec<TensorDesc>, noise: &Noise, seed: u64) -> Result<()> {
    let file = SafetensorsWriter::create(path, tensors, &[("format", "pt")])?;
    let mut runs = seed..;
    for (index, tensor) in file.tensors().iter().enumerate() {
        let block = (BLOCK / tensor.row_bytes()).max(1);
        for first in (0..tensor.rows()).step_by(block as usize) {
            let rows = block.min(tensor.rows() - first);
            let bytes = (rows * tensor.row_bytes()) as usize;
            match tensor.dtype {
                DType::I64 => file.write_rows(index, first, &counting(first * tensor.cols(), bytes))?,
                DType::BF16 if tensor.shape.len() > 1 => {
                    let run = runs.next().unwrap_or_default();
                    file.write_rows(index, first, noise.run(run, bytes))?;
                }
                DType::BF16 => file.write_rows(index, first, &BF16_ONE.repeat(bytes / 2))?,
                other => bail!("tensor {}: no noise of type {other}", tensor.name),
            }
        }
    }
    Ok(file.finish()?)
}

/// Little-endian integers from `first` on.
fn counting(first: u64, bytes: usize) -> Vec<u8> {
    (first..).take(bytes / 8).flat_map(u64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkpoint::Checkpoint;
    use tensor::TensorSource;

    #[test]
    fn files_can_be_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let desc = |name: &str, dtype, shape: &[u64]| TensorDesc::new(name, dtype, shape).unwrap();
        let tensors = vec![
            desc("matrix", DType::BF16, &[3000, 1000]),
            desc("scalar", DType::BF16, &[]),
            desc("order", DType::I64, &[5]),
        ];
        assert_eq!(write(dir.path(), tensors, 100, Fill::Noise).unwrap(), 2);
        fs::write(dir.path().join("config.json"), "{}").unwrap();
        let read = Checkpoint::open(dir.path()).unwrap();
        let mut order = [0; 40];
        let at = |name| read.tensors().iter().position(|tensor| tensor.name == name).unwrap();
        read.read_rows(at("order"), 0, &mut order).unwrap();
        assert_eq!(order.to_vec(), counting(0, 40));
        let mut one = [0; 2];
        read.read_rows(at("scalar"), 0, &mut one).unwrap();
        assert_eq!(one, BF16_ONE);
    }

    #[test]
    fn shards_stay_under_the_limit() {
        let tensor = |rows| TensorDesc::new("x", DType::BF16, [rows, 50]).unwrap();
        let sizes = |limit| -> Vec<usize> {
            shards([1, 2, 1, 5, 1].map(tensor).to_vec(), limit).iter().map(Vec::len).collect()
        };
        assert_eq!(sizes(u64::MAX), [5]);
        assert_eq!(sizes(300), [2, 1, 1, 1]);
        assert_eq!(sizes(1), [1, 1, 1, 1, 1]);
    }
}
