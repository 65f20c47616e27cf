//! The GGUF format: three keys, and for each tensor `NAME.in_sum2` (F32, a row for each matrix) and `NAME.counts` (F32,
//! one number for each matrix), sorted by name.
//!
//! A key of our own, [`FILLED`], lists experts whose sums are the mean of the others; llama.cpp ignores it. Tensors
//! with other suffixes are skipped, as in llama.cpp.

use std::collections::BTreeMap;
use std::path::Path;

use base::ErrorKind;
use gguf::{GgufFile, Layout, Metadata, ggml_shape};
use tensor::{DType, Error, Result, TensorDesc, TensorSource};

use crate::{Entry, Importance};

const TYPE: &str = "general.type";
const DATASETS: &str = "imatrix.datasets";
const CHUNKS: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
/// The key with `blk.3.ffn_down_exps.weight#17` for each filled expert.
const FILLED: &str = "gemma-convert.imatrix.filled";

const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// Maximum token count, above which f32 counts are meaningless.
const MOST_TOKENS: f32 = (1u64 << 53) as f32;

pub(crate) fn is_one(path: &Path) -> bool {
    GgufFile::open(path).is_ok_and(|file| {
        let metadata = file.metadata();
        metadata.get(CHUNKS).is_some() || matches!(metadata.typed::<&str>(TYPE), Ok(Some("imatrix")))
    })
}

pub(crate) fn read(path: &Path) -> Result<Importance> {
    let file = GgufFile::open(path)?;
    parse(&file).map_err(|e| e.within(path.display()))
}

fn parse(file: &GgufFile) -> Result<Importance> {
    crate::expect_size(file.file_len())?;
    let metadata = file.metadata();
    let required = |e: Error| match e.kind() {
        ErrorKind::Missing => e.help("llama-imatrix writes this key, and llama-quantize requires it."),
        _ => e,
    };
    let datasets: &[String] = metadata.required(DATASETS).map_err(required)?;
    let chunks = metadata.required(CHUNKS).map_err(required)?;
    let chunk_size = metadata.required(CHUNK_SIZE).map_err(required)?;
    if chunk_size == 0 {
        return Err(Error::malformed(format!("key {CHUNK_SIZE}"), "not a size").expected("1 or more", 0));
    }
    let mut pairs: BTreeMap<&str, [Option<usize>; 2]> = BTreeMap::new();
    for (index, desc) in file.tensors().iter().enumerate() {
        for (which, ending) in [SUMS, COUNTS].into_iter().enumerate() {
            if let Some(name) = desc.name.strip_suffix(ending) {
                pairs.entry(name).or_default()[which] = Some(index);
            }
        }
    }
    if pairs.is_empty() {
        return Err(Error::malformed("tensors", "there are no sums of an imatrix")
            .expected(format!("tensors that end in {SUMS} and {COUNTS}"), "none"));
    }
    let mut importance = Importance::new(datasets.to_vec(), chunks, chunk_size);
    for (name, pair) in pairs {
        let entry = entry(file, name, pair).map_err(|e| e.within(format!("entry {name}")))?;
        importance.insert(name, entry);
    }
    let filled: Option<&[String]> = metadata.typed(FILLED)?;
    for text in filled.unwrap_or_default() {
        fill(&mut importance, text).ok_or_else(|| {
            Error::malformed(format!("key {FILLED}"), "names an expert that does not exist")
                .expected("the name of an entry, # and a number", text)
        })?;
    }
    Ok(importance)
}

fn fill(importance: &mut Importance, text: &str) -> Option<()> {
    let (name, matrix) = text.rsplit_once('#')?;
    let entry = importance.entries.get_mut(name)?;
    let matrix = matrix.parse().ok().filter(|matrix| *matrix < entry.counts().len())?;
    entry.filled.insert(matrix);
    Some(())
}

fn entry(file: &GgufFile, name: &str, pair: [Option<usize>; 2]) -> Result<Entry> {
    let [Some(sums), Some(counts)] = pair else {
        let ending = if pair[0].is_none() { SUMS } else { COUNTS };
        return Err(Error::malformed(format!("tensor {name}{ending}"), "missing"));
    };
    let [of_sums, of_counts] = [sums, counts].map(|index| &file.tensors()[index]);
    // older files have one count for dense tensors of three dimensions
    if of_counts.elements() != 1 && of_counts.elements() != of_sums.rows() {
        return Err(Error::malformed(
            format!("tensor {}", of_counts.name),
            "the number of matrices differs from that of the sums",
        )
        .expected(of_sums.rows(), of_counts.elements()));
    }
    let numbers = numbers(file, counts)?;
    if let Some(bad) = numbers.iter().find(|count| !(0.0..=MOST_TOKENS).contains(*count)) {
        return Err(Error::malformed(format!("tensor {}", of_counts.name), "not a number of tokens")
            .expected("0 or more", bad));
    }
    // rounded half away from zero, as in llama.cpp
    Entry::new(self::numbers(file, sums)?, numbers.iter().map(|count| count.round() as u64).collect())
}

/// All values of a tensor. The tensor lies within the file, so memory is at most the size of the file.
fn numbers(file: &GgufFile, index: usize) -> Result<Vec<f32>> {
    let desc = &file.tensors()[index];
    if desc.dtype != DType::F32 {
        return Err(Error::malformed(format!("tensor {}", desc.name), "not the type of imatrix data")
            .expected(DType::F32, desc.dtype));
    }
    let mut bytes = vec![0; desc.byte_len() as usize];
    if !bytes.is_empty() {
        file.read_rows(index, 0, &mut bytes)?;
    }
    Ok(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

pub(crate) fn bytes(importance: &Importance) -> Result<Vec<u8>> {
    let Some(chunk_size) = importance.chunk_size else {
        return Err(Error::unsupported("chunks", "a .dat file does not contain the number of tokens"));
    };
    if importance.is_empty() {
        return Err(Error::malformed("importance", "there is none to write"));
    }
    let mut metadata = Metadata::new();
    metadata.insert(TYPE, "imatrix");
    metadata.insert(DATASETS, importance.datasets.clone());
    metadata.insert(CHUNKS, importance.chunks);
    metadata.insert(CHUNK_SIZE, chunk_size);
    let named = |(name, entry): (&str, &Entry)| {
        entry.filled().map(|matrix| format!("{name}#{matrix}")).collect::<Vec<_>>()
    };
    let filled: Vec<String> = importance.iter().flat_map(named).collect();
    if !filled.is_empty() {
        metadata.insert(FILLED, filled);
    }
    let mut tensors = Vec::with_capacity(2 * importance.len());
    for (name, entry) in importance.iter() {
        let (matrices, cols) = (entry.counts().len() as u64, entry.cols() as u64);
        let desc = |ending, shape: [u64; 2]| {
            TensorDesc::new(format!("{name}{ending}"), DType::F32, ggml_shape(&shape))
        };
        tensors.extend([desc(SUMS, [matrices, cols])?, desc(COUNTS, [matrices, 1])?]);
    }
    let layout = Layout::new(&metadata, tensors)?;
    let of_entry = |(_, entry): (&str, &Entry)| {
        let counts: Vec<f32> = entry.counts().iter().map(|count| *count as f32).collect();
        [entry.sums(), &counts]
            .map(|numbers| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>())
    };
    let mut bytes = Vec::new();
    layout
        .write(&mut bytes, importance.iter().flat_map(of_entry))
        .map_err(|e| Error::malformed("importance", e))?;
    Ok(bytes)
}
