//! Damaged safetensors files: named faults, and a sweep that must never panic nor accept a file that the reference
//! implementation refuses.

use std::fs;

use checkpoint::Checkpoint;
use safetensors::SafeTensors;
use tensor::{Error, Fault, TensorSource};

use crate::{folder, raw, refused, shard};

fn open(bytes: &[u8]) -> Error {
    let dir = folder(&[("model.safetensors", bytes)]);
    let error = refused(dir.path());
    assert!(error.place().contains("model.safetensors"), "{error}");
    error
}

#[test]
fn another_thing_under_the_name() {
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 10246621918\n";
    for (bytes, found, help) in [
        (&b""[..], "an empty file", "fetch the file again"),
        (lfs.as_bytes(), "a git-lfs pointer", "this is a git-lfs pointer: run `git lfs pull`"),
        (b"\n<!DOCTYPE html><html></html>", "a web page", "the download got an HTML page"),
        (b"GGUF\x03\0\0\0\0\0\0\0", "a GGUF file", "give the folder"),
        (b"PK\x03\x04\0\0\0\0\0\0\0\x01", "a PyTorch pickle", "load the model with transformers"),
    ] {
        let error = open(bytes);
        assert_eq!(error.fault(), Fault::Malformed);
        assert_eq!(error.expected_found(), Some(("safetensors", found)));
        assert!(error.help_text().unwrap().starts_with(help), "{error}");
    }
}

#[test]
fn lengths() {
    assert_eq!(open(b"\0\0\0").expected_found(), Some(("at least 8 bytes", "3")));
    let good = shard(&["a"]);
    let mut long = good.clone();
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(open(&long).problem().starts_with("the header is longer than the file"));
    long[..8].copy_from_slice(&(good.len() as u64 - 7).to_le_bytes());
    assert!(open(&long).problem().starts_with("the header is longer than the file"));

    let cut = open(&good[..good.len() - 1]);
    assert_eq!(cut.problem(), "truncated: it ends before or within tensor a");
    assert_eq!(cut.expected_found().unwrap().0, format!("{} bytes", good.len()));
    let mut more = good.clone();
    more.push(0);
    assert_eq!(open(&more).problem(), "bytes after the last tensor");

    // Sparse: a header of more than 100 MB, within the length of the file.
    let dir = folder(&[]);
    let path = dir.path().join("model.safetensors");
    fs::write(&path, 100_000_008u64.to_le_bytes()).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(200_000_000).unwrap();
    assert_eq!(refused(dir.path()).fault(), Fault::Limit);
}

#[test]
fn contradictions_in_the_header() {
    let a = r#""a":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]}"#;
    let cases = [
        // (entries, bytes of data, place, problem)
        (
            r#""b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}"#,
            4,
            "tensor b",
            "its data overlaps that of a",
        ),
        (
            r#""b":{"dtype":"U8","shape":[2],"data_offsets":[6,8]}"#,
            8,
            "tensor b",
            "a gap lies between it and a",
        ),
        (
            r#""b":{"dtype":"U8","shape":[2],"data_offsets":[6,4]}"#,
            6,
            "tensor b",
            "its data_offsets run backwards",
        ),
        (
            r#""b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,10]}"#,
            10,
            "tensor b",
            "its data_offsets do not fit bf16 [2, 3]",
        ),
        (
            r#""a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}"#,
            8,
            "tensor a",
            "occurs twice in the header",
        ),
        (
            r#""b":{"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[4,4]}"#,
            4,
            "tensor b",
            "its shape [4294967296, 4294967296] is too large",
        ),
    ];
    for (entry, data, place, problem) in cases {
        let error = open(&raw(&format!("{{{a},{entry}}}"), data));
        assert_eq!(error.fault(), Fault::Malformed);
        assert!(error.place().ends_with(&format!("model.safetensors: {place}")), "{error}");
        assert_eq!(error.problem(), problem);
    }
    let gap = open(&raw(r#"{"b":{"dtype":"U8","shape":[2],"data_offsets":[6,8]}}"#, 8));
    assert_eq!(gap.problem(), "a gap lies between it and the start");
    assert_eq!(gap.expected_found(), Some(("data from 0 on", "6")));
}

#[test]
fn dtypes() {
    for (name, problem) in [("Q9_Z", "an unknown dtype"), ("F4", "a dtype that is not handled")] {
        let error =
            open(&raw(&format!(r#"{{"a":{{"dtype":"{name}","shape":[2],"data_offsets":[0,1]}}}}"#), 1));
        assert_eq!((error.fault(), error.problem()), (Fault::Unsupported, problem));
        assert!(error.place().ends_with("tensor a"));
        let (expected, found) = error.expected_found().unwrap();
        assert!(expected.starts_with("BF16, F16, F32") && found == name);
    }
}

#[test]
fn a_header_that_is_not_what_it_should_be() {
    for (json, says) in [
        ("", "expected `{`, found nothing"),
        (" {}", "expected `{`, found byte 0x20"),
        ("{} x", "header:1:4: trailing characters"),
        ("{\"a\":1}", "a: invalid type: integer `1`"),
        (
            "{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}",
            "a: invalid value: integer `-1`",
        ),
        ("{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", "a: missing field `data_offsets`"),
        ("{\"__metadata__\":{\"k\":1}}", "__metadata__: invalid type: integer `1`"),
        ("{\"__metadata__\":{},\"__metadata__\":{}}", "__metadata__ occurs twice"),
    ] {
        let error = open(&raw(json, 0));
        assert_eq!(error.fault(), Fault::Malformed);
        assert!(error.to_string().contains(says), "{error}");
    }
    assert!(open(&raw(&"[".repeat(9999), 0)).to_string().contains("expected `{`"));
    assert!(open(&raw(&format!("{{\"a\":{}", "[".repeat(9999)), 0)).problem().contains("a: "));
}

/// The result of `Checkpoint::open` for `bytes`, compared with the reference implementation.
fn judge(dir: &tempfile::TempDir, bytes: &[u8]) {
    fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    let Ok(ours) = Checkpoint::open(dir.path()) else { return };
    let reference = SafeTensors::deserialize(bytes).expect("what we accept, the reference accepts");
    assert_eq!(ours.tensors().len(), reference.len());
    for (i, desc) in ours.tensors().iter().enumerate() {
        let mut data = vec![0; desc.byte_len() as usize];
        ours.read_rows(i, 0, &mut data).unwrap();
        assert_eq!(data, reference.tensor(&desc.name).unwrap().data());
    }
}

#[test]
fn truncation_anywhere_is_refused() {
    let good = shard(&["model.a", "model.b", "model.c"]);
    let dir = folder(&[]);
    for len in 0..good.len() {
        fs::write(dir.path().join("model.safetensors"), &good[..len]).unwrap();
        assert_eq!(refused(dir.path()).fault(), Fault::Malformed, "{len} bytes");
    }
    judge(&dir, &good);
    Checkpoint::open(dir.path()).unwrap();
}

#[test]
fn flipped_bytes_never_panic_and_never_pass_where_the_reference_refuses() {
    let good = shard(&["model.a", "model.b", "model.c"]);
    let dir = folder(&[]);
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            judge(&dir, &bad);
        }
    }
    // three random bytes at a time
    let mut random = testkit::SplitMix64(0x9e37_79b9_7f4a_7c15);
    let mut next = |below: usize| random.index(below);
    for _ in 0..3000 {
        let mut bad = good.clone();
        for _ in 0..3 {
            let at = next(bad.len());
            bad[at] = b"0123456789{}[]\",:abcUFI \xff\x00"[next(26)];
        }
        judge(&dir, &bad);
    }
}
