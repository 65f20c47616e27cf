//! Splits a model into parts as `llama-gguf-split` does, and names the parts.
//!
//! Not covered: `--no-tensor-first-split` and merging.

use tensor::{Error, Result, TensorDesc};

use crate::layout::{DEFAULT_ALIGNMENT, ggml_shape, padded_end};
use crate::metadata::Metadata;

/// Key of the part number: u16, from 0.
pub(crate) const NUMBER: &str = "split.no";
/// Key of the number of parts: u16.
pub(crate) const COUNT: &str = "split.count";
/// Key of the number of tensors in all parts: i32.
pub(crate) const TENSORS: &str = "split.tensors.count";

/// Key (ours) whose value is the same in all parts of one set and differs between sets: text.
pub const SET: &str = "split.set";

/// Size limit of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitBy {
    /// `--split-max-size`: the most bytes of the padded tensors of a part (`2M` is 2,000,000). Metadata does not count,
    /// and a single tensor beyond the limit gets a part of its own.
    Bytes(u64),
    /// `--split-max-tensors`: the most tensors of a part.
    Tensors(usize),
}

/// Contents of one file of a split. [`crate::Layout::new`] turns them into bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitPart {
    /// In the first part the metadata of the model, in the others nothing; then the three `split.*` keys.
    pub metadata: Metadata,
    /// The tensors, with shapes as [`ggml_shape`] gives them.
    pub tensors: Vec<TensorDesc>,
}

/// Splits a model into parts. There is at least one part, and a single part has `split.*` keys too.
///
/// # Errors
/// `Recipe` if the limit is zero or less than the first tensor (`llama-gguf-split` refuses these too); `Limit` for more
/// than 65,535 parts.
pub fn split(metadata: &Metadata, tensors: Vec<TensorDesc>, by: SplitBy) -> Result<Vec<SplitPart>> {
    parts(metadata, group(tensors, by)?)
}

/// As [`split`], for given groups of tensors: see [`group`].
///
/// # Errors
/// `Limit` for more than 65,535 parts.
pub fn parts(metadata: &Metadata, groups: Vec<Vec<TensorDesc>>) -> Result<Vec<SplitPart>> {
    let total = groups.iter().map(Vec::len).sum::<usize>();
    let total = i32::try_from(total).map_err(|_| Error::limit("split", "too many tensors"))?;
    let count = u16::try_from(groups.len()).map_err(|_| {
        Error::limit("split", "too many parts").expected(format!("at most {}", u16::MAX), groups.len())
    })?;
    let parts = (0..count).zip(groups).map(|(number, tensors)| {
        let mut metadata = if number == 0 { metadata.clone() } else { Metadata::new() };
        metadata.append(NUMBER, number);
        // ggml appends a key that it sets again, and it sets the count last, when it is known.
        metadata.append(TENSORS, total);
        metadata.append(COUNT, count);
        SplitPart { metadata, tensors }
    });
    Ok(parts.collect())
}

/// The tensors of each part, in model order.
///
/// # Errors
/// `Recipe` as [`split`].
pub fn group(tensors: Vec<TensorDesc>, by: SplitBy) -> Result<Vec<Vec<TensorDesc>>> {
    if matches!(by, SplitBy::Bytes(0) | SplitBy::Tensors(0)) {
        return Err(Error::recipe("split", "the limit of a part must not be zero"));
    }
    let mut groups = vec![Vec::new()];
    let mut filled = 0;
    for (index, desc) in tensors.into_iter().enumerate() {
        let desc = TensorDesc::new(desc.name, desc.dtype, ggml_shape(&desc.shape))?;
        let alone = padded_end(&desc, 0, DEFAULT_ALIGNMENT)?;
        let grown = padded_end(&desc, filled, DEFAULT_ALIGNMENT)?;
        let full = match by {
            SplitBy::Bytes(max) if index == 0 && alone > max => {
                return Err(Error::recipe(
                    "split",
                    format!("a part cannot hold the first tensor, {}", desc.name),
                )
                .expected(format!("at least {alone} bytes a part"), max));
            }
            SplitBy::Bytes(max) => grown > max,
            SplitBy::Tensors(max) => index > 0 && index % max == 0,
        };
        if full {
            groups.push(Vec::new());
        }
        filled = if full { alone } else { grown };
        let last = groups.len() - 1;
        groups[last].push(desc);
    }
    Ok(groups)
}

