//! Letters for element types: one character for each type of a file, for cells that have no room for its name.

use std::collections::BTreeMap;

use verify::TensorError;

use crate::number;

/// The letter of each type, the type with most bytes first.
pub(super) struct Letters<'a>(Vec<(&'a str, char)>);

impl<'a> Letters<'a> {
    /// Letters for the types of these tensors: the digit of the name, its last characters where that is taken.
    pub(super) fn of(tensors: &'a [TensorError]) -> Letters<'a> {
        let mut bytes: BTreeMap<&str, u64> = BTreeMap::new();
        for tensor in tensors {
            *bytes.entry(&tensor.dtype).or_default() += tensor.bytes;
        }
        let mut types: Vec<_> = bytes.into_iter().collect();
        types.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let mut letters: Vec<(&str, char)> = Vec::new();
        for (dtype, _) in types {
            let first = match dtype.to_ascii_uppercase().as_str() {
                "F32" => Some('F'),
                "F16" => Some('H'),
                "BF16" => Some('B'),
                _ => dtype.chars().find(char::is_ascii_digit),
            };
            let own = dtype.chars().rev().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase());
            let mut candidates = first.into_iter().chain(own).chain('a'..='z');
            let letter = candidates.find(|c| letters.iter().all(|(_, taken)| taken != c)).unwrap_or('?');
            letters.push((dtype, letter));
        }
        Letters(letters)
    }

    pub(super) fn all(&self) -> &[(&'a str, char)] {
        &self.0
    }

    pub(super) fn of_type(&self, dtype: &str) -> char {
        self.0.iter().find(|(known, _)| *known == dtype).map_or('?', |(_, letter)| *letter)
    }

    /// The legend in lines of about this many characters: `4 Q4_0   6 Q6_K`.
    pub(super) fn lines(&self, width: usize) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for (dtype, letter) in &self.0 {
            let entry = format!("{letter} = {}", number::plain(dtype));
            match lines.last_mut() {
                Some(line) if line.chars().count() + entry.chars().count() + 2 <= width => {
                    line.push_str(", ");
                    line.push_str(&entry);
                }
                _ => lines.push(entry),
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_a_letter_of_its_own() {
        let tensor = |(dtype, bytes): (&str, u64)| TensorError {
            dtype: dtype.to_owned(),
            bytes,
            ..TensorError::default()
        };
        let types = [("Q4_0", 9), ("Q4_K", 8), ("Q4_1", 7), ("Q6_K", 6), ("BF16", 5), ("F32", 4), ("F16", 3)];
        let tensors = types.map(tensor);
        let letters = Letters::of(&tensors);
        assert_eq!(types.map(|(dtype, _)| letters.of_type(dtype)), ['4', 'K', '1', '6', 'B', 'F', 'H']);
        assert_eq!(letters.lines(22)[..2], ["4 = Q4_0, K = Q4_K", "1 = Q4_1, 6 = Q6_K"]);
    }
}
