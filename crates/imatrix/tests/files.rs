//! Damaged and contradictory imatrix files in both formats: each is refused with its place; and the bytes of a valid
//! file. The comparison with llama.cpp's bytes is in `tests/importance.rs` at the root, which has access to llama.cpp.

use std::path::PathBuf;

use gguf::{Layout, Metadata};
use imatrix::{Entry, Importance};
use tempfile::TempDir;
use tensor::{DType, Error, Fault, TensorDesc};

/// A temporary file with the given bytes.
fn file(bytes: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("importance");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn refused(bytes: &[u8]) -> Error {
    let (_dir, path) = file(bytes);
    let error = Importance::read(&path).unwrap_err();
    assert_eq!(error.fault(), Fault::Malformed, "{error}");
    assert!(error.place().starts_with(path.to_str().unwrap()), "{error}");
    error
}

fn sample() -> Importance {
    let mut importance = Importance::new(vec!["a.txt".to_owned(), "b.txt".to_owned()], 3, 8);
    let experts = Entry::new(vec![1.0, 2.0, 0.0, 0.0], vec![24, 0]).unwrap();
    importance.insert("blk.0.ffn_down_exps.weight", experts);
    importance.insert("blk.0.attn_q.weight", Entry::new(vec![0.5; 33], vec![24]).unwrap());
    importance
}

/// A GGUF with the usual keys and tensors, changed by `change`; every number is `value`.
fn gguf(change: impl FnOnce(&mut Metadata, &mut Vec<TensorDesc>), value: f32) -> Vec<u8> {
    let mut metadata = Metadata::new();
    metadata.insert("imatrix.datasets", vec!["a.txt".to_owned()]);
    metadata.insert("imatrix.chunk_count", 1u32);
    metadata.insert("imatrix.chunk_size", 8u32);
    let desc = |name: &str, shape: &[u64]| TensorDesc::new(name, DType::F32, shape).unwrap();
    let mut tensors = vec![desc("x.weight.in_sum2", &[2, 4]), desc("x.weight.counts", &[2, 1])];
    change(&mut metadata, &mut tensors);
    let layout = Layout::new(&metadata, tensors).unwrap();
    let mut bytes = layout.header;
    bytes.extend((bytes.len()..layout.len as usize).step_by(4).flat_map(|_| value.to_le_bytes()));
    bytes
}

#[test]
fn a_file_that_is_written_reads_back_and_has_one_form() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("importance.gguf");
    let mut importance = sample();
    importance.write(&path).unwrap();
    assert!(Importance::is_one(&path));
    assert_eq!(Importance::read(&path).unwrap(), importance);
    assert_eq!(importance.fill_unseen(), [("blk.0.ffn_down_exps.weight".to_owned(), vec![1])]);
    importance.write(&path).unwrap();
    let read = Importance::read(&path).unwrap();
    assert_eq!(read, importance, "what was filled is known to be");
    assert_eq!(read.get("blk.0.ffn_down_exps.weight").unwrap().unseen().collect::<Vec<_>>(), [1]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn what_cannot_be_written_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("importance.gguf");
    let fault = |importance: &Importance| importance.write(&path).unwrap_err().fault();
    assert_eq!(fault(&Importance::new(vec![], 1, 8)), Fault::Malformed);
    let mut long = sample();
    long.insert("n".repeat(60), Entry::new(vec![1.0], vec![1]).unwrap());
    assert_eq!(fault(&long), Fault::Limit);
    let mut dat = sample();
    dat.chunk_size = None;
    assert_eq!(fault(&dat), Fault::Unsupported);
    assert!(!path.exists());
    assert_eq!(sample().write(dir.path().join("no/folder.gguf")).unwrap_err().fault(), Fault::Target);
}

#[test]
fn keys_that_llama_quantize_wants_must_be_there() {
    for key in ["imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"] {
        let error = refused(&gguf(|metadata, _| drop(metadata.remove(key)), 1.0));
        assert!(error.place().ends_with(&format!("key {key}")) && error.problem() == "missing", "{error}");
        let error = refused(&gguf(|metadata, _| drop(metadata.insert(key, 1i8)), 1.0));
        assert_eq!(error.problem(), "its value has the wrong type");
    }
    refused(&gguf(|metadata, _| drop(metadata.insert("imatrix.chunk_size", 0u32)), 1.0));
    let unknown = vec!["x.weight#2".to_owned()];
    refused(&gguf(|metadata, _| drop(metadata.insert("gemma-convert.imatrix.filled", unknown)), 1.0));
}

#[test]
fn sums_and_counts_must_fit_together() {
    let shape = |index: usize, shape: Vec<u64>| gguf(|_, tensors| tensors[index].shape = shape, 1.0);
    assert_eq!(refused(&shape(1, vec![3, 1])).expected_found(), Some(("2", "3")));
    refused(&shape(0, vec![2, 0]));
    refused(&shape(1, vec![0]));
    assert!(
        refused(&gguf(|_, tensors| drop(tensors.pop()), 1.0)).place().ends_with("tensor x.weight.counts")
    );
    assert!(refused(&gguf(|_, tensors| drop(tensors.remove(0)), 1.0)).place().ends_with("x.weight.in_sum2"));
    refused(&gguf(|_, tensors| tensors.clear(), 1.0));
    let error = refused(&gguf(|_, tensors| tensors[0].dtype = DType::I32, 1.0));
    assert_eq!(error.expected_found(), Some(("f32", "i32")));
}

#[test]
fn numbers_must_be_sums_of_squares_and_counts() {
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        assert_eq!(refused(&gguf(|_, _| (), bad)).problem(), "not a number of tokens");
    }
    // valid counts, an invalid sum
    let mut bytes = gguf(|_, _| (), 1.0);
    let at = bytes.len() - 2 * 32;
    bytes[at + 4..at + 8].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(refused(&bytes).place().ends_with("entry x.weight: matrix 0, column 1"));
}

