//! Parts of a run: which blocks of the input a part converts, so that parts take equally long.
//!
//! The blocks of the input, in reading order, are cut where the predicted time of those before reaches a share of the whole. The cuts
//! depend on the plan alone, so each machine computes the same ones. A part with nothing before and after it is the whole run.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use imatrix::Importance;
use plan::{Artifact, Plan};
use tensor::{DType, Error, Result};

use crate::run::Options;
use crate::schedule::{Block, Use, Work};

/// The most parts of a run.
const MAX_PARTS: u32 = 10_000;

/// A part of a run: the first of eight is `1/8`.
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
        Err(Error::recipe("‹part›", "not a part of a run")
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

    /// Whether it is the one that writes what needs no weights: headers, copies of files.
    pub(crate) fn is_first(self) -> bool {
        self.number == 1
    }
}

impl Default for Part {
    /// The whole run.
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
            Error::recipe("‹part›", "not a part of a run").expected("I/N, such as 3/8", format!("{text:?}"))
        })?;
        Part::new(number, count)
    }
}

/// What a part reads and writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartSize {
    /// Bytes of the input files.
    pub input: u64,
    /// Bytes of the output files; of a part without headers.
    pub output: u64,
}

/// The sizes of `count` parts of a run.
///
/// # Errors
/// Those of [`Part::new`]; `Malformed` for an imatrix other than that of the plan.
pub fn part_sizes(plan: &Plan, importance: Option<&Importance>, count: u32) -> Result<Vec<PartSize>> {
    Part::new(1, count)?;
    let work = Work::new(plan, importance, &[])?;
    let mut sizes = vec![PartSize::default(); count as usize];
    for (block, owner) in owners(&work, count) {
        let size = &mut sizes[owner as usize - 1];
        size.input += block.stored_bytes();
        size.output += output_bytes(&work, &block);
    }
    Ok(sizes)
}

/// What a run reads and writes: all, or its part.
///
/// # Errors
/// `Malformed` for an imatrix other than that of the plan.
pub(crate) fn run_size(plan: &Plan, options: &Options) -> Result<PartSize> {
    match options.part {
        Some(part) => {
            let sizes = part_sizes(plan, options.importance.as_deref(), part.count)?;
            Ok(sizes[part.number as usize - 1])
        }
        None => Ok(PartSize {
            input: plan.inputs.iter().map(|input| input.bytes).sum(),
            output: plan.artifacts.iter().map(Artifact::bytes).sum(),
        }),
    }
}

/// The blocks of a part, in reading order.
pub(crate) fn blocks<'w>(work: &'w Work<'w>, part: Part) -> impl Iterator<Item = Block> + Send + 'w {
    owners(work, part.count).filter_map(move |(block, owner)| (owner == part.number).then_some(block))
}

/// All blocks with the numbers of their parts.
fn owners<'w>(work: &'w Work<'w>, count: u32) -> impl Iterator<Item = (Block, u32)> + Send + 'w {
    let total: u128 =
        if count == 1 { 1 } else { work.blocks().map(|block| cost(work, &block)).sum::<u128>().max(1) };
    let mut before = 0;
    let mut of_tensors: HashMap<usize, u32> = HashMap::new();
    work.blocks().map(move |block| {
        let here = (before * u128::from(count) / total).min(u128::from(count) - 1) as u32 + 1;
        if count > 1 {
            before += cost(work, &block);
        }
        let whole = block.rows.as_ref().filter(|rows| work.wanted[rows.tensor].is_indivisible());
        let owner = whole.map_or(here, |rows| *of_tensors.entry(rows.tensor).or_insert(here));
        (block, owner)
    })
}

/// Predicted time of a block on one core, in picoseconds.
fn cost(work: &Work<'_>, block: &Block) -> u128 {
    let read = u128::from(block.stored_bytes() * INPUT_BYTE);
    let Some(rows) = &block.rows else { return read };
    let wanted = &work.wanted[rows.tensor];
    let weights = u128::from(wanted.stored.dtype.elements(block.bytes) as u64);
    let encode = |to: &Use<'_>| match to.copies(&wanted.stored) {
        true => 0,
        false => weights * u128::from(weight_cost(to.desc.dtype, to.importance.is_some())),
    };
    let written = u128::from(output_bytes(work, block) * OUTPUT_BYTE);
    read + written + wanted.uses.iter().map(encode).sum::<u128>()
}

/// Bytes that a block becomes in all outputs.
fn output_bytes(work: &Work<'_>, block: &Block) -> u64 {
    let Some(rows) = &block.rows else { return 0 };
    let wanted = &work.wanted[rows.tensor];
    let count = (wanted.stored.dtype.elements(block.bytes) / wanted.cols) as u64;
    wanted.uses.iter().map(|to| count * to.row_bytes).sum()
}

/// Picoseconds to read, check and hash a byte of the input.
const INPUT_BYTE: u64 = 1_000;

/// Picoseconds to write and hash a byte of an output.
const OUTPUT_BYTE: u64 = 2_000;

/// Picoseconds to encode a weight on one core with AVX2: without and with an imatrix. From the example `throughput` of the
/// crate `quant`. A wrong figure makes parts unequal, and nothing else.
const WEIGHT: &[(DType, u64, u64)] = &[
    (DType::Q4_0, 600, 12_000),
    (DType::Q4_1, 1_500, 120_000),
    (DType::Q5_0, 1_500, 12_000),
    (DType::Q5_1, 1_500, 80_000),
    (DType::Q8_0, 600, 600),
    (DType::Q2_K, 9_000, 45_000),
    (DType::Q3_K, 7_000, 25_000),
    (DType::Q4_K, 12_000, 29_000),
    (DType::Q5_K, 10_000, 31_000),
    (DType::Q6_K, 4_500, 5_000),
    (DType::IQ4_NL, 20_000, 45_000),
    (DType::IQ4_XS, 17_000, 50_000),
];

/// Picoseconds for a weight of any other type.
const OTHER_WEIGHT: u64 = 500;

fn weight_cost(dtype: DType, weighted: bool) -> u64 {
    let found = WEIGHT.iter().find(|(of, ..)| *of == dtype);
    found.map_or(OTHER_WEIGHT, |&(_, plain, with_imatrix)| if weighted { with_imatrix } else { plain })
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
}
