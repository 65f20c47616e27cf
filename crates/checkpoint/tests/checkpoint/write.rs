//! The writer: the same bytes as the reference implementation, ordinary file permissions, no partial files.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use checkpoint::{Checkpoint, SafetensorsWriter};
use safetensors::tensor::{Dtype, TensorView};
use tensor::{DType, Fault, TensorDesc, TensorSink, TensorSource};

use crate::{fixture, folder};

fn desc(name: &str, dtype: DType, shape: &[u64]) -> TensorDesc {
    TensorDesc::new(name, dtype, shape).unwrap()
}

#[test]
fn the_bytes_are_those_of_the_reference() {
    let data: Vec<u8> = (0..48).collect();
    // The order of the reference implementation: wide types first, then by name.
    let tensors = [
        ("é\"\\\n", DType::F32, Dtype::F32, vec![2u64, 3]),
        ("b", DType::BF16, Dtype::BF16, vec![]),
        ("c", DType::BF16, Dtype::BF16, vec![1, 5]),
        ("e", DType::F8_E4M3, Dtype::F8_E4M3, vec![0, 4]),
        ("d", DType::BOOL, Dtype::BOOL, vec![3]),
    ];
    let views = tensors.iter().map(|(name, d, dtype, shape)| {
        let bytes = desc(name, *d, shape).byte_len() as usize;
        let shape = shape.iter().map(|&d| d as usize).collect();
        (*name, TensorView::new(*dtype, shape, &data[..bytes]).unwrap())
    });
    let meta = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let reference = safetensors::serialize(views, Some(meta)).unwrap();

    let dir = folder(&[]);
    let path = dir.path().join("model.safetensors");
    let descs: Vec<_> = tensors.iter().map(|(n, d, _, s)| desc(n, *d, s)).collect();
    let writer = SafetensorsWriter::create(&path, descs.clone(), &[("format", "pt")]).unwrap();
    for (i, desc) in descs.iter().enumerate().rev() {
        let row = desc.row_bytes() as usize;
        for r in (0..desc.rows()).rev() {
            writer.write_rows(i, r, &data[r as usize * row..][..row]).unwrap();
        }
    }
    writer.finish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), reference);

    let back = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(back.tensors(), descs);
    assert_eq!(back.shards()[0].data_start % 8, 0);
}

#[test]
fn a_checkpoint_copied_row_by_row_is_the_same_file() {
    let original = Checkpoint::open(fixture("e2b")).unwrap();
    let dir = folder(&[]);
    let path = dir.path().join("model.safetensors");
    let writer = SafetensorsWriter::create(&path, original.tensors().to_vec(), &[("format", "pt")]).unwrap();
    for (i, desc) in original.tensors().iter().enumerate() {
        let mut row = vec![0; desc.row_bytes() as usize];
        for r in 0..desc.rows() {
            original.read_rows(i, r, &mut row).unwrap();
            writer.write_rows(i, r, &row).unwrap();
        }
    }
    writer.finish().unwrap();
    assert!(fs::read(path).unwrap() == fs::read(fixture("e2b").join("model.safetensors")).unwrap());
}

#[test]
fn order_and_metadata_are_kept() {
    let dir = folder(&[]);
    let path = dir.path().join("model.safetensors");
    let meta = [("z", "1"), ("a", "\u{1}\"")];
    let tensors = vec![desc("b", DType::U8, &[1]), desc("a", DType::F64, &[1])];
    SafetensorsWriter::create(&path, tensors, &meta).unwrap().finish_with_holes().unwrap();
    let bytes = fs::read(&path).unwrap();
    let head =
        r#"{"__metadata__":{"z":"1","a":"\u0001\""},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a""#;
    assert!(bytes[8..].starts_with(head.as_bytes()));
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(checkpoint.shards()[0].metadata["a"], "\u{1}\"");
    assert_eq!(checkpoint.tensors()[0].name, "b");
}

#[test]
fn the_name_is_given_to_a_whole_file_only() {
    let dir = folder(&[]);
    let path = dir.path().join("model.safetensors");
    let files = || fs::read_dir(dir.path()).unwrap().count();
    let create = || SafetensorsWriter::create(&path, vec![desc("a", DType::U8, &[2, 2])], &[]).unwrap();

    let writer = create();
    writer.write_rows(0, 0, &[1, 2]).unwrap();
    assert!(!path.exists());
    let error = writer.finish().unwrap_err();
    assert_eq!((error.fault(), error.expected_found()), (Fault::Target, Some(("4 bytes of data", "2"))));
    assert_eq!(files(), 1, "only config.json");

    let writer = create();
    for (index, first, rows) in [(0, 0, &[1][..]), (0, 2, &[1, 2]), (0, 0, &[0; 6]), (1, 0, &[1, 2])] {
        assert!(writer.write_rows(index, first, rows).is_err());
    }
    writer.write_rows(0, 1, &[3, 4]).unwrap();
    writer.write_rows(0, 0, &[1, 2]).unwrap();
    writer.finish().unwrap();
    assert_eq!(files(), 2);
    assert!(fs::read(&path).unwrap().ends_with(&[1, 2, 3, 4]));
    let ordinary = fs::metadata(dir.path().join("config.json")).unwrap().permissions().mode();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode(), ordinary);
}

#[test]
fn holes_take_no_space() {
    let dir = folder(&[]);
    let path = dir.path().join("model.safetensors");
    let big = desc("a", DType::BF16, &[1 << 20, 1 << 10]);
    SafetensorsWriter::create(&path, vec![big], &[]).unwrap().finish_with_holes().unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert!(checkpoint.total_len() > 2 << 30);
    assert!(fs::metadata(&path).unwrap().blocks() * 512 < 1 << 20);
    let mut row = [1; 2048];
    checkpoint.read_rows(0, (1 << 20) - 1, &mut row).unwrap();
    assert_eq!(row, [0; 2048]);
}

#[test]
fn what_cannot_be_written() {
    let dir = folder(&[]);
    let create = |path: &str, names: &[(&str, DType)]| {
        let tensors = names.iter().map(|(n, d)| desc(n, *d, &[32])).collect();
        SafetensorsWriter::create(dir.path().join(path), tensors, &[]).map(|_| ()).unwrap_err()
    };
    assert_eq!(create("x", &[("a", DType::Q4_0)]).fault(), Fault::Unsupported);
    assert_eq!(create("x", &[("a", DType::U8), ("a", DType::U8)]).problem(), "the name is taken");
    assert_eq!(create("x", &[("__metadata__", DType::U8)]).problem(), "the name is taken");
    assert_eq!(create("no/such/folder", &[]).fault(), Fault::Target);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
