//! A part of a job: its number, and the units of work that it has.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::{Error, Result};

/// The most parts of a job.
const MAX_PARTS: u32 = 10_000;

/// A part of a job: the first of eight is `1/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Part {
    number: u32,
    count: u32,
}

impl Part {
    /// Part `number` of `count`; the first has the number 1.
    ///
    /// # Errors
    /// `Recipe` unless 1 ≤ `number` ≤ `count` ≤ 10,000.
    pub fn new(number: u32, count: u32) -> Result<Part> {
        if (1..=MAX_PARTS).contains(&count) && (1..=count).contains(&number) {
            return Ok(Part { number, count });
        }
        Err(Error::recipe("‹part›", "not a part of a job")
            .expected(format!("I/N with 1 ≤ I ≤ N ≤ {MAX_PARTS}, such as 3/8"), format!("{number}/{count}")))
    }

    /// Its number, from 1 on.
    pub fn number(self) -> u32 {
        self.number
    }

    /// The number of parts.
    pub fn count(self) -> u32 {
        self.count
    }

    /// The number of the part, one of `count`, that has a unit of work: the one in whose share of the cost the unit begins. `before` is
    /// the cost of the units before it, `total` that of all.
    pub fn number_at(before: u128, total: u128, count: u32) -> u32 {
        (before * u128::from(count) / total.max(1)).min(u128::from(count) - 1) as u32 + 1
    }

    /// The units of work of this part, by the costs of all units of the job. Parts have consecutive units; each unit is in one part.
    pub fn units(self, costs: &[u64]) -> Range<usize> {
        let total: u128 = costs.iter().copied().map(u128::from).sum();
        let mut before = 0;
        let numbers: Vec<u32> = costs
            .iter()
            .map(|&cost| {
                let number = Part::number_at(before, total, self.count);
                before += u128::from(cost);
                number
            })
            .collect();
        let [start, end] =
            [self.number, self.number + 1].map(|bound| numbers.partition_point(|&number| number < bound));
        start..end
    }
}

impl Default for Part {
    /// The whole job.
    fn default() -> Part {
        Part { number: 1, count: 1 }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        write!(to, "{}/{}", self.number, self.count)
    }
}

impl FromStr for Part {
    type Err = Error;

    fn from_str(text: &str) -> Result<Part> {
        let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        let (number, count) = numbers.ok_or_else(|| {
            Error::recipe("‹part›", "not a part of a job").expected("I/N, such as 3/8", format!("{text:?}"))
        })?;
        Part::new(number, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_written_as_fractions() {
        let part: Part = "3/8".parse().unwrap();
        assert_eq!((part.number(), part.count(), part.to_string().as_str()), (3, 8, "3/8"));
        for wrong in ["0/8", "9/8", "3", "3/0", "a/b", "-1/8", "3/8/1", "1/10001", ""] {
            assert!(wrong.parse::<Part>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_unit_is_in_one_part() {
        let costs: Vec<u64> = (0..40).map(|n| n * n % 7).collect();
        for costs in [&costs[..], &costs[..3], &[0, 0, 0], &[5], &[]] {
            for count in [1, 2, 3, 8, 100] {
                let units = (1..=count).map(|number| Part::new(number, count).unwrap().units(costs));
                let all: Vec<usize> = units.flatten().collect();
                assert_eq!(all, (0..costs.len()).collect::<Vec<_>>(), "{costs:?} in {count}");
            }
        }
    }

    #[test]
    fn parts_cost_the_same() {
        let costs = [3, 1, 1, 1, 2, 2, 2];
        let units = [1, 2, 3, 4].map(|number| Part::new(number, 4).unwrap().units(&costs));
        assert_eq!(units, [0..1, 1..4, 4..6, 6..7]);
    }
}
