//! Rows that differ from their originals in another way than the rest of their tensor does. Where bytes cannot be
//! compared, the limits of a type have to allow what the worst honest file does; a tensor's own rows show what its rounding
//! did, and a row that was scaled or exchanged stands out among them.

use crate::errors::Sums;

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