/// The file name of part `number`, counted from 1: `model-00001-of-00003.gguf`.
pub fn part_name(prefix: &str, number: usize, count: usize) -> String {
    format!("{prefix}-{number:05}-of-{count:05}.gguf")
}

/// The prefix and the number in the file name of a part; `None` for other names.
///
/// ```
/// assert_eq!(gguf::part_of("model-00002-of-00003.gguf"), Some(("model", 2)));
/// assert_eq!(gguf::part_of("model-q4_0.gguf"), None);
/// ```
pub fn part_of(name: &str) -> Option<(&str, usize)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    let number = number.parse().ok()?;
    (name == part_name(prefix, number, count.parse().ok()?)).then_some((prefix, number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::{DType, Fault};

    fn tensors(lens: &[u64]) -> Vec<TensorDesc> {
        let desc = |(i, &len): (usize, &u64)| TensorDesc::new(format!("t{i}"), DType::I8, [len]).unwrap();
        lens.iter().enumerate().map(desc).collect()
    }

    fn sizes(lens: &[u64], by: SplitBy) -> Vec<Vec<u64>> {
        let parts = split(&Metadata::new(), tensors(lens), by).unwrap();
        parts.iter().map(|p| p.tensors.iter().map(TensorDesc::byte_len).collect()).collect()
    }

    #[test]
    fn padded_sizes_count_and_large_tensors_stand_alone() {
        // 33 bytes take 64, so two of them do not fit into 127.
        assert_eq!(sizes(&[33, 33, 33], SplitBy::Bytes(128)), [vec![33, 33], vec![33]]);
        assert_eq!(sizes(&[33, 33, 33], SplitBy::Bytes(127)), [[33], [33], [33]]);
        assert_eq!(sizes(&[32, 500, 32, 32], SplitBy::Bytes(64)), [vec![32], vec![500], vec![32, 32]]);
        assert_eq!(sizes(&[1, 2, 3, 4, 5], SplitBy::Tensors(2)), [vec![1, 2], vec![3, 4], vec![5]]);
        assert_eq!(sizes(&[], SplitBy::Tensors(2)), [[0u64; 0]]);
    }

    #[test]
    fn only_the_first_part_has_the_models_keys() {
        let mut metadata = Metadata::new();
        metadata.insert(COUNT, 9u16);
        metadata.insert("a", 1u8);
        let parts = split(&metadata, tensors(&[1, 1]), SplitBy::Tensors(1)).unwrap();
        let keys = |p: &SplitPart| p.metadata.iter().map(|(k, _)| k.to_owned()).collect::<Vec<_>>();
        assert_eq!(keys(&parts[0]), ["a", NUMBER, TENSORS, COUNT]);
        assert_eq!(keys(&parts[1]), [NUMBER, TENSORS, COUNT]);
        assert_eq!(parts[1].metadata.required::<u16>(NUMBER).unwrap(), 1);
        assert_eq!(parts[1].metadata.required::<u16>(COUNT).unwrap(), 2);
        assert_eq!(parts[1].metadata.required::<i32>(TENSORS).unwrap(), 2);
    }

    #[test]
    fn limits_that_cannot_be_met_are_the_recipes_fault() {
        for by in [SplitBy::Bytes(0), SplitBy::Tensors(0), SplitBy::Bytes(63)] {
            let error = split(&Metadata::new(), tensors(&[33]), by).unwrap_err();
            assert_eq!(error.fault(), Fault::Recipe, "{by:?}");
        }
        let many = split(&Metadata::new(), tensors(&[1; 65_536]), SplitBy::Tensors(1));
        assert_eq!(many.unwrap_err().fault(), Fault::Limit);
    }

    #[test]
    fn names_of_parts() {
        assert_eq!(part_name("model", 1, 3), "model-00001-of-00003.gguf");
        assert_eq!(part_name("", 12, 34567), "-00012-of-34567.gguf");
    }
}
