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
/// A larger share of the rows is no exception among them.
const MOST: f64 = 0.25;
/// The normal distribution's standard deviation in median absolute deviations.
const SIGMA: f64 = 1.4826;

/// How a row is related to its original.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) number: u64,
    /// The factor that brings the original nearest; NaN where it is too small to tell.
    pub(crate) scale: f32,
}

impl Row {
    /// Of a row whose sums are given by groups. Groups of zeros, which importance of zero makes, do not count, and a row
    /// of little more power than `beneath` says nothing.
    pub(crate) fn of(number: u64, groups: &[Sums], beneath: f64) -> Row {
        let shown = groups.iter().filter(|group| group.yy > 0.0);
        let sums = shown.fold(Sums::default(), |sum, group| sum.plus(*group));
        let scale = if sums.xx > LOUD * beneath && sums.xx > 0.0 { sums.xy / sums.xx } else { f64::NAN };
        Row { number, scale: scale as f32 }
    }
}

/// The numbers of the rows that stand out.
pub(crate) fn outliers(rows: &[Row]) -> Vec<u64> {
    let scales: Vec<f64> = rows.iter().map(|row| f64::from(row.scale)).filter(|s| s.is_finite()).collect();
    if scales.len() < ENOUGH {
        return Vec::new();
    }
    let centre = median(scales.clone());
    let spread = SIGMA * median(scales.iter().map(|scale| (scale - centre).abs()).collect());
    let limit = LEAST.max(FAR * spread);
    let far = |row: &Row| (f64::from(row.scale) - centre).abs() > limit;
    let found: Vec<u64> = rows.iter().filter(|row| far(row)).map(|row| row.number).collect();
    if found.len() as f64 > MOST * scales.len() as f64 { Vec::new() } else { found }
}

fn median(mut values: Vec<f64>) -> f64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}
