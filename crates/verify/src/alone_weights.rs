//! Checks of weights without a base: values that are not finite, rows and groups of zeros, constant tensors.

use quant::Simd;
use rayon::prelude::*;
use tensor::{Result, TensorDesc};

use crate::artifact::{Artifact, is_readable};
use crate::errors::{GROUP, read};
use crate::{Finding, Severity, Step};

/// Bytes of decoded weights per worker (at least a row).
const BLOCK: u64 = 1 << 20;
/// Tensors whose rows may be zero: embeddings of untrained tokens.
const MAY_BE_ZERO: [&str; 3] = ["token_embd", "embed_tokens", "masked_embd"];

/// Whether a tensor of a folder or of an mmproj file belongs to an image or audio tower.
fn is_of_tower(name: &str) -> bool {
    gemma::towers::names_tower(name)
        || name.contains("tower.")
        || name.contains("embed_vision")
        || name.contains("embed_audio")
}

/// The number of weights that [`weights_alone`] reads.
pub fn weights_of<'a>(artifact: impl Into<Artifact<'a>>) -> u64 {
    let tensors = artifact.into().source().tensors();
    tensors.iter().filter(|desc| is_readable(desc.dtype)).map(TensorDesc::elements).sum()
}

/// Reads all weights. `progress` gets the number of weights of each block.
///
/// # Errors
/// `Io`.
pub fn weights_alone<'a>(
    artifact: impl Into<Artifact<'a>>,
    simd: Simd,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Finding>> {
    let artifact = artifact.into();
    let source = artifact.source();
    let readable = |(_, desc): &(usize, &TensorDesc)| is_readable(desc.dtype) && desc.elements() > 0;
    let parts: Vec<(usize, u64, u64)> = source
        .tensors()
        .iter()
        .enumerate()
        .filter(readable)
        .flat_map(|(index, desc)| {
            let step = (BLOCK / (4 * desc.cols()).max(1)).max(1);
            let rows = desc.rows();
            (0..rows).step_by(step as usize).map(move |first| (index, first, step.min(rows - first)))
        })
        .collect();
    let seen = parts.into_par_iter().map_init(Default::default, |(bytes, values), (index, first, rows)| {
        let values: &mut Vec<f32> = values;
        let cols = source.tensors()[index].cols() as usize;
        values.resize(rows as usize * cols, 0.0);
        read(simd, source, index, first, bytes, values)?;
        progress(values.len() as u64);
        Ok((index, Seen::of(first, cols, values)))
    });
    let mut of: Vec<Option<Seen>> = vec![None; source.tensors().len()];
    for (index, seen) in seen.collect::<Result<Vec<_>>>()? {
        of[index] = Some(match of[index].take() {
            Some(before) => before.and(seen),
            None => seen,
        });
    }
    let tensors = source.tensors().iter().zip(of);
    Ok(tensors.flat_map(|(desc, seen)| seen.map(|seen| seen.findings(desc)).unwrap_or_default()).collect())
}

/// Statistics of some rows of a tensor.
#[derive(Clone, Debug)]
struct Seen {
    not_numbers: u64,
    infinite: u64,
    /// Row and column of the first value that is not finite.
    first_not_finite: Option<(u64, usize)>,
    /// Groups of zeros in other rows than rows of zeros, and rows of zeros.
    dead_groups: u64,
    first_dead: Option<(u64, usize)>,
    dead_rows: u64,
    first_dead_row: Option<u64>,
    /// The value of all weights, if they are all the same.
    only: Option<f32>,
}

impl Seen {
    fn of(first: u64, cols: usize, values: &[f32]) -> Seen {
        let only = values.first().copied().filter(|one| values.iter().all(|v| v.to_bits() == one.to_bits()));
        let mut seen = Seen {
            not_numbers: 0,
            infinite: 0,
            first_not_finite: None,
            dead_groups: 0,
            first_dead: None,
            dead_rows: 0,
            first_dead_row: None,
            only,
        };
        for (row, values) in (first..).zip(values.chunks_exact(cols.max(1))) {
            if let Some(column) = values.iter().position(|v| !v.is_finite()) {
                seen.first_not_finite.get_or_insert((row, column));
                seen.not_numbers += values.iter().filter(|v| v.is_nan()).count() as u64;
                seen.infinite += values.iter().filter(|v| v.is_infinite()).count() as u64;
            }
            let dead = |group: &&[f32]| group.iter().all(|v| *v == 0.0);
            let groups = values.chunks(GROUP);
            let count = groups.clone().filter(dead).count();
            if count == groups.len() {
                seen.dead_rows += 1;
                seen.first_dead_row.get_or_insert(row);
            } else if count > 0 {
                seen.dead_groups += count as u64;
                let column = groups.into_iter().position(|group| dead(&group)).unwrap_or(0) * GROUP;
                seen.first_dead.get_or_insert((row, column));
            }
        }
        seen
    }

