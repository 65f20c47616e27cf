//! Rows that differ from their originals in another way than the rest of their tensor does. Where bytes cannot be
//! compared, the limits of a type have to allow what the worst honest file does; a tensor's own rows show what its rounding
//! did, and a row that was scaled or exchanged stands out among them.

use crate::errors::{GROUP, Sums};

/// Rows without which nothing is known of the others.
const ENOUGH: usize = 16;
/// The least distance of a row's scale from the others' that is remarkable.
const LEAST: f64 = 0.025;
/// The distance in robust standard deviations.
const FAR: f64 = 12.0;
/// Multiples of the power that a type cannot tell from zeros, above which a scale is a clear one.
const LOUD: f64 = 256.0;
/// Groups that are not zero, without which a row of many groups says nothing.
const SHOWN: usize = 4;
/// A larger share of the rows is no exception among them.
const MOST: f64 = 0.25;
/// Groups without which nothing is known of the others.
const ENOUGH_GROUPS: usize = 64;
/// How many times the usual error is remarkable of a group.
const FAR_GROUP: f64 = 4.0;
/// The distance of a group in robust standard deviations of the logarithm.
const FAR_IN_GROUPS: f64 = 8.0;
/// A larger share of the groups is no exception among them.
const MOST_GROUPS: f64 = 0.05;
/// The error of groups that are exact.
const TINY: f64 = 1e-6;
/// The normal distribution's standard deviation in median absolute deviations.
const SIGMA: f64 = 1.4826;

/// How a row is related to its original: two factors that bring the original near, NaN where it is too small to tell. A
/// row that was scaled shows in both; a loud weight only in the first, many quiet ones only in the second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) number: u64,
    /// The factor that brings the whole row nearest.
    scale: f32,
    /// The median of those of its groups.
    median: f32,
}

impl Row {
    /// Of a row whose sums are given by groups. Groups of zeros, which importance of zero makes, do not count, and a row
    /// of few others, or of little more power than `beneath`, says nothing.
    pub(crate) fn of(number: u64, groups: &[Sums], beneath: f64) -> Row {
        let shown = || groups.iter().filter(|group| group.yy > 0.0 && group.xx > 0.0);
        let sums = shown().fold(Sums::default(), |sum, group| sum.plus(*group));
        if sums.xx <= LOUD * beneath || sums.xx <= 0.0 || shown().count() < groups.len().min(SHOWN) {
            return Row { number, scale: f32::NAN, median: f32::NAN };
        }
        let scales = shown().map(|group| group.xy / group.xx).collect();
        Row { number, scale: (sums.xy / sums.xx) as f32, median: median(scales) as f32 }
    }
}

/// The numbers of the rows that stand out.
pub(crate) fn outliers(rows: &[Row]) -> Vec<u64> {
    let far = [far_from_others(rows, |row| row.scale), far_from_others(rows, |row| row.median)];
    let found: Vec<u64> =
        rows.iter().filter(|row| far.iter().all(|far| far(row))).map(|row| row.number).collect();
    let known = rows.iter().filter(|row| row.scale.is_finite()).count();
    if found.len() as f64 > MOST * known as f64 { Vec::new() } else { found }
}

/// The error of a group of weights, as a part of the largest one of its block: as its step is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group {
    pub(crate) row: u64,
    pub(crate) column: usize,
    /// Root of the mean squared error, divided by the largest magnitude of the original.
    error: f32,
}

impl Group {
    /// Of the group that begins at `column` of a block whose largest magnitude is `largest`; `None` where the original has little more power than `beneath`, or the artifact
    /// has zeros, as importance of zero makes.
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

/// Groups whose error is far larger than those of the others, as when a weight moved by many steps or a block is another:
/// their steps differ, but as parts of the largest weight their errors are much alike.
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

/// Whether the figure of a row is far from those of the others; none is where there are too few.
fn far_from_others(rows: &[Row], figure: fn(&Row) -> f32) -> impl Fn(&Row) -> bool {
    let figures: Vec<f64> = rows.iter().map(|row| f64::from(figure(row))).filter(|f| f.is_finite()).collect();
    let enough = figures.len() >= ENOUGH;
    let centre = if enough { median(figures.clone()) } else { 0.0 };
    let spread =
        if enough { SIGMA * median(figures.iter().map(|f| (f - centre).abs()).collect()) } else { 0.0 };
    let limit = LEAST.max(FAR * spread);
    move |row| enough && (f64::from(figure(row)) - centre).abs() > limit
}

fn median(mut values: Vec<f64>) -> f64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}
