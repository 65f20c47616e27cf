//! Sums of squares that do not depend on the order of the summands, nor on who added which: integers, in units of 2⁻⁶⁴.
//!
//! A batch has sums in f64, which become integers. Sums of f64 would have other last bits for other groups of batches. The unit is far
//! below the last bit of an f32, in which files have the sums, for all sums above 10⁻¹²; the largest sum is 1.8·10¹⁹.

use imatrix::Entry;
use tensor::{Error, Result};

/// Units of 1.
const UNITS: f64 = (1u128 << 64) as f64;

/// Σx² of each column of each matrix, and the tokens of each matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SquareSums {
    /// Matrix after matrix.
    squares: Vec<u128>,
    counts: Vec<u64>,
}

impl SquareSums {
    pub(crate) fn new(matrices: usize, cols: usize) -> SquareSums {
        SquareSums { squares: vec![0; matrices * cols], counts: vec![0; matrices] }
    }

    /// `squares` has the columns of one matrix after another, `counts` a number for each matrix.
    pub(crate) fn of(squares: Vec<u128>, counts: Vec<u64>) -> SquareSums {
        SquareSums { squares, counts }
    }

    pub(crate) fn squares(&self) -> &[u128] {
        &self.squares
    }

    pub(crate) fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Columns of a matrix.
    pub(crate) fn cols(&self) -> usize {
        self.squares.len() / self.counts.len()
    }

    /// Adds the sums of a batch to those of a matrix, from column `first` on.
    ///
    /// # Errors
    /// `Malformed` for sums that are not finite, `Limit` for too large ones.
    pub(crate) fn add_batch(&mut self, matrix: usize, first: usize, batch: &[f64]) -> Result<()> {
        let start = matrix * self.cols() + first;
        for (col, (sum, &new)) in self.squares[start..].iter_mut().zip(batch).enumerate() {
            if !new.is_finite() {
                return Err(Error::malformed(
                    format!("column {}", first + col),
                    "activations are not finite",
                ));
            }
            let units = (new < UNITS).then_some((new * UNITS) as u128);
            *sum = units.and_then(|new| sum.checked_add(new)).ok_or_else(|| too_large(first + col))?;
        }
        Ok(())
    }

    /// Counts tokens of a matrix.
    pub(crate) fn count(&mut self, matrix: usize, tokens: usize) {
        self.counts[matrix] += tokens as u64;
    }

    /// Adds the sums of other tokens.
    ///
    /// # Errors
    /// `Malformed` for another shape, `Limit` for too large sums.
    pub(crate) fn add(&mut self, other: &SquareSums) -> Result<()> {
        let shape = |sums: &SquareSums| format!("{} × {} columns", sums.counts.len(), sums.cols());
        if shape(self) != shape(other) {
            return Err(Error::malformed("sums", "the shape differs from that of the other parts")
                .expected(shape(self), shape(other)));
        }
        let cols = self.cols();
        for (at, (sum, new)) in self.squares.iter_mut().zip(&other.squares).enumerate() {
            *sum = sum.checked_add(*new).ok_or_else(|| too_large(at % cols))?;
        }
        self.counts
            .iter_mut()
            .zip(&other.counts)
            .for_each(|(count, new)| *count = count.saturating_add(*new));
        Ok(())
    }

    /// The sums in f32, as files have them.
    pub(crate) fn entry(&self) -> Result<Entry> {
        let sums = self.squares.iter().map(|&sum| (sum as f64 / UNITS) as f32).collect();
        Entry::new(sums, self.counts.clone())
    }
}

fn too_large(column: usize) -> Error {
    Error::limit(format!("column {column}"), "the sum of squares is too large")
        .expected("less than 2⁶⁴", "more")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any order and any grouping gives the same sums.
    #[test]
    fn sums_do_not_depend_on_the_order() {
        let mut random = testkit::SplitMix64(7);
        let batches: Vec<[f64; 2]> =
            (0..200).map(|n| [random.below(1 << 40) as f64 / 3e7, 10f64.powi(n % 17 - 8) / 7.0]).collect();
        let sum = |numbers: &mut dyn Iterator<Item = usize>| {
            let mut sums = SquareSums::new(1, 2);
            for number in numbers {
                sums.add_batch(0, 0, &batches[number]).unwrap();
                sums.count(0, 3);
            }
            sums
        };
        let whole = sum(&mut (0..200));
        assert_eq!(sum(&mut (0..200).rev()), whole);
        let mut halves = sum(&mut (150..200));
        halves.add(&sum(&mut (0..150))).unwrap();
        assert_eq!(halves, whole);
        let entry = whole.entry().unwrap();
        for (col, found) in entry.sums().iter().enumerate() {
            let expected: f64 = batches.iter().map(|batch| batch[col]).sum();
            assert!((f64::from(*found) - expected).abs() <= 1e-7 * expected, "{found}, not {expected}");
        }
        assert_eq!(entry.counts(), [600]);
    }

    #[test]
    fn what_is_no_sum_is_refused() {
        for (bad, problem) in [
            (f64::NAN, "not finite"),
            (f64::INFINITY, "not finite"),
            (1e20, "too large"),
            (1e300, "too large"),
        ] {
            let mut sums = SquareSums::new(2, 3);
            let error = sums.add_batch(1, 1, &[1.0, bad]).unwrap_err();
            assert!(error.place() == "column 2" && error.problem().contains(problem), "{error}");
        }
        let mut sums = SquareSums::new(1, 2);
        assert!(sums.add(&SquareSums::new(2, 1)).unwrap_err().to_string().contains("1 × 2 columns"));
        let most = SquareSums::of(vec![u128::MAX, 0], vec![1]);
        sums.add(&most).unwrap();
        assert!(
            sums.add(&SquareSums::of(vec![1, 0], vec![1])).unwrap_err().to_string().contains("too large")
        );
    }
}