    fn and(self, next: Seen) -> Seen {
        let same = |a: &f32| next.only.is_some_and(|b| b.to_bits() == a.to_bits());
        Seen {
            not_numbers: self.not_numbers + next.not_numbers,
            infinite: self.infinite + next.infinite,
            first_not_finite: self.first_not_finite.or(next.first_not_finite),
            dead_groups: self.dead_groups + next.dead_groups,
            first_dead: self.first_dead.or(next.first_dead),
            dead_rows: self.dead_rows + next.dead_rows,
            first_dead_row: self.first_dead_row.or(next.first_dead_row),
            only: self.only.filter(same),
        }
    }

    fn findings(&self, desc: &TensorDesc) -> Vec<Finding> {
        let place = format!("tensor {}", desc.name);
        let finding = |severity, problem: String| Finding::new(severity, Step::Tensors, &place, problem);
        let matrix = desc.rows() > 1 && desc.cols() >= GROUP as u64;
        // towers have scalar clamps at infinity
        let clamp = desc.elements() == 1 && self.not_numbers == 0;
        let mut findings = Vec::new();
        if let Some((row, column)) = self.first_not_finite.filter(|_| !clamp) {
            let kinds = [(self.not_numbers, "NaN"), (self.infinite, "infinite")];
            let kinds =
                kinds.iter().filter(|(count, _)| *count > 0).map(|(count, kind)| format!("{count} {kind}"));
            let kinds = kinds.collect::<Vec<_>>().join(" and ");
            let problem =
                format!("values that are not finite: {kinds}, the first in row {row}, column {column}");
            findings.push(finding(Severity::Failure, problem));
        }
        match self.only {
            Some(one) if matrix => {
                // some tables of towers are constant in good checkpoints
                let severity = if is_of_tower(&desc.name) { Severity::Note } else { Severity::Failure };
                findings.push(finding(severity, format!("all values are {one}")));
                return findings;
            }
            _ => {}
        }
        if let Some((row, column)) = self.first_dead.filter(|_| matrix) {
            let problem = format!(
                "{} groups of {GROUP} weights are zero in rows with other values, the first in row {row}, column \
                 {column}",
                self.dead_groups
            );
            findings.push(finding(Severity::Warning, problem));
        }
        let may_be = MAY_BE_ZERO.iter().any(|name| desc.name.contains(name));
        if let Some(row) = self.first_dead_row.filter(|_| matrix && !may_be) {
            let problem = format!("{} rows are zero, the first is row {row}", self.dead_rows);
            findings.push(finding(Severity::Warning, problem));
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use tensor::DType;

    use super::*;

    fn says(values: &[f32]) -> Vec<String> {
        let cols = 64;
        let rows = (values.len() / cols) as u64;
        let desc = TensorDesc::new("blk.0.ffn_up.weight", DType::F32, [rows, cols as u64]).unwrap();
        let halves = values.split_at(values.len() / 2 / cols * cols);
        let first = Seen::of(0, cols, halves.0);
        let seen = first.and(Seen::of((halves.0.len() / cols) as u64, cols, halves.1));
        seen.findings(&desc).into_iter().map(|finding| finding.problem).collect()
    }

    #[test]
    fn dead_weights_and_those_that_are_no_numbers_are_told() {
        let good: Vec<f32> = (0..256).map(|i| i as f32 - 100.5).collect();
        assert_eq!(says(&good), [""; 0]);
        let with = |range: std::ops::Range<usize>, value: f32| {
            let mut bad = good.clone();
            bad[range].fill(value);
            says(&bad).join("; ")
        };
        assert!(with(130..131, f32::NAN).contains("1 NaN, the first in row 2, column 2"));
        assert!(with(3..5, f32::INFINITY).contains("2 infinite, the first in row 0, column 3"));
        assert!(
            with(96..128, 0.0)
                .contains("1 groups of 32 weights are zero in rows with other values, the first in row 1")
        );
        assert!(with(128..192, 0.0).contains("1 rows are zero, the first is row 2"));
        assert_eq!(with(0..256, 0.5), "all values are 0.5");
    }
}
