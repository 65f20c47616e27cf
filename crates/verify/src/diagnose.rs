//! Diagnosis of wrong tensors: hypotheses are tried in order on a sample of the wrong rows, until one explains them
//! all.
//!
//! `diagnose/values.rs` has hypotheses about values, `diagnose/places.rs` about positions. None holds a whole tensor in
//! memory.

mod places;
mod values;

#[cfg(test)]
mod tests;

use tensor::Result;

use crate::errors::Pair;
use crate::expected::Expected;
use crate::limits::Judge;
use crate::row_errors::RowErrors;
use crate::sums::Sums;
use crate::{Finding, Severity, Step};

/// Approximate number of sampled rows, which a hypothesis must explain.
const SAMPLE: usize = 16;
/// The most tensors that are diagnosed; the others are only counted.
const DIAGNOSED: usize = 24;

/// Returns the cause in a sentence, if the hypothesis explains the sample.
type Hypothesis = fn(&Case<'_>) -> Result<Option<String>>;

/// The first one that holds is reported, so special causes precede general ones.
const HYPOTHESES: &[Hypothesis] = &[
    values::constant,
    values::offset_by_one,
    values::byte_swapped,
    values::scaled,
    places::another_tensor,
    places::shifted,
    places::halves_exchanged,
    places::slices_permuted,
    places::heads_permuted,
    places::columns_permuted,
    places::transposed,
    places::rows_permuted,
];

/// A wrong tensor.
pub(crate) struct Case<'a> {
    pair: &'a Pair<'a>,
    /// All tensors.
    pairs: &'a [Pair<'a>],
    expected: &'a Expected,
    errors: &'a RowErrors,
    /// The sampled rows: their numbers, values of the base, values of the artifact.
    rows: Vec<u64>,
    x: Vec<Vec<f32>>,
    y: Vec<Vec<f32>>,
}

