//! The header of a safetensors file: its length in eight bytes, then JSON, then the tensor data without gaps.
//!
//! Format: the README of <https://github.com/huggingface/safetensors>. That project's crate validates the offsets; this
//! file explains its verdict, and adds the checks that the crate lacks: duplicate names, the real length of the file,
//! the leading `{`. Tensor data is never read.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;

use base::Positioned;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::de::{Deserialize, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use tensor::{DType, Error, Result, TensorDesc};

use crate::files;

/// Maximum header size in bytes, as in the reference implementation.
pub(crate) const MAX_HEADER: u64 = 100_000_000;
/// Maximum number of tensors of a file, and of entries of its `__metadata__`. 26B-A4B with separate experts has 12,000
/// tensors in all files together.
const MAX_ENTRIES: usize = 200_000;
/// Maximum number of dimensions of a tensor.
const MAX_DIMS: usize = 16;

/// The types known to both sides, with the names of the reference implementation. Of two rows with the same file type,
/// the first one is read.
pub(crate) const DTYPES: [(DType, Dtype); 16] = [
    (DType::BF16, Dtype::BF16),
    (DType::F16, Dtype::F16),
    (DType::F32, Dtype::F32),
    (DType::F64, Dtype::F64),
    (DType::I8, Dtype::I8),
    (DType::I16, Dtype::I16),
    (DType::I32, Dtype::I32),
    (DType::I64, Dtype::I64),
    (DType::U8, Dtype::U8),
    (DType::U16, Dtype::U16),
    (DType::U32, Dtype::U32),
    (DType::U64, Dtype::U64),
    (DType::BOOL, Dtype::BOOL),
    (DType::F8_E4M3, Dtype::F8_E4M3),
    (DType::F8_E5M2, Dtype::F8_E5M2),
    // no safetensors reader knows this type: see formats/sfp8-safetensors.md
    (DType::SFP8, Dtype::U8),
];

/// A checked header.
pub(crate) struct Header {
    /// Tensors sorted by data offset, each with the absolute offset of its first byte.
    pub(crate) tensors: Vec<(TensorDesc, u64)>,
    /// The entries of `__metadata__`.
    pub(crate) metadata: BTreeMap<String, String>,
    /// Absolute offset of the first data byte.
    pub(crate) data_start: u64,
}

/// Reads and checks the header of `file`, which has `len` bytes; `place` names it in errors.
pub(crate) fn read(file: &File, len: u64, place: &str) -> Result<Header> {
    let read_at = |out: &mut [u8], at| file.read_exact_at(out, at).map_err(|e| Error::io(place, &e));
    let mut start = vec![0; len.min(512) as usize];
    read_at(&mut start, 0)?;
    let Some(size) = start.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)) else {
        return Err(not_safetensors(place, &start).unwrap_or_else(|| {
            Error::malformed(place, "too short for a safetensors file").expected("at least 8 bytes", len)
        }));
    };
    if size > len - 8 {
        return Err(not_safetensors(place, &start).unwrap_or_else(|| {
            Error::malformed(place, "the header is longer than the file: truncated, or not safetensors")
                .expected(format!("8 + {size} bytes at least"), len)
                .help("fetch the file again")
        }));
    }
    if size > MAX_HEADER {
        return Err(Error::limit(place, "the header is too long")
            .expected(format!("at most {MAX_HEADER} bytes"), size));
    }
    let mut json = vec![0; size as usize];
    read_at(&mut json, 8)?;
    if json.first() != Some(&b'{') {
        let found = json.first().map_or("nothing".into(), |b| format!("byte 0x{b:02x}"));
        return Err(Error::malformed(format!("{place}: header"), "not JSON").expected("`{`", found));
    }
    let raw: Raw =
        serde_json::from_slice(&json).map_err(|e| files::json_error(format!("{place}: header"), &e))?;
    check(raw, len, 8 + size, place)
}

fn check(raw: Raw, len: u64, data_start: u64, place: &str) -> Result<Header> {
    let mut seen = HashSet::new();
    let mut tensors = Vec::with_capacity(raw.tensors.len());
    let mut infos = Vec::with_capacity(raw.tensors.len());
    for (name, info) in &raw.tensors {
        let within = |e: Error| e.within(place);
        if !seen.insert(name) {
            return Err(within(Error::malformed(format!("tensor {name}"), "occurs twice in the header")));
        }
        let (dtype, reference) = dtype(name, &info.dtype).map_err(within)?;
        let shape: Vec<u64> = info.shape.iter().map(|&d| d as u64).collect();
        let desc = TensorDesc::new(name, dtype, shape).map_err(within)?;
        tensors.push((desc, info.data_offsets));
        infos.push((
            name.clone(),
            TensorInfo { dtype: reference, shape: info.shape.clone(), data_offsets: info.data_offsets },
        ));
    }
    tensors.sort_by_key(|t| t.1);
    infos.sort_by_key(|t| t.1.data_offsets);
    let data_len = match Metadata::new(None, infos) {
        Ok(judged) => judged.data_len() as u64,
        Err(verdict) => {
            return Err(explain(&tensors, place)
                .unwrap_or_else(|| Error::malformed(format!("{place}: header"), verdict)));
        }
    };

    let end = data_start.saturating_add(data_len);
    if end > len {
        let cut = tensors.iter().find(|t| data_start + t.1.1 as u64 > len).map_or("", |t| &t.0.name);
        return Err(Error::malformed(place, format!("truncated: it ends before or within tensor {cut}"))
            .expected(format!("{end} bytes"), len)
            .help("fetch the file again"));
    }
    if end < len {
        return Err(Error::malformed(place, "bytes after the last tensor")
            .expected(format!("{end} bytes"), len)
            .help("fetch the file again"));
    }
    let tensors = tensors.into_iter().map(|(d, (at, _))| (d, data_start + at as u64)).collect();
    Ok(Header { tensors, metadata: raw.metadata, data_start })
}

