//! The entry of a tensor: sums and token counts of each of its matrices.

use std::collections::BTreeSet;

use tensor::{Error, Result};

/// The sums of a tensor: of one matrix, or of the matrices of all experts, concatenated.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    sums: Vec<f32>,
    counts: Vec<u64>,
    pub(crate) filled: BTreeSet<usize>,
}

impl Entry {
    /// `sums` has Σx² of every column, matrix after matrix; `counts` has the number of tokens of each matrix.
    ///
    /// # Errors
    /// `Malformed` if there are no numbers, if the matrices have different numbers of sums, or if one is negative or
    /// not finite.
    pub fn new(sums: Vec<f32>, counts: Vec<u64>) -> Result<Entry> {
        if counts.is_empty() || sums.is_empty() || !sums.len().is_multiple_of(counts.len()) {
            return Err(Error::malformed("sums and counts", "they do not fit together")
                .expected("as many sums for each count", format!("{} and {}", sums.len(), counts.len())));
        }
        let cols = sums.len() / counts.len();
        if let Some(at) = sums.iter().position(|sum| !(sum.is_finite() && *sum >= 0.0)) {
            return Err(Error::malformed(
                format!("matrix {}, column {}", at / cols, at % cols),
                "not a sum of squares",
            )
            .expected("a finite number, 0 or more", sums[at]));
        }
        Ok(Entry { sums, counts, filled: BTreeSet::new() })
    }

    /// Number of sums of a matrix. For a `.dat` file those of all matrices together: it has one count for each tensor.
    pub fn cols(&self) -> usize {
        self.sums.len() / self.counts.len()
    }

    /// The sums Σx², matrix after matrix.
    pub fn sums(&self) -> &[f32] {
        &self.sums
    }

    /// Number of tokens of each matrix (for a `.dat` file: chunks). A [filled](Entry::filled) expert has 1.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Indices of the matrices that got the mean of the others, because no token went through them.
    pub fn filled(&self) -> impl Iterator<Item = usize> {
        self.filled.iter().copied()
    }

    /// Indices of the matrices that no token went through.
    pub fn unseen(&self) -> impl Iterator<Item = usize> {
        (0..self.counts.len()).filter(|matrix| self.counts[*matrix] == 0 || self.filled.contains(matrix))
    }

    /// Index of a matrix without information: its sums are all 0 although tokens went through it, or no matrix has
    /// tokens.
    pub fn blank(&self) -> Option<usize> {
        if self.counts.iter().all(|count| *count == 0) {
            return Some(0);
        }
        let zeros =
            |matrix: &usize| self.counts[*matrix] > 0 && self.matrix(*matrix).iter().all(|sum| *sum == 0.0);
        (0..self.counts.len()).find(zeros)
    }

    /// The weights that llama-quantize computes from the sums: the mean of each column, matrix after matrix; 1 for all
    /// columns of a matrix without tokens.
    pub fn weights(&self) -> Vec<f32> {
        let mut weights = vec![0.0; self.sums.len()];
        self.weights_from(0, &mut weights);
        weights
    }

    /// As [`Entry::weights`], but fills `out` with the weights from index `first` on.
    ///
    /// # Panics
    /// If there are fewer weights than `out` has room for.
    pub fn weights_from(&self, first: usize, out: &mut [f32]) {
        let cols = self.cols();
        for (at, weight) in out.iter_mut().enumerate().map(|(at, weight)| (first + at, weight)) {
            // in f32, as llama-quantize divides
            let count = self.counts[at / cols] as f32;
            *weight = if count > 0.0 { self.sums[at] / count } else { 1.0 };
        }
    }

    pub(crate) fn matrix(&self, number: usize) -> &[f32] {
        &self.sums[number * self.cols()..][..self.cols()]
    }

