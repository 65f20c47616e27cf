//! The tensors of a real checkpoint, from the tables in fixtures/inventories.
//!
//! Only the first three columns matter here: name, shape (a JSON list, slowest dimension first) and stored type.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tensor::{DType, TensorDesc};

/// The tensors of model `name`, in the order of its checkpoint.
pub(super) fn read(folder: &Path, name: &str) -> Result<Vec<TensorDesc>> {
    let path = folder.join(format!("{name}.tsv"));
    let Ok(text) = fs::read_to_string(&path) else {
        let mut names = Vec::new();
        for file in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let file = file?.file_name().into_string().unwrap_or_default();
            names.extend(file.strip_suffix(".tsv").map(str::to_owned));
        }
        names.sort();
        bail!("no inventory of {name:?}; there are {}", names.join(", "));
    };
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> Result<Vec<TensorDesc>> {
    let rows = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    rows.map(|(number, line)| row(line).with_context(|| format!("line {}", number + 1))).collect()
}

fn row(line: &str) -> Result<TensorDesc> {
    let mut fields = line.split('\t');
    let mut field = |what| fields.next().with_context(|| format!("no {what}"));
    let (name, shape, dtype) = (field("name")?, field("shape")?, field("type")?);
    let shape: Vec<u64> = serde_json::from_str(shape)?;
    Ok(TensorDesc::new(name, dtype.parse::<DType>()?, shape)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_inventory_has_the_published_payload() {
        // Bytes of all tensors, as the headers of the published checkpoints add up.
        let folder = crate::root().join("fixtures/inventories");
        for (name, tensors, bytes) in [
            ("gemma-4-E2B-it", 2011, 10_246_357_958),
            ("gemma-4-E4B-it", 2130, 15_992_314_836),
            ("gemma-4-12B-it", 677, 23_919_460_448),
            ("gemma-4-26B-A4B-it", 1013, 51_611_872_412),
            ("gemma-4-31B-it", 1188, 62_546_177_752),
            ("gemma-4-E2B-it-assistant", 50, 157_559_816),
            ("gemma-4-E4B-it-assistant", 50, 159_132_680),
            ("gemma-4-12B-it-assistant", 48, 845_713_928),
            ("gemma-4-26B-A4B-it-assistant", 48, 839_422_472),
            ("gemma-4-31B-it-assistant", 48, 939_037_192),
        ] {
            let inventory = read(&folder, name).unwrap();
            let total: u64 = inventory.iter().map(|tensor| tensor.byte_len()).sum();
            assert_eq!((inventory.len(), total), (tensors, bytes), "{name}");
        }
    }

    #[test]
    fn a_bad_row_is_named() {
        let error = parse("#head\na\t[2, 3]\tBF16\nb\t[2\tBF16\n").unwrap_err();
        assert!(format!("{error:#}").starts_with("line 3"), "{error:#}");
        let unknown = read(&crate::root().join("fixtures/inventories"), "gemma-5").unwrap_err();
        assert!(unknown.to_string().contains("gemma-4-E2B-it,"), "{unknown}");
    }
}
