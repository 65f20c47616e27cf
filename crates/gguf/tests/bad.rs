//! Every malformation that must be refused, made by changing a good file, with the words of its error.

mod common;

use common::data;
use gguf::{Header, Layout, Metadata};
use tensor::{DType, Error, Fault, TensorDesc};

/// The bytes of a valid file.
struct Good(Vec<u8>);

impl Good {
    fn new() -> Self {
        let mut metadata = Metadata::new();
        metadata.insert("general.alignment", 64u32);
        metadata.insert("text", "words");
        metadata.insert("truth", true);
        metadata.insert("flags", vec![true, false]);
        metadata.insert("numbers", vec![1i32, 2, 3]);
        metadata.insert("strings", vec!["one".to_string(), "two".to_string()]);
        let tensor = |name: &str| TensorDesc::new(name, DType::F32, [2, 32]).unwrap();
        let layout = Layout::new(&metadata, vec![tensor("weight.a"), tensor("weight.b")]).unwrap();
        let mut bytes = layout.header;
        bytes.resize(layout.len as usize, 0);
        Good(bytes)
    }

    /// Byte offset just after the first occurrence of `text`.
    fn after(&self, text: &str) -> usize {
        self.0.windows(text.len()).position(|w| w == text.as_bytes()).unwrap() + text.len()
    }

    fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn u32_after(self, text: &str, skip: usize, value: u32) -> Self {
        let at = self.after(text) + skip;
        self.put(at, &value.to_le_bytes())
    }

    fn u64_after(self, text: &str, skip: usize, value: u64) -> Self {
        let at = self.after(text) + skip;
        self.put(at, &value.to_le_bytes())
    }

    /// Replaces a string and the length before it.
    fn rename(mut self, old: &str, new: &[u8]) -> Self {
        let end = self.after(old);
        let counted = [&(new.len() as u64).to_le_bytes(), new].concat();
        self.0.splice(end - old.len() - 8..end, counted);
        self
    }

    fn error(&self) -> Error {
        Header::read(&mut self.0.as_slice(), self.0.len() as u64).unwrap_err()
    }
}

#[track_caller]
fn refused(bad: Good, fault: Fault, place: &str, problem: &str) {
    let error = bad.error();
    assert_eq!((error.fault(), error.place()), (fault, place), "{error}");
    assert!(error.to_string().contains(problem), "{error}");
}

use Fault::{Malformed, Unsupported};

#[test]
fn the_file_they_are_made_from_is_good() {
    let Good(bytes) = Good::new();
    let header = Header::read(&mut bytes.as_slice(), bytes.len() as u64).unwrap();
    assert_eq!((header.metadata.len(), header.tensors.len(), header.data_start % 64), (6, 2, 0));
}

#[test]
fn start() {
    refused(Good::new().put(0, b"GGML"), Malformed, "header", "not a GGUF file (expected GGUF, found GGML)");
    refused(Good::new().put(0, b"\x93\n\0\xff"), Malformed, "header", r"found \x93\n\x00\xff");
    refused(Good::new().put(4, &[0, 0, 0, 3]), Unsupported, "header", "big-endian");
    for version in [0u32, 1, 2, 4] {
        let bad = Good::new().put(4, &version.to_le_bytes());
        refused(bad, Unsupported, "header", &format!("(expected 3, found {version})"));
    }
    for count in [1 << 20, u64::MAX] {
        refused(Good::new().put(8, &count.to_le_bytes()), Malformed, "tensor records", "file");
        refused(Good::new().put(16, &count.to_le_bytes()), Malformed, "metadata", "file");
    }
}

#[test]
fn keys() {
    refused(Good::new().rename("text", b""), Malformed, "key number 1", "an empty name");
    refused(Good::new().rename("text", b"te\0t"), Malformed, "key number 1", "NUL");
    refused(Good::new().rename("truth", b"text"), Malformed, "key text", "occurs twice");
    refused(Good::new().rename("text", b"\xff\xfe"), Malformed, "key number 1", "UTF-8");
    refused(Good::new().rename("text", &[b'k'; 65_536]), Malformed, "key number 1", "too long");
    let at = Good::new().after("text") - 4 - 8;
    refused(
        Good::new().put(at, &50_000u64.to_le_bytes()),
        Malformed,
        "key number 1",
        "too short (expected 50000 bytes",
    );
}

