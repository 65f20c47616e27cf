//! Parts of a run: which blocks of the input a part converts, so that parts take equally long.
//!
//! The blocks of the input, in reading order, are cut where the predicted time of those before reaches a share of the whole. A tensor that
//! is encoded before the run (calibrated quantization) belongs to the part that has encoded it; the other blocks fill up the parts that
//! have less of this work. The cuts depend on the plan alone, so each machine computes the same ones. A part with nothing before and after
//! it is the whole run.

use std::collections::{HashMap, HashSet};

use base::Part;
use imatrix::Importance;
use plan::{Artifact, Plan};
use tensor::{DType, Result};

use crate::run::Options;
use crate::schedule::{Block, Use, Wanted, Work};

/// Tensors of the outputs that one part encodes together, before the run: a unit of [`Part::units`].
#[derive(Clone, Debug)]
pub struct TensorGroup {
    /// Their names in the outputs.
    pub tensors: Vec<String>,
    /// Predicted time to encode them on one core.
    pub picoseconds: u64,
}

/// What a part reads and writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartSize {
    /// Bytes of the input files.
    pub input: u64,
    /// Bytes of the output files; of a part without headers.
    pub output: u64,
}

/// The sizes of `count` parts of a run. `groups` are those of tensors that are encoded before it.
///
/// # Errors
/// Those of [`Part::new`]; `Malformed` for an imatrix other than that of the plan.
pub fn part_sizes(
    plan: &Plan,
    importance: Option<&Importance>,
    groups: &[TensorGroup],
    count: u32,
) -> Result<Vec<PartSize>> {
    Part::new(1, count)?;
    let work = Work::new(plan, importance, &[])?;
    let mut sizes = vec![PartSize::default(); count as usize];
    for (block, owner) in owners(&work, groups, count) {
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
            let sizes = part_sizes(plan, options.importance.as_deref(), &options.groups, part.count())?;
            Ok(sizes[part.number() as usize - 1])
        }
        None => Ok(PartSize {
            input: plan.inputs.iter().map(|input| input.bytes).sum(),
            output: plan.artifacts.iter().map(Artifact::bytes).sum(),
        }),
    }
}

/// The blocks of a part, in reading order.
pub(crate) fn blocks<'w>(
    work: &'w Work<'w>,
    groups: &[TensorGroup],
    part: Part,
) -> impl Iterator<Item = Block> + Send + 'w {
    owners(work, groups, part.count())
        .filter_map(move |(block, owner)| (owner == part.number()).then_some(block))
}

/// All blocks with the numbers of their parts.
fn owners<'w>(
    work: &'w Work<'w>,
    groups: &[TensorGroup],
    count: u32,
) -> impl Iterator<Item = (Block, u32)> + Send + 'w {
    let (mut of_tensors, spent) = encoded_before(work, groups, count);
    let encoded: HashSet<usize> = of_tensors.keys().copied().collect();
    let cost = move |block: &Block| match &block.rows {
        Some(rows) if encoded.contains(&rows.tensor) => 0,
        _ => cost(work, block),
    };
    let total = if count == 1 { 0 } else { work.blocks().map(|block| cost(&block)).sum() };
    let ends = ends(&spent, total);
    let mut before = 0;
    work.blocks().map(move |block| {
        let number = ends.partition_point(|end| *end <= before) as u32 + 1;
        let here = number.min(count);
        if count > 1 {
            before += cost(&block);
        }
        let owner = match &block.rows {
            Some(rows) if work.wanted[rows.tensor].is_indivisible() => {
                *of_tensors.entry(rows.tensor).or_insert(here)
            }
            Some(rows) => of_tensors.get(&rows.tensor).copied().unwrap_or(here),
            None => here,
        };
        (block, owner)
    })
}

/// The parts of tensors that are encoded before the run, by their numbers in [`Work::wanted`], and the time of each part for them.
fn encoded_before(work: &Work<'_>, groups: &[TensorGroup], count: u32) -> (HashMap<usize, u32>, Vec<u128>) {
    let costs: Vec<u64> = groups.iter().map(|group| group.picoseconds).collect();
    let mut spent = vec![0; count as usize];
    let mut parts: HashMap<&str, u32> = HashMap::new();
    for (number, spent) in (1..).zip(&mut spent) {
        // the count is that of a part
        let Ok(part) = Part::new(number, count) else { continue };
        for group in &groups[part.units(&costs)] {
            *spent += u128::from(group.picoseconds);
            parts.extend(group.tensors.iter().map(|name| (name.as_str(), number)));
        }
    }
    let part_of = |(tensor, wanted): (usize, &Wanted<'_>)| {
        let part = wanted.uses.iter().find_map(|to| parts.get(to.desc.name.as_str()))?;
        Some((tensor, *part))
    };
    (work.wanted.iter().enumerate().filter_map(part_of).collect(), spent)
}

/// Cuts `total` between parts that have `spent` some time already, so that the last one ends as early as it can. Returns the end of
/// each part's share.
fn ends(spent: &[u128], total: u128) -> Vec<u128> {
    let mut sorted = spent.to_vec();
    sorted.sort_unstable();
    // the time at which the parts end that have spent the least
    let (mut level, mut sum) = (0, 0);
    for (number, least) in sorted.iter().enumerate() {
        sum += least;
        level = (total + sum).div_ceil(number as u128 + 1);
        if sorted.get(number + 1).is_none_or(|next| *next >= level) {
            break;
        }
    }
    spent
        .iter()
        .scan(0, |end, spent| {
            *end += level.saturating_sub(*spent);
            Some(*end)
        })
        .collect()
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

/// Picoseconds to encode a weight on one core with AVX2: without and with an imatrix. From `cargo xtask bench codecs`. A wrong
/// figure makes parts unequal, and nothing else.
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
    fn parts_with_less_before_the_run_have_more_of_it() {
        assert_eq!(ends(&[0; 4], 8), [2, 4, 6, 8]);
        assert_eq!(ends(&[5, 0, 0], 4), [0, 2, 4]);
        assert_eq!(ends(&[5, 1, 0], 12), [1, 6, 12]);
        assert_eq!(ends(&[0, 3, 9], 2), [2, 2, 2]);
        assert_eq!(ends(&[7], 0), [0]);
    }
}