/// Findings about wrong and unusually coarse tensors, in the order of the file.
pub(crate) fn findings(
    pairs: &[Pair<'_>],
    errors: &[RowErrors],
    expected: &Expected,
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut wrong = 0;
    for (pair, of_pair) in pairs.iter().zip(errors) {
        findings.extend(not_finite(pair, of_pair));
        if is_wrong(pair, of_pair) {
            wrong += 1;
            if wrong <= DIAGNOSED {
                findings.push(Case::new(pair, pairs, expected, of_pair)?.finding()?);
            }
        } else {
            findings.extend(remarkable(pair, of_pair));
        }
    }
    if wrong > DIAGNOSED {
        let more = wrong - DIAGNOSED;
        let problem = if 2 * wrong > pairs.len() {
            format!("{more} more are wrong, most of all: this is an artifact of another checkpoint")
        } else {
            format!("{more} more are wrong")
        };
        findings.push(Finding::new(Severity::Failure, Step::Tensors, "tensors", problem));
    }
    Ok(findings)
}

/// Whether a tensor exceeds a limit.
pub(crate) fn is_wrong(pair: &Pair<'_>, errors: &RowErrors) -> bool {
    errors.bad_rows > 0
        || matches!(pair.judge(), Judge::Blocks(limits)
            if !errors.exact && (errors.scale() - 1.0).abs() > limits.scale)
}

fn place(pair: &Pair<'_>) -> String {
    format!("tensor {}", pair.name())
}

fn not_finite(pair: &Pair<'_>, errors: &RowErrors) -> Option<Finding> {
    let (row, column) = errors.first_not_finite?;
    let problem = format!(
        "{} weights are NaN or infinite, the first in row {row}, column {column}: its scale is damaged",
        errors.not_finite
    );
    Some(Finding::new(Severity::Failure, Step::Tensors, place(pair), problem))
}

/// The factor by which error feedback may increase the error of a tensor.
const FED: f64 = 2.0;

/// A warning about a tensor that is correct, but unusually coarse.
fn remarkable(pair: &Pair<'_>, errors: &RowErrors) -> Option<Finding> {
    let Judge::Blocks(limits) = pair.judge() else { return None };
    let relative = errors.sums.relative();
    // error feedback increases the error of weights to reduce the error of outputs
    let most = if pair.tensor.rounding.feedback { FED * limits.tensor } else { limits.tensor };
    (relative > most).then(|| {
        let problem = "its relative error is large for its type";
        Finding::new(Severity::Warning, Step::Tensors, place(pair), problem)
            .expected(format!("at most {most} for {}", limits.dtype), format!("{relative:.3}"))
    })
}

impl<'a> Case<'a> {
    fn new(
        pair: &'a Pair<'a>,
        pairs: &'a [Pair<'a>],
        expected: &'a Expected,
        errors: &'a RowErrors,
    ) -> Result<Case<'a>> {
        // without a bad row, the scale of the whole tensor is wrong: any rows will do
        let rows: Vec<u64> = if errors.some_bad.is_empty() {
            let step = (pair.rows() / SAMPLE as u64).max(1);
            (0..pair.rows()).step_by(step as usize).take(SAMPLE).collect()
        } else {
            let some = &errors.some_bad;
            let count = some.len().min(SAMPLE);
            let mut rows: Vec<u64> = (0..count).map(|i| some[i * some.len() / count]).collect();
            rows.push(errors.last_bad);
            rows.dedup();
            rows
        };
        let mut bytes = Vec::new();
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for &row in &rows {
            let mut values = [vec![0.0; pair.cols()], vec![0.0; pair.cols()]];
            pair.read_base(row, &mut bytes, &mut values[0])?;
            pair.read(row, &mut bytes, &mut values[1])?;
            let [of_base, of_artifact] = values;
            x.push(of_base);
            y.push(of_artifact);
        }
        Ok(Case { pair, pairs, expected, errors, rows, x, y })
    }

    fn finding(&self) -> Result<Finding> {
        let mut problem = None;
        for hypothesis in HYPOTHESES {
            problem = hypothesis(self)?;
            if problem.is_some() {
                break;
            }
        }
        let problem = problem.unwrap_or_else(|| self.unexplained());
        // K/V that no layer reads are harmless
        let severity = if self.pair.tensor.unused { Severity::Warning } else { Severity::Failure };
        let finding = Finding::new(severity, Step::Tensors, place(self.pair), problem);
        Ok(match self.errors.first_bad {
            Some((row, column)) => {
                let at = self.rows.iter().position(|&r| r == row).unwrap_or(0);
                let (row, column) = (self.rows[at], self.first_difference(at, column));
                let value = |value: f32| format!("{value} in row {row}, column {column}");
                finding.expected(value(self.x[at][column]), self.y[at][column])
            }
            None => finding.expected("a scale of 1", format!("{:.4}", self.errors.scale())),
        })
    }

    /// The first column from `column` on in which a sampled row clearly differs.
    fn first_difference(&self, at: usize, column: usize) -> usize {
        let (x, y) = (&self.x[at], &self.y[at]);
        let largest = (column..x.len()).map(|c| (x[c] - y[c]).abs()).fold(0f32, f32::max);
        (column..x.len()).find(|&c| (x[c] - y[c]).abs() >= largest / 2.0).unwrap_or(column)
    }

    fn unexplained(&self) -> String {
        let (bad, rows) = (self.errors.bad_rows, self.pair.rows());
        if rows == 1 {
            return "it holds other values than the base".to_owned();
        }
        format!("{bad} of {rows} rows hold other values than the base, without a known pattern")
    }

    /// Whether `y` can be `x` in the artifact's type; stricter than the limits, so that similar rows do not match by
    /// chance.
    fn same(&self, x: &[f32], y: &[f32]) -> bool {
        let sums = Sums::of(x, y);
        match self.pair.judge() {
            Judge::Values { relative, .. } => sums.relative() <= relative + 1e-6,
            Judge::Blocks(_) => sums.cosine() > 0.85 && (0.6..1.6).contains(&(sums.yy / sums.xx)),
        }
    }

    /// Whether the sampled rows are the rows of the base after the transformation `of`.
    fn explained(&self, of: impl Fn(&[f32], &mut Vec<f32>)) -> bool {
        let mut changed = Vec::new();
        self.x.iter().zip(&self.y).all(|(x, y)| {
            changed.clear();
            of(x, &mut changed);
            self.same(&changed, y)
        })
    }

    /// Whether about `rows` rows are wrong; a few may match by chance.
    fn about(&self, rows: u64) -> bool {
        let bad = self.errors.bad_rows;
        bad <= rows && 10 * bad >= 9 * rows
    }

    fn base_row(&self, row: u64) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.pair.cols()];
        self.pair.read_base(row, &mut Vec::new(), &mut values)?;
        Ok(values)
    }
}