#[test]
fn values() {
    refused(Good::new().u32_after("text", 0, 13), Malformed, "key text", "no value type has the number 13");
    refused(
        Good::new().u32_after("numbers", 4, 99),
        Malformed,
        "key numbers",
        "no value type has the number 99",
    );
    refused(Good::new().u32_after("numbers", 4, 9), Unsupported, "key numbers", "array of arrays");
    refused(Good::new().u64_after("text", 4, 1 << 40), Malformed, "key text", "too short");
    refused(Good::new().u64_after("text", 4, u64::MAX), Malformed, "key text", "too short");
    refused(
        Good::new().u64_after("numbers", 8, 1 << 20),
        Malformed,
        "key numbers",
        "too short (expected 4194304 bytes",
    );
    refused(Good::new().u64_after("numbers", 8, u64::MAX), Malformed, "key numbers", "cannot hold");
    refused(Good::new().u64_after("strings", 8, 1 << 20), Malformed, "key strings", "too short");
    refused(Good::new().u64_after("strings", 16, 1 << 20), Malformed, "key strings", "too short");
    refused(Good::new().rename("words", b"w\xc3"), Malformed, "key text", "UTF-8");
    let truth = Good::new().after("truth") + 4;
    refused(Good::new().put(truth, &[2]), Malformed, "key truth", "(expected 0 or 1, found 2)");
    let flags = Good::new().after("flags") + 4 + 4 + 8;
    refused(Good::new().put(flags, &[0xff]), Malformed, "key flags", "found 255");
}

#[test]
fn alignment() {
    for n in [0, 48, u32::MAX] {
        refused(
            Good::new().u32_after("general.alignment", 4, n),
            Malformed,
            "key general.alignment",
            "power of two",
        );
    }
    refused(
        Good::new().u32_after("general.alignment", 0, 6),
        Malformed,
        "key general.alignment",
        "found f32",
    );
    // A valid alignment, but the offsets do not match it.
    refused(
        Good::new().u32_after("general.alignment", 4, 1 << 10),
        Malformed,
        "tensor weight.b",
        "offset 1024",
    );
    refused(
        Good::new().u32_after("general.alignment", 4, 1 << 31),
        Malformed,
        "tensor weight.b",
        "offset 2147483648",
    );
}

#[test]
fn tensor_names() {
    refused(
        Good::new().rename("weight.b", b"weight.a"),
        Malformed,
        "tensor weight.a",
        "two tensors of this name",
    );
    refused(Good::new().rename("weight.b", b""), Malformed, "tensor number 1", "an empty name");
    refused(
        Good::new().rename("weight.b", &[b'n'; 64]),
        Malformed,
        "tensor number 1",
        "at most 63 bytes, found 64",
    );
    refused(Good::new().rename("weight.b", b"\x80"), Malformed, "tensor number 1", "UTF-8");
}

#[test]
fn shapes_and_types() {
    let b = "weight.b";
    for dims in [0, 5, u32::MAX] {
        refused(Good::new().u32_after(b, 0, dims), Malformed, "tensor weight.b", "1 to 4");
    }
    refused(Good::new().u64_after(b, 12, 1 << 63), Malformed, "tensor weight.b", "impossible shape");
    refused(Good::new().u64_after(b, 12, (1 << 63) - 1), Malformed, "tensor weight.b", "too large");
    refused(Good::new().u64_after(b, 12, 1 << 40), Malformed, "tensor weight.b", "cut short");
    refused(Good::new().u64_after(b, 4, 1 << 61), Malformed, "tensor weight.b", "too large");
    refused(
        Good::new().u32_after(b, 20, 14),
        Malformed,
        "tensor weight.b",
        "multiple of 256 for q6_k, found 32",
    );
    let place = |id: u32| format!("tensor weight.b: type number {id}");
    for (id, name) in [(16, "IQ2_XXS"), (21, "IQ3_S"), (34, "TQ1_0"), (40, "NVFP4")] {
        refused(
            Good::new().u32_after(b, 20, id),
            Unsupported,
            &place(id),
            &format!("unsupported type {name}"),
        );
    }
    for id in [4, 31, 43, u32::MAX] {
        refused(Good::new().u32_after(b, 20, id), Malformed, &place(id), "no tensor type");
    }
}

#[test]
fn offsets() {
    // Not aligned, inside the previous tensor, a gap, past the end, beyond any file.
    for offset in [257, 192, 0, 320, 1 << 40, u64::MAX] {
        let bad = Good::new().u64_after("weight.b", 24, offset);
        refused(bad, Malformed, "tensor weight.b", &format!("(expected offset 256, found {offset})"));
    }
}

#[test]
fn lost_bytes_and_lost_padding() {
    let mut cut = Good::new();
    cut.0.pop();
    refused(cut, Malformed, "tensor weight.b", "cut short");
    // ggml reads files without padding after the last tensor, so they are valid.
    let bytes = data("types.gguf");
    let header = Header::read(&mut bytes.as_slice(), bytes.len() as u64 - 28).unwrap();
    assert_eq!(header.tensors.last().unwrap().desc.byte_len(), 4);
    assert!(Header::read(&mut bytes.as_slice(), bytes.len() as u64 - 29).is_err());
}
