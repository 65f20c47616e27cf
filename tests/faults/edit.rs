//! A GGUF file in memory, to be changed: keys, tensors, bytes. The artifacts of the tiny checkpoints have a few megabytes.

use std::fs;
use std::path::Path;

use gguf::{Array, GgufFile, Layout, Metadata, Value};
use quant::Simd;
use tensor::{DType, TensorDesc, TensorSource};

pub(crate) struct Gguf {
    pub(crate) metadata: Metadata,
    pub(crate) tensors: Vec<(TensorDesc, Vec<u8>)>,
}

impl Gguf {
    /// One file; a part of a split as what it is.
    pub(crate) fn read(path: &Path) -> Gguf {
        let file = GgufFile::open(path).unwrap();
        let read = |(index, desc): (usize, &TensorDesc)| {
            let mut bytes = vec![0; desc.byte_len() as usize];
            file.read_rows(index, 0, &mut bytes).unwrap();
            (desc.clone(), bytes)
        };
        let tensors = file.tensors().iter().enumerate().map(read).collect();
        Gguf { metadata: file.metadata().clone(), tensors }
    }

    pub(crate) fn write(&self, path: &Path) {
        let layout = Layout::new(&self.metadata, self.tensors.iter().map(|(desc, _)| desc.clone()).collect());
        let mut bytes = Vec::new();
        layout.unwrap().write(&mut bytes, self.tensors.iter().map(|(_, bytes)| bytes)).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(crate) fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.metadata.insert(key, value);
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut (TensorDesc, Vec<u8>) {
        self.tensors.iter_mut().find(|(desc, _)| desc.name == name).unwrap_or_else(|| panic!("no {name}"))
    }

    pub(crate) fn drop(&mut self, name: &str) {
        self.tensors.retain(|(desc, _)| desc.name != name);
    }

    /// Gives a tensor's bytes another type or shape.
    pub(crate) fn relabel(&mut self, name: &str, dtype: Option<DType>, change: impl FnOnce(&mut Vec<u64>)) {
        let (desc, _) = self.tensor(name);
        let mut shape = desc.shape.to_vec();
        change(&mut shape);
        *desc = TensorDesc::new(desc.name.clone(), dtype.unwrap_or(desc.dtype), shape).unwrap();
    }

    /// Changes the values of a tensor of single precision.
    pub(crate) fn map(&mut self, name: &str, change: impl Fn(f32) -> f32) {
        for value in self.tensor(name).1.chunks_exact_mut(4) {
            let changed = change(f32::from_le_bytes(value.try_into().unwrap()));
            value.copy_from_slice(&changed.to_le_bytes());
        }
    }

    /// Multiplies rows, rounded again.
    pub(crate) fn scale_rows(&mut self, name: &str, rows: std::ops::Range<usize>, by: f32) {
        let (desc, bytes) = self.tensor(name);
        let row = desc.row_bytes() as usize;
        let bytes = &mut bytes[rows.start * row..rows.end * row];
        let mut values = vec![0.0; rows.len() * desc.cols() as usize];
        quant::decode(Simd::detect(), desc.dtype, bytes, &mut values);
        values.iter_mut().for_each(|value| *value *= by);
        quant::encode(Simd::detect(), desc.dtype, desc.cols() as usize, &values, None, bytes);
    }

    pub(crate) fn texts(&mut self, key: &str, change: impl FnOnce(&mut Vec<String>)) {
        let mut texts = self.metadata.required::<&[String]>(key).unwrap().to_vec();
        change(&mut texts);
        self.set(key, texts);
    }
}

/// Another value of the same type.
pub(crate) fn another(value: &Value) -> Value {
    match value.clone() {
        Value::U32(n) => (n ^ 1).into(),
        Value::I32(n) => (n ^ 1).into(),
        Value::F32(n) => (n * 0.5 + 0.25).into(),
        Value::Bool(b) => (!b).into(),
        Value::Str(text) => format!("{text}x").into(),
        Value::Array(Array::Str(mut items)) => {
            items[20].push('x');
            items.into()
        }
        Value::Array(Array::I32(mut items)) => {
            items[1] ^= 1;
            items.into()
        }
        Value::Array(Array::U32(mut items)) => {
            items[1] ^= 1;
            items.into()
        }
        Value::Array(Array::F32(mut items)) => {
            items[3] += 1.0;
            items.into()
        }
        Value::Array(Array::Bool(mut items)) => {
            items[1] = !items[1];
            items.into()
        }
        other => panic!("{other:?}"),
    }
}

/// The same value in another type.
pub(crate) fn retyped(value: &Value) -> Option<Value> {
    Some(match value {
        Value::U32(n) => u64::from(*n).into(),
        Value::I32(n) => i64::from(*n).into(),
        Value::F32(n) => f64::from(*n).into(),
        Value::Bool(b) => u8::from(*b).into(),
        _ => return None,
    })
}
