//! Incomplete and inconsistent splits: each error names the part.

mod common;

use std::fs;
use std::path::Path;

use common::{data, path};
use gguf::{GgufFile, GgufSet, Layout, Metadata};
use tensor::{Error, Fault, TensorSource};

const PARTS: [&str; 3] = ["part-00001-of-00003.gguf", "part-00002-of-00003.gguf", "part-00003-of-00003.gguf"];

/// Copies the good set to a folder, changes it and opens its first part.
fn opened(change: impl Fn(&Path)) -> Result<GgufSet, Error> {
    let folder = tempfile::tempdir().unwrap();
    for part in PARTS {
        fs::write(folder.path().join(part), data(part)).unwrap();
    }
    change(folder.path());
    GgufSet::open(folder.path().join(PARTS[0]))
}

/// Rewrites a part with other keys, or without its tensors.
fn rewrite(file: &Path, keep_tensors: bool, keys: impl Fn(&mut Metadata)) {
    let old = GgufFile::open(file).unwrap();
    let mut metadata = old.metadata().clone();
    keys(&mut metadata);
    let tensors = if keep_tensors { old.tensors().to_vec() } else { vec![] };
    let layout = Layout::new(&metadata, tensors).unwrap();
    let mut bytes = layout.header;
    bytes.resize(layout.len as usize, 0);
    fs::write(file, bytes).unwrap();
}

#[track_caller]
fn refused(change: impl Fn(&Path), part: &str, words: &str) {
    let error = opened(change).unwrap_err();
    assert_eq!(error.fault(), Fault::Malformed, "{error}");
    assert!(error.place().contains(part) && error.to_string().contains(words), "{error}");
}

#[test]
fn a_missing_part() {
    refused(|f| fs::remove_file(f.join(PARTS[1])).unwrap(), PARTS[1], "is one of 3 parts");
}

#[test]
fn a_truncated_part() {
    for len in [0, 100, 129] {
        refused(|f| fs::write(f.join(PARTS[2]), &data(PARTS[2])[..len]).unwrap(), PARTS[2], "file");
    }
}

#[test]
fn a_part_of_another_set() {
    let set = |part: usize, key: &'static str, value: gguf::Value| {
        move |f: &Path| rewrite(&f.join(PARTS[part]), true, |m| drop(m.insert(key, value.clone())))
    };
    refused(set(1, "split.no", 2u16.into()), PARTS[1], "found part 3 of 3, 5 tensors in all");
    refused(set(1, "split.count", 4u16.into()), PARTS[1], "found part 2 of 4");
    refused(set(2, "split.tensors.count", 6i32.into()), PARTS[2], "expected part 3 of 3, 5 tensors in all");
    refused(set(1, "split.no", 7u16.into()), PARTS[1], "split.no below 3");
    refused(set(1, "split.no", 1u32.into()), PARTS[1], "expected u16, found u32");
    refused(set(0, "split.count", 4u16.into()), PARTS[0], "-00001-of-00004.gguf");
    refused(set(0, "split.count", 3u32.into()), PARTS[0], "expected u16, found u32");
    refused(|f| rewrite(&f.join(PARTS[1]), true, |m| drop(m.remove("split.no"))), PARTS[1], "missing");
    refused(|f| fs::write(f.join(PARTS[1]), data("whole.gguf")).unwrap(), PARTS[1], "key split.no: missing");
}

#[test]
fn lost_and_doubled_tensors() {
    refused(|f| rewrite(&f.join(PARTS[1]), false, |_| ()), PARTS[0], "expected 5, found 3");
    let twice = |f: &Path| {
        fs::copy(f.join(PARTS[0]), f.join(PARTS[1])).unwrap();
        rewrite(&f.join(PARTS[1]), true, |m| drop(m.insert("split.no", 1u16)));
    };
    refused(twice, PARTS[1], "an earlier part has a tensor of this name");
}

#[test]
fn a_renamed_part() {
    let folder = tempfile::tempdir().unwrap();
    let renamed = folder.path().join("model.gguf");
    fs::copy(path(PARTS[0]), &renamed).unwrap();
    let error = GgufSet::open(&renamed).unwrap_err();
    assert!(error.to_string().contains("-00001-of-00003.gguf, found model.gguf"), "{error}");
}

#[test]
fn a_part_without_tensors_does_not_shift_the_others() {
    let set = opened(|f| {
        rewrite(&f.join(PARTS[0]), false, |m| drop(m.insert("split.tensors.count", 3i32)));
        for part in &PARTS[1..] {
            let mut bytes = data(part);
            let at = bytes.windows(19).position(|w| w == b"split.tensors.count").unwrap() + 19 + 4;
            bytes[at] = 3;
            fs::write(f.join(part), bytes).unwrap();
        }
    })
    .unwrap();
    let whole = GgufFile::open(path("whole.gguf")).unwrap();
    assert_eq!(set.tensors()[0].name, "blk.2.x");
    let mut rows = [[0; 24], [1; 24]];
    set.read_rows(0, 0, &mut rows[0]).unwrap();
    whole.read_rows(2, 0, &mut rows[1]).unwrap();
    assert_eq!(rows[0], rows[1]);
    assert!(set.read_rows(3, 0, &mut []).is_err());
}

#[test]
fn no_file_and_no_gguf() {
    assert_eq!(GgufFile::open(path("absent.gguf")).unwrap_err().fault(), Fault::Malformed);
    let error = GgufFile::open(path("README.md")).unwrap_err();
    assert!(error.to_string().contains("README.md: header: not a GGUF file"), "{error}");
    assert_eq!(GgufFile::open(path("")).unwrap_err().fault(), Fault::Malformed, "a folder");
}
