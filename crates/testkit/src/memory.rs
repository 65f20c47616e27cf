//! Tensors in memory as a source.

use std::sync::atomic::{AtomicU64, Ordering};

use tensor::{DType, Error, Result, TensorDesc, TensorSource};

/// Tensors in memory; reading can be made to fail at a row.
#[derive(Debug, Default)]
pub struct MemoryTensors {
    tensors: Vec<TensorDesc>,
    data: Vec<Vec<u8>>,
    fails_at: Option<(usize, u64)>,
    read: AtomicU64,
}

impl MemoryTensors {
    /// No tensor yet.
    pub fn new() -> MemoryTensors {
        MemoryTensors::default()
    }

    /// A single tensor.
    ///
    /// # Panics
    /// As [`MemoryTensors::add`].
    #[track_caller]
    pub fn one(desc: TensorDesc, bytes: Vec<u8>) -> MemoryTensors {
        let mut tensors = MemoryTensors::new();
        tensors.add(desc, bytes);
        tensors
    }

    /// Adds a tensor as it is stored. Its index is the number of those before it.
    ///
    /// # Panics
    /// When the bytes are more or fewer than the tensor has.
    #[track_caller]
    pub fn add(&mut self, desc: TensorDesc, bytes: Vec<u8>) -> usize {
        assert_eq!(bytes.len() as u64, desc.byte_len(), "{}", desc.name);
        self.tensors.push(desc);
        self.data.push(bytes);
        self.data.len() - 1
    }

    /// Adds a tensor of f32 values.
    ///
    /// # Panics
    /// As [`MemoryTensors::add`], and for an impossible shape.
    #[track_caller]
    pub fn add_f32(&mut self, name: &str, shape: &[u64], values: &[f32]) -> usize {
        let desc = TensorDesc::new(name, DType::F32, shape).expect("a shape");
        self.add(desc, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// Adds a tensor of BF16 values: the upper halves of f32 values.
    ///
    /// # Panics
    /// As [`MemoryTensors::add`], and for an impossible shape.
    #[track_caller]
    pub fn add_bf16(&mut self, name: &str, shape: &[u64], values: &[f32]) -> usize {
        let desc = TensorDesc::new(name, DType::BF16, shape).expect("a shape");
        let halves = values.iter().map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes());
        self.add(desc, halves.flatten().collect())
    }

    /// Makes reading fail where it touches a row of a tensor.
    pub fn fail_at(&mut self, tensor: usize, row: u64) {
        self.fails_at = Some((tensor, row));
    }

    /// Bytes of a tensor as it is stored.
    pub fn bytes(&self, tensor: usize) -> &[u8] {
        &self.data[tensor]
    }

    /// Bytes of a tensor, to be changed.
    pub fn bytes_mut(&mut self, tensor: usize) -> &mut [u8] {
        &mut self.data[tensor]
    }

    /// Bytes that have been read, those read twice counted twice.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

impl TensorSource for MemoryTensors {
    fn tensors(&self) -> &[TensorDesc] {
        &self.tensors
    }

    fn read_rows(&self, index: usize, first: u64, out: &mut [u8]) -> Result<()> {
        let row_bytes = self.tensors[index].row_bytes();
        let rows = out.len() as u64 / row_bytes.max(1);
        if self.fails_at.is_some_and(|(tensor, row)| tensor == index && (first..first + rows).contains(&row))
        {
            let error = std::io::Error::other("the medium failed");
            return Err(Error::io(format!("tensor {}", self.tensors[index].name), &error));
        }
        let start = (first * row_bytes) as usize;
        match self.data[index].get(start..start + out.len()) {
            Some(bytes) => out.copy_from_slice(bytes),
            None => {
                return Err(Error::malformed(format!("tensor {}", self.tensors[index].name), "no such rows"));
            }
        }
        self.read.fetch_add(out.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_wherever_they_begin() {
        let mut tensors = MemoryTensors::new();
        let values: Vec<f32> = (0..12).map(|n| n as f32).collect();
        let index = tensors.add_f32("x", &[4, 3], &values);
        let mut out = [0; 24];
        tensors.read_rows(index, 2, &mut out).unwrap();
        assert_eq!(crate::floats(&out), values[6..]);
        assert_eq!(tensors.bytes_read(), 24);
        assert!(tensors.read_rows(index, 3, &mut out).unwrap_err().to_string().contains("no such rows"));
        tensors.fail_at(index, 1);
        tensors.read_rows(index, 2, &mut out).unwrap();
        assert!(tensors.read_rows(index, 0, &mut out).unwrap_err().to_string().contains("the medium failed"));
    }

    #[test]
    fn bf16_values_are_cut_off() {
        let mut tensors = MemoryTensors::new();
        let index = tensors.add_bf16("x", &[2], &[1.0, -2.0]);
        assert_eq!(tensors.bytes(index), [0x80, 0x3f, 0, 0xc0]);
    }
}