    /// See [`crate::Importance::fill_unseen`].
    pub(crate) fn fill_unseen(&mut self) -> Vec<usize> {
        let cols = self.cols();
        let (unseen, seen): (Vec<_>, Vec<_>) = (0..self.counts.len()).partition(|&n| self.counts[n] == 0);
        if seen.is_empty() || unseen.is_empty() {
            return Vec::new();
        }
        // filled matrices are not observations
        let observed = || seen.iter().filter(|n| !self.filled.contains(n));
        let tokens: u64 = observed().map(|&n| self.counts[n]).sum();
        let mean = |col: usize| {
            let sum: f64 = observed().map(|&n| f64::from(self.sums[n * cols + col])).sum();
            (sum / tokens as f64) as f32
        };
        let means: Vec<f32> = (0..cols).map(mean).collect();
        for &matrix in &unseen {
            self.sums[matrix * cols..][..cols].copy_from_slice(&means);
            self.counts[matrix] = 1;
            self.filled.insert(matrix);
        }
        unseen
    }

    /// Reverts [`Entry::fill_unseen`]. Returns true if there were filled matrices.
    pub(crate) fn empty_filled(&mut self) -> bool {
        let cols = self.cols();
        let filled = std::mem::take(&mut self.filled);
        for &matrix in &filled {
            self.sums[matrix * cols..][..cols].fill(0.0);
            self.counts[matrix] = 0;
        }
        !filled.is_empty()
    }

    /// Adds the sums and the counts of another part of the text.
    pub(crate) fn add(&mut self, other: &Entry) -> Result<()> {
        let shape = |entry: &Entry| format!("{} × {} columns", entry.counts.len(), entry.cols());
        if self.counts.len() != other.counts.len() || self.cols() != other.cols() {
            return Err(Error::malformed("sums", "the shape differs from the other file")
                .expected(shape(self), shape(other))
                .help("Only files of the same model can be merged."));
        }
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, more)| *sum += more);
        if let Some(at) = self.sums.iter().position(|sum| !sum.is_finite()) {
            return Err(Error::limit(
                format!("column {}", at % self.cols()),
                "the sum is too large for an f32",
            ));
        }
        self.counts
            .iter_mut()
            .zip(&other.counts)
            .for_each(|(count, more)| *count = count.saturating_add(*more));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_means_and_ones_without_tokens() {
        let entry = Entry::new(vec![2.0, 4.0, 9.0, 9.0, 1.0, 0.0], vec![2, 0, 1]).unwrap();
        assert_eq!(entry.weights(), [1.0, 2.0, 1.0, 1.0, 1.0, 0.0]);
        let mut third = [0.0; 2];
        entry.weights_from(4, &mut third);
        assert_eq!(third, [1.0, 0.0]);
    }

    #[test]
    fn what_is_no_sum_of_squares_is_refused() {
        for (bad, place) in
            [(f32::NAN, "matrix 1, column 0"), (-1.0, "matrix 1, column 0"), (f32::INFINITY, "matrix 1")]
        {
            let error = Entry::new(vec![0.0, 1.0, bad, 1.0], vec![1, 1]).unwrap_err();
            assert!(error.place().starts_with(place), "{error}");
        }
        assert!(Entry::new(vec![1.0, 2.0, 3.0], vec![1, 1]).is_err());
        assert!(Entry::new(vec![], vec![1]).is_err());
        assert!(Entry::new(vec![1.0], vec![]).is_err());
    }

    #[test]
    fn unseen_experts_get_the_mean_over_all_tokens_once() {
        let mut entry = Entry::new(vec![2.0, 4.0, 0.0, 0.0, 1.0, 8.0], vec![2, 0, 1]).unwrap();
        assert_eq!(entry.fill_unseen(), [1]);
        assert_eq!((entry.matrix(1), entry.counts()), ([1.0, 4.0].as_slice(), [2, 1, 1].as_slice()));
        assert_eq!((entry.fill_unseen(), entry.unseen().collect::<Vec<_>>()), (vec![], vec![1]));
        assert!(entry.empty_filled());
        assert_eq!((entry.matrix(1), entry.counts()), ([0.0, 0.0].as_slice(), [2, 0, 1].as_slice()));
    }

    #[test]
    fn sums_that_say_nothing_are_found() {
        let blank =
            |sums: &[f32], counts: &[u64]| Entry::new(sums.to_vec(), counts.to_vec()).unwrap().blank();
        assert_eq!(blank(&[1.0, 0.0, 0.0, 0.0], &[1, 1]), Some(1));
        assert_eq!(blank(&[1.0, 0.0, 0.0, 0.0], &[1, 0]), None);
        assert_eq!(blank(&[1.0, 0.0, 0.0, 0.0], &[0, 0]), Some(0));
    }
}
