//! Byte identity with gguf-py and llama-gguf-split: their files are read, laid out again and compared whole.

mod common;

use common::{data, path};
use gguf::{Array, GgufFile, GgufSet, Header, Layout, SplitBy, Value, split};
use tensor::{DType, TensorDesc, TensorSource};

fn descs(header: &Header) -> Vec<TensorDesc> {
    header.tensors.iter().map(|t| t.desc.clone()).collect()
}

/// The file that a layout describes, with tensors from `source` by name.
fn assemble(layout: &Layout, source: &dyn TensorSource) -> Vec<u8> {
    let mut file = layout.header.clone();
    file.resize(layout.len as usize, 0);
    for tensor in &layout.tensors {
        let index = source.tensors().iter().position(|t| t.name == tensor.desc.name).unwrap();
        let (begin, len) = (tensor.offset as usize, tensor.desc.byte_len() as usize);
        source.read_rows(index, 0, &mut file[begin..begin + len]).unwrap();
    }
    file
}

#[test]
fn gguf_py_files_come_out_as_they_were() {
    for name in ["types.gguf", "whole.gguf"] {
        let file = GgufFile::open(path(name)).unwrap();
        let layout = Layout::new(file.metadata(), file.tensors().to_vec()).unwrap();
        assert!(assemble(&layout, &file) == data(name), "{name}");
    }
}

#[test]
fn split_by_tensors_gives_the_parts_of_llama_gguf_split() {
    let whole = GgufFile::open(path("whole.gguf")).unwrap();
    let parts = split(whole.metadata(), whole.tensors().to_vec(), SplitBy::Tensors(2)).unwrap();
    assert_eq!(parts.len(), 3);
    for (number, part) in parts.into_iter().enumerate() {
        let name = gguf::part_name("part", number + 1, 3);
        let layout = Layout::new(&part.metadata, part.tensors).unwrap();
        assert!(assemble(&layout, &whole) == data(&name), "{name}");
    }
}

#[test]
fn split_by_size_gives_the_headers_and_lengths_of_llama_gguf_split() {
    let whole = Header::read(&mut data("size.head").as_slice(), 3_184_576).unwrap();
    let parts = split(&whole.metadata, descs(&whole), SplitBy::Bytes(1_000_000)).unwrap();
    let lens = [984_416, 1_200_192, 999_232, 1_184];
    assert_eq!(parts.len(), lens.len());
    for (number, (part, len)) in parts.into_iter().zip(lens).enumerate() {
        let layout = Layout::new(&part.metadata, part.tensors).unwrap();
        assert!(layout.header == data(&format!("size-{:05}-of-00004.head", number + 1)), "part {number}");
        assert_eq!(layout.len, len, "part {number}");
    }
}

#[test]
fn a_set_is_the_whole_again_from_any_part() {
    let whole = GgufFile::open(path("whole.gguf")).unwrap();
    for part in ["part-00001-of-00003.gguf", "part-00003-of-00003.gguf"] {
        let set = GgufSet::open(path(part)).unwrap();
        assert_eq!(set.metadata(), whole.metadata());
        assert_eq!(set.parts().len(), 3);
        for (index, desc) in set.tensors().iter().enumerate() {
            assert_eq!(desc.name, whole.tensors()[index].name);
            let mut rows = [vec![0; desc.byte_len() as usize], vec![1; desc.byte_len() as usize]];
            set.read_rows(index, 0, &mut rows[0]).unwrap();
            whole.read_rows(index, 0, &mut rows[1]).unwrap();
            assert_eq!(rows[0], rows[1], "{}", desc.name);
        }
        for (index, desc) in set.tensors().iter().enumerate() {
            assert_eq!(set.mapped_rows(index, 0, desc.rows()), None);
        }
        let mapped = set.mapped();
        for (index, desc) in mapped.tensors().iter().enumerate() {
            let mut rows = vec![0; desc.byte_len() as usize];
            whole.read_rows(index, 0, &mut rows).unwrap();
            assert_eq!(mapped.mapped_rows(index, 0, desc.rows()), Some(&rows[..]), "{}", desc.name);
            let last = &rows[rows.len() - desc.row_bytes() as usize..];
            assert_eq!(mapped.mapped_rows(index, desc.rows() - 1, 1), Some(last), "{}", desc.name);
            for (first, count) in [(0, desc.rows() + 1), (desc.rows(), 1), (u64::MAX, 1), (1, u64::MAX)] {
                assert_eq!(mapped.mapped_rows(index, first, count), None, "{} {first} {count}", desc.name);
            }
        }
    }
    assert_eq!(GgufSet::open(path("whole.gguf")).unwrap().tensors(), whole.tensors());
}

#[test]
fn values_are_what_python_wrote() {
    let file = GgufFile::open(path("types.gguf")).unwrap();
    let metadata = file.metadata();
    let get = |key: &str| metadata.get(key).unwrap().clone();
    assert_eq!(get("gemma4-assistant.uint8"), Value::U8(200));
    assert_eq!(get("gemma4-assistant.int16"), Value::I16(-30000));
    assert_eq!(get("gemma4-assistant.uint64"), Value::U64(u64::MAX));
    assert_eq!(get("gemma4-assistant.int64"), Value::I64(i64::MIN));
    assert_eq!(get("gemma4-assistant.float32"), Value::F32(0.1));
    assert_eq!(get("gemma4-assistant.float64"), Value::F64(0.1));
    assert_eq!(get("gemma4-assistant.string"), Value::Str("größe 😀".into()));
    assert_eq!(get("array.bool"), Value::Array(Array::Bool(vec![true, false, true])));
    assert_eq!(
        get("array.string"),
        Value::Array(Array::Str(vec!["größe 😀".into(), "".into(), "größe 😀".into()]))
    );
    // Set to 0 before add_bos_token, then to 1: gguf-py keeps the first position.
    let keys: Vec<_> = metadata.iter().map(|(key, _)| key).collect();
    assert_eq!(keys[keys.len() - 2..], ["general.file_type", "tokenizer.ggml.add_bos_token"]);
    assert_eq!(metadata.required::<u32>("general.file_type").unwrap(), 1);
}

#[test]
fn shapes_are_slowest_first_and_rows_can_be_read_alone() {
    let file = GgufFile::open(path("types.gguf")).unwrap();
    let at = |name: &str| file.tensors().iter().position(|t| t.name == name).unwrap();
    let four = &file.tensors()[at("four.dims")];
    assert_eq!((four.dtype, four.shape.as_slice()), (DType::I8, [1, 2, 3, 4].as_slice()));
    let mut rows = [0; 8];
    file.read_rows(at("four.dims"), 4, &mut rows).unwrap();
    assert_eq!(rows, [16, 17, 18, 19, 20, 21, 22, 23]);
    let q4 = &file.tensors()[at("q4_0")];
    assert_eq!((q4.dtype, q4.shape.as_slice()), (DType::Q4_0, [3, 64].as_slice()));

    for (index, first, len) in
        [(at("four.dims"), 5, 8), (at("four.dims"), 0, 3), (at("i64"), u64::MAX, 40), (99, 0, 0)]
    {
        assert!(file.read_rows(index, first, &mut vec![0; len]).is_err(), "{index} {first} {len}");
    }
}
