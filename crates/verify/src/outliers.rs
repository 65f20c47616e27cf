//! Outlier rows: rows that differ from their originals in another way than the rest of their tensor. Where bytes cannot
//! be compared, the limits of a type must allow for the worst correct file; the rows of the same tensor give a tighter
//! measure, by which a scaled or exchanged row stands out.

use serde::{Deserialize, Serialize};

use crate::errors::GROUP;
use crate::sums::Sums;

/// The fewest rows for a statistic.
const ENOUGH: usize = 16;
/// The least distance of an outlier row's scale from the median.
const LEAST: f64 = 0.04;
/// The least distance of an outlier row in robust standard deviations.
const FAR: f64 = 12.0;
/// The least distance of an outlier row in standard errors of its own scale, as its errors give them: a row of few weights that is
/// rounded alone among exact ones is no outlier. A row that is nothing but scaled is 5.7 of them away if it is one block of 32, whose
/// scale calibrated quantization chooses, and 8 if it is two.
const STANDARD_ERRORS: f64 = 6.0;
/// The least power for a reliable scale, in multiples of the power that the type cannot distinguish from zero.
const LOUD: f64 = 256.0;
/// The fewest non-zero groups for the scale of a row.
const SHOWN: usize = 4;
/// The largest share of rows that can be outliers.
const MOST: f64 = 0.25;
/// The fewest groups for a statistic.
const ENOUGH_GROUPS: usize = 64;
/// The least ratio of an outlier group's error to the median error.
const FAR_GROUP: f64 = 6.0;
/// The least distance of an outlier group in robust standard deviations of the logarithm.
const FAR_IN_GROUPS: f64 = 9.0;
/// The largest share of groups that can be outliers.
const MOST_GROUPS: f64 = 0.05;
/// Lower bound of errors, so that exact groups have a logarithm.
const TINY: f64 = 1e-6;
/// Standard deviation of the normal distribution in median absolute deviations.
const SIGMA: f64 = 1.4826;

/// Two estimates of the factor between a row and its original, NaN for a row too small to tell. A scaled row shows in
/// both; one large weight shows only in the first, many small ones only in the second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) number: u64,
    /// Least-squares factor of the whole row.
    scale: f32,
    /// Median of the least-squares factors of its groups.
    median: f32,
    /// Standard error of the factor, if the errors of its weights are independent.
    error: f32,
}

impl Row {
    /// From the sums of the row's groups. Groups of zeros, which an importance of zero makes, are ignored. A row with
    /// few other groups, or with little more power than `beneath`, has no estimate.
    pub(crate) fn of(number: u64, groups: &[Sums], beneath: f64) -> Row {
        let shown = || groups.iter().filter(|group| group.yy > 0.0 && group.xx > 0.0);
        let sums = shown().fold(Sums::default(), |sum, group| sum.plus(*group));
        if sums.xx <= LOUD * beneath || sums.xx <= 0.0 || shown().count() < groups.len().min(SHOWN) {
            return Row { number, scale: f32::NAN, median: f32::NAN, error: f32::NAN };
        }
        let scales: Vec<f64> = shown().map(|group| group.xy / group.xx).collect();
        let error = sums.relative() / ((scales.len() * GROUP) as f64).sqrt();
        Row { number, scale: (sums.xy / sums.xx) as f32, median: median(scales) as f32, error: error as f32 }
    }
}

/// The numbers of the outlier rows.
pub(crate) fn outliers(rows: &[Row]) -> Vec<u64> {
    let far = [far_from_others(rows, |row| row.scale), far_from_others(rows, |row| row.median)];
    let found: Vec<u64> =
        rows.iter().filter(|row| far.iter().all(|far| far(row))).map(|row| row.number).collect();
    let known = rows.iter().filter(|row| row.scale.is_finite()).count();
    if found.len() as f64 > MOST * known as f64 { Vec::new() } else { found }
}

/// The error of a group of weights, relative to the largest weight of its block, which determines the quantization
/// step. Error feedback moves errors between blocks, so that errors are relative to the largest weight of the row.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) row: u64,
    pub(crate) column: usize,
    /// RMSE divided by the largest magnitude of the original block or row.
    error: f32,
}

impl Group {
    /// The group that begins at `column`, in a block (or, with error feedback, a row) whose largest magnitude is
    /// `largest`. `None` if the original has little more power than `beneath`, or the artifact has only zeros, as an
    /// importance of zero makes.
    pub(crate) fn of(row: u64, column: usize, largest: f32, sums: &Sums, beneath: f64) -> Option<Group> {
        let largest = f64::from(largest);
        let error = (sums.ee / GROUP as f64).sqrt() / largest;
        (sums.xx > LOUD * beneath && largest > 0.0 && sums.yy > 0.0).then_some(Group {
            row,
            column,
            error: error as f32,
        })
    }
}

/// Groups with a far larger error than the others: a weight moved by many steps, or a wrong block. Quantization steps
/// differ between blocks, but errors relative to the largest weight are similar.
pub(crate) fn groups_far_off(groups: &[Group]) -> Vec<Group> {
    let errors: Vec<f64> = groups.iter().map(|group| f64::from(group.error).max(TINY)).collect();
    if errors.len() < ENOUGH_GROUPS {
        return Vec::new();
    }
    let logs: Vec<f64> = errors.iter().map(|error| error.ln()).collect();
    let centre = median(logs.clone());
    let spread = SIGMA * median(logs.iter().map(|log| (log - centre).abs()).collect());
    let limit = centre + FAR_GROUP.ln().max(FAR_IN_GROUPS * spread);
    let far = groups.iter().zip(&logs).filter(|(_, log)| **log > limit);
    let found: Vec<Group> = far.map(|(group, _)| *group).collect();
    if found.len() as f64 > MOST_GROUPS * groups.len() as f64 { Vec::new() } else { found }
}

/// Median and robust standard deviation of a figure of the rows; `None` if there are too few rows.
fn usual(rows: &[Row], figure: fn(&Row) -> f32) -> Option<(f64, f64)> {
    let figures: Vec<f64> = rows.iter().map(|row| f64::from(figure(row))).filter(|f| f.is_finite()).collect();
    if figures.len() < ENOUGH {
        return None;
    }
    let centre = median(figures.clone());
    Some((centre, SIGMA * median(figures.iter().map(|f| (f - centre).abs()).collect())))
}

/// Whether a row's figure is an outlier; never, if there are too few rows.
fn far_from_others(rows: &[Row], figure: fn(&Row) -> f32) -> impl Fn(&Row) -> bool {
    let usual = usual(rows, figure);
    move |row| {
        usual.is_some_and(|(centre, spread)| {
            let least = LEAST.max(STANDARD_ERRORS * f64::from(row.error));
            (f64::from(figure(row)) - centre).abs() > least.max(FAR * spread)
        })
    }
}

/// The distance of the farthest row in robust standard deviations, as [`outliers`] judges it.
#[cfg(test)]
pub(crate) fn farthest(rows: &[Row]) -> f64 {
    let figures: [fn(&Row) -> f32; 2] = [|row| row.scale, |row| row.median];
    let distance = |row: &Row| {
        figures
            .iter()
            .filter_map(|figure| usual(rows, *figure).map(|usual| (figure, usual)))
            .map(|(figure, (centre, spread))| {
                let distance = (f64::from(figure(row)) - centre).abs();
                if distance > LEAST { distance / spread } else { 0.0 }
            })
            .fold(f64::INFINITY, f64::min)
    };
    rows.iter().map(distance).filter(|distance| distance.is_finite()).fold(0.0, f64::max)
}

fn median(mut values: Vec<f64>) -> f64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}