#[test]
fn every_cut_of_a_file_is_refused() {
    let bytes = sample().to_bytes().unwrap();
    // the padding after the last tensor may be missing: ggml reads such files too
    let needed = bytes.len() - 32 + 8;
    for len in (0..needed).step_by(7) {
        let (_dir, path) = file(&bytes[..len]);
        assert!(Importance::read(&path).is_err(), "{len}");
    }
}

/// The bytes of a `.dat` with one entry.
fn dat(name: &[u8], chunks: i32, values: &[f32], end: &[u8]) -> Vec<u8> {
    let mut bytes = [1i32, name.len() as i32].map(i32::to_le_bytes).concat();
    bytes.extend(name);
    bytes.extend([chunks, values.len() as i32].map(i32::to_le_bytes).concat());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    [bytes.as_slice(), end].concat()
}

#[test]
fn the_older_form() {
    let end = [&7i32.to_le_bytes()[..], &5i32.to_le_bytes(), b"a.txt"].concat();
    let (_dir, path) = file(&dat(b"x.weight", 2, &[4.0, 6.0], &end));
    assert!(Importance::is_one(&path));
    let read = Importance::read(&path).unwrap();
    assert_eq!(
        (read.datasets.as_slice(), read.chunks, read.chunk_size),
        (&["a.txt".to_owned()][..], 7, None)
    );
    assert_eq!(read.get("x.weight").unwrap().weights(), [2.0, 3.0]);
    // the oldest files end after the last entry; without chunks the values are means
    let (_dir, path) = file(&dat(b"x.weight", 0, &[4.0, 6.0], &[]));
    assert_eq!(Importance::read(&path).unwrap().get("x.weight").unwrap().weights(), [4.0, 6.0]);
}

#[test]
fn a_damaged_older_file() {
    let good = dat(b"x.weight", 2, &[4.0, 6.0], &[]);
    for len in 0..good.len() {
        refused(&good[..len]);
    }
    refused(&dat(b"x.weight", -1, &[4.0], &[]));
    refused(&dat(b"x.weight", 1, &[], &[]));
    refused(&dat(b"\xff.weight", 1, &[4.0], &[]));
    assert!(
        refused(&dat(b"x.weight", 1, &[1.0, f32::NAN], &[]))
            .place()
            .ends_with("x.weight: matrix 0, column 1")
    );
    // impossible lengths; nothing is allocated for them
    for (at, value) in [(0, i32::MAX), (0, -1), (0, 0), (4, i32::MAX), (4, -1), (20, i32::MAX), (20, -1)] {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        refused(&bytes);
    }
    let end = |count: i32, len: i32| [count, len].map(i32::to_le_bytes).concat();
    refused(&dat(b"x.weight", 1, &[1.0], &end(1, 1 << 20)));
    refused(&dat(b"x.weight", 1, &[1.0], &[&end(1, 0)[..], &[0]].concat()));
    refused(b"");
    refused(b"{\"a\": 1}");
}