/// The error for the first invalid offset of `tensors`, which are sorted by offset.
fn explain(tensors: &[(TensorDesc, (usize, usize))], place: &str) -> Option<Error> {
    let mut end = 0;
    let mut before = "the start";
    for (desc, (from, to)) in tensors {
        let err = |problem: String| Error::malformed(format!("{place}: tensor {}", desc.name), problem);
        let Some(bytes) = to.checked_sub(*from) else {
            return Some(
                err("its data_offsets run backwards".into()).expected(format!("at least {from}"), to),
            );
        };
        if bytes as u64 != desc.byte_len() {
            let shape = &desc.shape;
            return Some(
                err(format!("its data_offsets do not fit {} {shape:?}", desc.dtype))
                    .expected(format!("{} bytes", desc.byte_len()), bytes),
            );
        }
        if *from != end {
            let problem = if *from < end { "its data overlaps that of" } else { "a gap lies between it and" };
            return Some(err(format!("{problem} {before}")).expected(format!("data from {end} on"), from));
        }
        end = *to;
        before = &desc.name;
    }
    None
}

fn dtype(tensor: &str, name: &str) -> Result<(DType, Dtype)> {
    let text: StrDeserializer<'_, ValueError> = name.into_deserializer();
    let known = Dtype::deserialize(text).ok();
    known.and_then(|k| DTYPES.iter().copied().find(|d| d.1 == k)).ok_or_else(|| {
        let problem = if known.is_some() { "a dtype that is not handled" } else { "an unknown dtype" };
        let all = DTYPES[..15].iter().map(|d| d.1.to_string()).collect::<Vec<_>>().join(", ");
        Error::unsupported(format!("tensor {tensor}"), problem).expected(all, name)
    })
}

/// The error that names the actual file type, if its first bytes show it.
fn not_safetensors(place: &str, start: &[u8]) -> Option<Error> {
    let text = start.trim_ascii_start();
    let (found, help) = if start.is_empty() {
        ("an empty file", "fetch the file again")
    } else if let Some(found) = files::not_the_file(start) {
        found
    } else if text.first() == Some(&b'<') {
        ("a web page", "the download got an HTML page, perhaps a login or an error: fetch the file again")
    } else if start.starts_with(b"GGUF") {
        ("a GGUF file", "give the folder of the original checkpoint")
    } else if start.starts_with(b"PK\x03\x04") || start.starts_with(b"\x80\x02") {
        (
            "a PyTorch pickle",
            "load the model with transformers and save it again: save_pretrained writes safetensors",
        )
    } else {
        return None;
    };
    Some(Error::malformed(place, "not a safetensors file").expected("safetensors", found).help(help))
}

/// The header in file order, so that duplicate names are noticed.
struct Raw {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, RawInfo)>,
}

#[derive(serde::Deserialize)]
struct RawInfo {
    dtype: String,
    #[serde(deserialize_with = "shape")]
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// `__metadata__`, limited to [`MAX_ENTRIES`].
struct Entries(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((key, value)) = map.next_entry()? {
                    entries.insert(key, value);
                    if entries.len() > MAX_ENTRIES {
                        return Err(A::Error::custom(format_args!("more than {MAX_ENTRIES} entries")));
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Texts)
    }
}

/// The sizes of a tensor's dimensions, at most [`MAX_DIMS`].
fn shape<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
    struct Sizes;
    impl<'de> Visitor<'de> for Sizes {
        type Value = Vec<usize>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MAX_DIMS} sizes")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<usize>, A::Error> {
            let mut sizes = Vec::new();
            while let Some(size) = list.next_element()? {
                if sizes.len() == MAX_DIMS {
                    return Err(A::Error::invalid_length(MAX_DIMS + 1, &self));
                }
                sizes.push(size);
            }
            Ok(sizes)
        }
    }
    deserializer.deserialize_seq(Sizes)
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tensors;
        impl<'de> Visitor<'de> for Tensors {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
                let mut metadata = None;
                let mut tensors = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let named = |e| A::Error::custom(format_args!("{name}: {e}"));
                    if name != "__metadata__" {
                        let info = map.next_value().map_err(named)?;
                        if tensors.len() == MAX_ENTRIES {
                            return Err(A::Error::custom(format_args!("more than {MAX_ENTRIES} tensors")));
                        }
                        tensors.push((name, info));
                    } else if metadata.replace(map.next_value::<Entries>().map_err(named)?.0).is_some() {
                        return Err(A::Error::custom("__metadata__ occurs twice"));
                    }
                }
                Ok(Raw { metadata: metadata.unwrap_or_default(), tensors })
            }
        }
        deserializer.deserialize_map(Tensors)
    }
}
