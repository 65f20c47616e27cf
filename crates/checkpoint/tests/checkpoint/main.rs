//! Checkpoint folders: whole checkpoints, adapters, companion files, every kind of damage, and the writer.

mod adapter_folders;
mod adapters;
mod companions;
mod damage;
mod header;
mod quantised;
mod read;
mod write;

use std::fs;
use std::path::{Path, PathBuf};

use checkpoint::{Checkpoint, SafetensorsWriter};
use tempfile::TempDir;
use tensor::{DType, Error, TensorDesc, TensorSink};

/// A folder with `config.json` and the given files.
pub(crate) fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    for (name, bytes) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    dir
}

/// A valid shard whose tensors are u8 of shape [3, 2], filled with the index of the tensor.
pub(crate) fn shard(names: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shard");
    let tensors = names.iter().map(|n| TensorDesc::new(*n, DType::U8, [3, 2]).unwrap()).collect();
    let writer = SafetensorsWriter::create(&path, tensors, &[]).unwrap();
    for index in 0..names.len() {
        writer.write_rows(index, 0, &[index as u8; 6]).unwrap();
    }
    writer.finish().unwrap();
    fs::read(path).unwrap()
}

/// Raw bytes of a safetensors file.
pub(crate) fn raw(json: &str, data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.resize(bytes.len() + data, 7);
    bytes
}

pub(crate) fn index(entries: &[(&str, &str)]) -> Vec<u8> {
    let map: Vec<_> = entries.iter().map(|(t, f)| format!("{t:?}:{f:?}")).collect();
    format!("{{\"metadata\":{{}},\"weight_map\":{{{}}}}}", map.join(",")).into_bytes()
}

/// The error of opening `dir`.
pub(crate) fn refused(dir: &Path) -> Error {
    Checkpoint::open(dir).map(|_| ()).unwrap_err()
}

pub(crate) fn fixture(name: &str) -> PathBuf {
    testkit::fixtures("checkpoints").join(name)
}
