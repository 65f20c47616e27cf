//! Constants of another rounding than min-max, such as that of quantization-aware training: each is the tensor with which
//! its values correlate most.
//!
//! The limits leave room on both sides: constants of two bits of a checkpoint whose weights were changed by 25 % correlated
//! with their tensors by 0.61 or more, and by 0.13 more than with any other tensor of the same shape.

use tensor::{Error, Result};

use crate::constants::Constant;
use crate::source::Source;
use crate::stored::StoredConstant;
use crate::tflite::Model;
use crate::weights::Weights;

/// The smallest correlation of a constant with its tensor.
const LEAST: f64 = 0.5;
/// The smallest distance to the correlation with another tensor.
const DISTANCE: f64 = 0.1;
/// Values that are compared: correlations of unrelated ones are below 0.03.
const VALUES: u64 = 1 << 14;
/// The fewest values that say something.
const FEWEST: u64 = 16;

/// Takes constants and tensors that correlate out of both lists.
///
/// # Errors
/// `Unsupported` for a tensor with which two constants correlate; those of reading.
pub(crate) fn similar(
    model: &Model,
    from: &dyn Source,
    left: &mut Vec<Constant>,
    unassigned: &mut Vec<(usize, Weights<'_>)>,
) -> Result<Vec<(Constant, usize)>> {
    let mut found: Vec<(Constant, usize)> = Vec::new();
    let mut others = Vec::new();
    for constant in left.drain(..) {
        let best = match StoredConstant::new(model, from, &constant) {
            Some(stored) => best(&stored, unassigned)?,
            None => None,
        };
        match best {
            Some(index) if found.iter().any(|(_, other)| *other == index) => {
                let name = unassigned.iter().find(|(other, _)| *other == index).map(|(_, w)| &w.desc().name);
                let place = format!("tensor {}", name.map_or("", |name| name));
                return Err(Error::unsupported(place, "two constants have values that are near to it")
                    .expected("one constant", constant.title()));
            }
            Some(index) => found.push((constant, index)),
            None => others.push(constant),
        }
    }
    *left = others;
    unassigned.retain(|(index, _)| found.iter().all(|(_, other)| other != index));
    Ok(found)
}

/// The index of the tensor with which the constant correlates clearly.
fn best(stored: &StoredConstant<'_>, tensors: &[(usize, Weights<'_>)]) -> Result<Option<usize>> {
    let Constant { rows, cols, .. } = *stored.constant;
    if rows * cols < FEWEST {
        return Ok(None);
    }
    let step = (rows * cols).div_ceil(VALUES).max(1);
    let sampled: Vec<u64> = (0..rows).step_by(step as usize).collect();
    let mut values = None;
    let mut scores = Vec::new();
    for (index, tensor) in tensors.iter().filter(|(_, tensor)| tensor.has_shape(rows, cols)) {
        let values: &Vec<f32> = match &values {
            Some(known) => known,
            None => values.insert(gather(&sampled, |row| stored.values(row, 1))?),
        };
        scores.push((correlation(values, &gather(&sampled, |row| tensor.rows(row, 1))?), *index));
    }
    scores.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let second = scores.get(1).map_or(0.0, |(score, _)| *score);
    let clear = |(score, _): &&(f64, usize)| *score >= LEAST && *score - second >= DISTANCE;
    Ok(scores.first().filter(clear).map(|(_, index)| *index))
}

fn gather(rows: &[u64], read: impl Fn(u64) -> Result<Vec<f32>>) -> Result<Vec<f32>> {
    let rows: Vec<_> = rows.iter().map(|row| read(*row)).collect::<Result<_>>()?;
    Ok(rows.concat())
}

/// Pearson's correlation; 0 if one side is constant.
fn correlation(x: &[f32], y: &[f32]) -> f64 {
    let mean = |v: &[f32]| v.iter().map(|v| f64::from(*v)).sum::<f64>() / v.len() as f64;
    let (mean_x, mean_y) = (mean(x), mean(y));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (x, y) = (f64::from(*x) - mean_x, f64::from(*y) - mean_y);
        xx += x * x;
        yy += y * y;
        xy += x * y;
    }
    if xx * yy > 0.0 { xy / (xx * yy).sqrt() } else { 0.0 }
}
