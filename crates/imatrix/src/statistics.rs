//! Statistics of an entry: the amount of text, and the distribution of importance over columns.

use crate::Entry;

/// Statistics of an entry. Experts without tokens are counted, and otherwise excluded.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// The smallest and the largest number of tokens of a matrix (for a `.dat` file: chunks).
    pub tokens: (u64, u64),
    /// Indices of the matrices that no token went through.
    pub unseen: Vec<usize>,
    /// Mean over the columns of the mean square.
    pub mean: f64,
    /// Largest mean square of a column, divided by the mean.
    pub peak: f64,
    /// Share of the largest hundredth of the columns (at least one) in the sum of mean squares.
    pub top_share: f64,
    /// Number of columns that were 0 for every token.
    pub zeros: usize,
    /// True if the entry has no information, see [`Entry::blank`].
    pub blank: bool,
}

impl Entry {
    /// Statistics of the entry.
    pub fn statistics(&self) -> Statistics {
        let unseen: Vec<usize> = self.unseen().collect();
        let seen = |matrix: &usize| !unseen.contains(matrix);
        let tokens = |matrix: usize| if seen(&matrix) { self.counts()[matrix] } else { 0 };
        let all = || (0..self.counts().len()).map(tokens);
        let mut squares: Vec<f64> = (0..self.counts().len())
            .filter(seen)
            .flat_map(|n| self.matrix(n).iter().map(move |sum| f64::from(*sum) / self.counts()[n] as f64))
            .collect();
        squares.sort_by(|a, b| b.total_cmp(a));
        let sum: f64 = squares.iter().sum();
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        let mean = share(sum, squares.len() as f64);
        let top = squares.len().div_ceil(100);
        Statistics {
            tokens: (all().min().unwrap_or(0), all().max().unwrap_or(0)),
            mean,
            peak: share(squares.first().copied().unwrap_or(0.0), mean),
            top_share: share(squares[..top].iter().sum(), sum),
            zeros: squares.iter().filter(|square| **square == 0.0).count(),
            blank: self.blank().is_some(),
            unseen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outliers_and_unseen_experts_show() {
        // two experts of 100 columns, one of them without tokens; one column of the other has half of the sum
        let mut sums = vec![0.0; 200];
        sums[..100].fill(2.0);
        sums[7] = 198.0;
        sums[8] = 0.0;
        sums[9] = 4.0;
        let found = Entry::new(sums, vec![2, 0]).unwrap().statistics();
        assert_eq!((found.tokens, found.unseen, found.zeros, found.blank), ((0, 2), vec![1], 1, false));
        assert_eq!(found.mean, (99.0 + 97.0 + 2.0) / 100.0);
        assert_eq!(found.peak, 99.0 / 1.98);
        assert_eq!(found.top_share, 0.5);
    }

    #[test]
    fn nothing_is_no_division_by_zero() {
        let found = Entry::new(vec![0.0; 3], vec![0]).unwrap().statistics();
        assert_eq!((found.mean, found.peak, found.top_share, found.blank), (0.0, 0.0, 0.0, true));
    }
}
