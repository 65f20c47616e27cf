//! What a part of a text adds to an importance matrix: exact sums, which add up to the same whatever the parts are.
//!
//! Between two processes they are a GGUF file: for each entry `NAME.squares`, an integer of 128 bits (two of I64, the lower one first)
//! a column, and `NAME.counts` in I64.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::path::Path;

use base::OutputFile;
use gguf::{GgufFile, Layout, Metadata};
use imatrix::Importance;
use tensor::{DType, Error, Result, TensorDesc, TensorSource};

use crate::square_sums::SquareSums;

const SQUARES: &str = ".squares";
const COUNTS: &str = ".counts";

/// Sums of squares by GGUF name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportanceSums {
    entries: BTreeMap<String, SquareSums>,
}

impl ImportanceSums {
    pub(crate) fn insert(&mut self, name: String, sums: SquareSums) {
        self.entries.insert(name, sums);
    }

    /// Adds the sums of other tokens of the text.
    ///
    /// # Errors
    /// `Malformed` for tensors of other shapes, `Limit` for sums that are too large.
    pub fn add(&mut self, other: ImportanceSums) -> Result<()> {
        for (name, sums) in other.entries {
            match self.entries.entry(name) {
                Slot::Vacant(slot) => {
                    slot.insert(sums);
                }
                Slot::Occupied(mut slot) => {
                    slot.get_mut().add(&sums).map_err(|e| e.within(format!("tensor {}", slot.key())))?;
                }
            }
        }
        Ok(())
    }

    /// The importance matrix, if these are the sums of the whole text. Experts without tokens get the mean of the others.
    ///
    /// # Errors
    /// `Malformed` if there are no sums.
    pub fn importance(&self, datasets: Vec<String>, chunks: u32, chunk_size: u32) -> Result<Importance> {
        if self.entries.is_empty() {
            return Err(Error::malformed("model", "no weights that text goes through"));
        }
        let mut importance = Importance::new(datasets, chunks, chunk_size);
        for (name, sums) in &self.entries {
            let entry = sums.entry().map_err(|e| e.within(format!("tensor {name}")))?;
            importance.insert(name, entry);
        }
        importance.fill_unseen();
        Ok(importance)
    }

    /// Writes the sums.
    ///
    /// # Errors
    /// `Target`; `Limit` for a name that GGUF cannot hold.
    pub fn write(&self, file: &mut OutputFile) -> Result<()> {
        let desc = |name: &str, ending: &str, count: usize| {
            TensorDesc::new(format!("{name}{ending}"), DType::I64, [count as u64])
        };
        let mut tensors = Vec::with_capacity(2 * self.entries.len());
        for (name, sums) in &self.entries {
            tensors.push(desc(name, SQUARES, 2 * sums.squares().len())?);
            tensors.push(desc(name, COUNTS, sums.counts().len())?);
        }
        let layout = Layout::new(&Metadata::new(), tensors)?;
        let bytes = self.entries.values().flat_map(|sums| {
            let squares: Vec<u8> = sums.squares().iter().flat_map(|sum| sum.to_le_bytes()).collect();
            [squares, sums.counts().iter().flat_map(|count| count.to_le_bytes()).collect()]
        });
        layout.write(file, bytes).map_err(|e| file.fail(&e))
    }

    /// Reads sums.
    ///
    /// # Errors
    /// `Malformed` for another file, `Io`.
    pub fn read(path: &Path) -> Result<ImportanceSums> {
        let within = |e: Error| e.within(path.display());
        let file = GgufFile::open(path)?;
        let mut sums = ImportanceSums::default();
        for (index, desc) in file.tensors().iter().enumerate() {
            let Some(name) = desc.name.strip_suffix(SQUARES) else { continue };
            let counts = format!("{name}{COUNTS}");
            let counts = file.tensors().iter().position(|desc| desc.name == counts);
            let squares = integers(&file, index).map_err(within)?;
            let counts = counts.map(|counts| integers(&file, counts)).transpose().map_err(within)?;
            let squares: Vec<u128> = squares
                .as_chunks()
                .0
                .iter()
                .map(|&[low, high]| u128::from(high) << 64 | u128::from(low))
                .collect();
            match counts.filter(|counts| !counts.is_empty() && squares.len().is_multiple_of(counts.len())) {
                Some(counts) => sums.insert(name.to_owned(), SquareSums::of(squares, counts)),
                None => {
                    return Err(within(Error::malformed(
                        format!("entry {name}"),
                        "not the sums of matrices",
                    )));
                }
            }
        }
        Ok(sums)
    }
}

/// All values of a tensor. It lies within the file, so memory is at most the size of the file.
fn integers(file: &GgufFile, index: usize) -> Result<Vec<u64>> {
    let desc = &file.tensors()[index];
    if desc.dtype != DType::I64 {
        return Err(Error::malformed(format!("tensor {}", desc.name), "not the type of sums")
            .expected(DType::I64, desc.dtype));
    }
    let mut bytes = vec![0; desc.byte_len() as usize];
    if !bytes.is_empty() {
        file.read_rows(index, 0, &mut bytes)?;
    }
    Ok(bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(entries: &[(&str, &[u128], &[u64])]) -> ImportanceSums {
        let mut sums = ImportanceSums::default();
        for (name, squares, counts) in entries {
            sums.insert((*name).to_owned(), SquareSums::of(squares.to_vec(), counts.to_vec()));
        }
        sums
    }

    #[test]
    fn a_file_has_every_bit() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("sums");
        let all = sums(&[
            ("blk.0.attn_q.weight", &[u128::MAX, 1, 0, 1 << 64], &[7, 9]),
            ("token_embd.weight", &[(5 << 64) + 3], &[u64::MAX]),
        ]);
        for sums in [all, ImportanceSums::default()] {
            let mut file = OutputFile::create(&path).unwrap();
            sums.write(&mut file).unwrap();
            file.publish_unsynced().unwrap();
            assert_eq!(ImportanceSums::read(&path).unwrap(), sums);
        }
    }

    #[test]
    fn parts_add_up_and_experts_are_filled_at_the_end() {
        const ONE: u128 = 1 << 64;
        let mut all = sums(&[("x", &[4 * ONE, 0, 0], &[2, 0, 0])]);
        all.add(sums(&[("x", &[0, 6 * ONE, 0], &[0, 1, 0]), ("y", &[ONE / 2], &[1])])).unwrap();
        let found = all.importance(vec!["a".to_owned()], 2, 8).unwrap();
        let entry = found.get("x").unwrap();
        assert_eq!((entry.sums(), entry.counts()), ([4.0, 6.0, 10.0 / 3.0].as_slice(), [2, 1, 1].as_slice()));
        assert_eq!(found.get("y").unwrap().sums(), [0.5]);
        let refused = all.add(sums(&[("x", &[ONE], &[1])])).unwrap_err();
        assert!(refused.place().starts_with("tensor x"), "{refused}");
        assert!(ImportanceSums::default().importance(Vec::new(), 0, 8).is_err());
    }
}
