//! Merges the files of parts of a text, as `llama-imatrix --in-file` does.

use std::collections::btree_map::Entry as Slot;

use tensor::{Error, Result};

use crate::Importance;

impl Importance {
    /// Adds the importance of another part of the text for the same model: sums, counts and chunks are added, texts are
    /// listed once. Experts that were filled in one part get the sums of the other; experts without tokens in both are
    /// [filled](Importance::fill_unseen) again.
    ///
    /// # Errors
    /// `Malformed` if the chunks have different sizes or the tensors different shapes, `Unsupported` for data from a
    /// `.dat` file. The place is an entry; the caller adds the file.
    pub fn merge(&mut self, other: Importance) -> Result<()> {
        match (self.chunk_size, other.chunk_size) {
            (Some(ours), Some(theirs)) if ours == theirs => {}
            (Some(ours), Some(theirs)) => {
                return Err(Error::malformed("chunks", "the size differs from the other file")
                    .expected(format!("{ours} tokens"), theirs));
            }
            _ => {
                return Err(Error::unsupported(
                    "chunks",
                    "a .dat file does not contain the number of tokens",
                )
                .help("Merge files in GGUF form; `llama-imatrix --in-file` converts between the forms."));
            }
        }
        let mut refill = false;
        for (name, mut entry) in other.entries {
            refill |= entry.empty_filled();
            match self.entries.entry(name) {
                Slot::Vacant(slot) => {
                    slot.insert(entry);
                }
                Slot::Occupied(mut slot) => {
                    refill |= slot.get_mut().empty_filled();
                    slot.get_mut().add(&entry).map_err(|e| e.within(format!("entry {}", slot.key())))?;
                }
            }
        }
        self.chunks = self.chunks.saturating_add(other.chunks);
        for text in other.datasets {
            if !self.datasets.contains(&text) {
                self.datasets.push(text);
            }
        }
        if refill {
            self.fill_unseen();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Entry;
    use tensor::Fault;

    fn part(text: &str, entries: &[(&str, &[f32], &[u64])]) -> Importance {
        let mut part = Importance::new(vec![text.to_owned()], 2, 8);
        for (name, sums, counts) in entries {
            part.insert(*name, Entry::new(sums.to_vec(), counts.to_vec()).unwrap());
        }
        part
    }

    #[test]
    fn sums_counts_and_chunks_are_added() {
        let mut whole = part("a", &[("x", &[1.0, 2.0], &[16])]);
        whole.merge(part("b", &[("x", &[3.0, 4.0], &[8]), ("y", &[1.0], &[1])])).unwrap();
        whole.merge(part("a", &[])).unwrap();
        let mut expected = part("a", &[("x", &[4.0, 6.0], &[24]), ("y", &[1.0], &[1])]);
        expected.datasets.push("b".to_owned());
        expected.chunks = 6;
        assert_eq!(whole, expected);
    }

    #[test]
    fn what_one_part_had_to_fill_the_other_may_have_seen() {
        let mut first = part("a", &[("x", &[4.0, 0.0, 0.0], &[2, 0, 0])]);
        first.fill_unseen();
        let mut second = part("a", &[("x", &[0.0, 6.0, 0.0], &[0, 1, 0])]);
        second.fill_unseen();
        first.merge(second).unwrap();
        let entry = first.get("x").unwrap();
        assert_eq!((entry.sums(), entry.counts()), ([4.0, 6.0, 10.0 / 3.0].as_slice(), [2, 1, 1].as_slice()));
        assert_eq!(entry.filled().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn other_shapes_and_other_chunks_are_refused() {
        let mut whole = part("a", &[("x", &[1.0, 2.0], &[16])]);
        let error = whole.merge(part("b", &[("x", &[1.0, 2.0], &[1, 1])])).unwrap_err();
        assert_eq!(error.expected_found(), Some(("1 × 2 columns", "2 × 1 columns")));
        assert!(error.place().starts_with("entry x"));
        let longer = Importance { chunk_size: Some(16), ..part("b", &[]) };
        assert_eq!(whole.merge(longer).unwrap_err().expected_found(), Some(("8 tokens", "16")));
        let dat = Importance { chunk_size: None, ..part("b", &[]) };
        assert_eq!(whole.merge(dat).unwrap_err().fault(), Fault::Unsupported);
    }
}
