//! Limits over correct files: every type over weights that are hard for it, with and without importance and error
//! feedback. None exceeds a limit, and a wrong row always does.

use quant::Simd;

use super::*;
use crate::errors::Part;
use crate::outliers::{Group, Row, groups_far_off, outliers};

const COLS: usize = 512;
const ROWS: usize = 32;

/// Marsaglia's xorshift64. The limits were set with this sequence.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn gauss(&mut self) -> f64 {
        (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (self.unit() * std::f64::consts::TAU).cos()
    }
}

/// Weights by row and column.
type Weight = fn(&mut Random, usize, usize) -> f64;

const ORDINARY: &[(&str, Weight)] = &[
    ("gauss", |r, _, _| 0.02 * r.gauss()),
    ("exponential", |r, _, _| 0.02 * (1.0 - r.unit()).ln() * if r.unit() < 0.5 { 1.0 } else { -1.0 }),
    ("heavy tails", |r, _, _| 0.02 * r.gauss() / (r.gauss().abs() + 0.05)),
    ("a loud group of 16", |r, row, c| 0.02 * r.gauss() * (((row * 7 + c / 16) % 13) as f64 - 8.0).exp2()),
    ("a loud group of 32", |r, row, c| 0.02 * r.gauss() * (((row * 7 + c / 32) % 17) as f64 - 12.0).exp2()),
    ("positive", |r, _, _| 0.02 * r.gauss().abs()),
    ("biased", |r, _, _| 0.02 * (3.0 + r.gauss())),
    ("far from zero", |r, _, _| -1.0 + 0.01 * r.gauss()),
    ("two values", |r, _, _| if r.unit() < 0.5 { 0.03 } else { -0.02 }),
    ("small", |r, _, _| 1e-4 * r.gauss()),
    ("tiny", |r, _, _| 1e-6 * r.gauss()),
    ("rows of any size", |r, row, _| r.gauss() * (-(row as f64) / 2.0).exp2()),
    ("zeros", |_, _, _| 0.0),
];

/// Weights dominated by a few values, which therefore must not have an importance of zero.
const OUTLIERS: &[(&str, Weight)] = &[
    ("heavier tails", |r, _, _| 0.001 * r.gauss() / (r.gauss().abs() + 1e-3)),
    ("loud columns", |r, _, c| 0.02 * r.gauss() * if c % 97 == 5 { 100.0 } else { 1.0 }),
    ("one outlier", |r, _, c| 0.001 * r.gauss() + if c == 37 { 1.0 } else { 0.0 }),
    ("sparse", |r, _, _| if r.unit() < 0.02 { r.gauss() } else { 0.0 }),
    ("very sparse", |r, _, _| if r.unit() < 0.002 { r.gauss() } else { 0.0 }),
];

/// Cases in which errors of groups are not similar: no model has such weights or so uneven an importance.
const UNLIKE: [&str; 4] = ["a loud group of 32", "two values", "sparse", "skewed"];

type Importance = fn(&mut Random, usize) -> f64;

const UNEVEN: &[(&str, Importance)] =
    &[("exponential", |r, _| -(1.0 - r.unit()).ln()), ("skewed", |r, _| (3.0 * r.gauss()).exp())];

const DEAD: &[(&str, Importance)] = &[
    ("dead columns", |r, c| if c % 3 == 0 { 0.0 } else { r.unit() }),
    ("dead blocks", |r, c| if c / 32 % 5 == 1 { 0.0 } else { r.unit() }),
];

fn quantised(dtype: DType, x: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
    let mut bytes = vec![0; x.len() / dtype.block_len() * dtype.block_bytes()];
    let mut y = vec![0.0; x.len()];
    let (scaled, scales) = divided(dtype, x);
    quant::encode(Simd::detect(), dtype, COLS, &scaled, importance, &mut bytes);
    quant::decode(Simd::detect(), dtype, &bytes, &mut y);
    y.iter_mut().zip(&scales).for_each(|(y, scale)| *y *= scale);
    y
}

/// Weights divided by separate scales, and these scales: gemma.cpp's of the tensor, or a row's largest / 448 in BF16.
fn divided(dtype: DType, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let mut values = x.to_vec();
    let mut scales = vec![1.0; x.len()];
    match dtype {
        DType::SFP8 => {
            let scale = quant::sfp8_scale(quant::max_abs(x));
            quant::sfp8_divide(&mut values, scale);
            scales.fill(scale);
        }
        DType::F8_E4M3 => {
            for (row, scales) in values.chunks_mut(COLS).zip(scales.chunks_mut(COLS)) {
                let scale = bf16(quant::max_abs(row) / 448.0).max(f32::MIN_POSITIVE);
                row.iter_mut().for_each(|v| *v = bf16(*v / scale).clamp(-448.0, 448.0));
                scales.fill(scale);
            }
        }
        _ => {}
    }
    (values, scales)
}

fn bf16(value: f32) -> f32 {
    let (mut bytes, mut out) = ([0; 2], [0.0]);
    quant::encode(Simd::Scalar, DType::BF16, 1, &[value], None, &mut bytes);
    quant::decode(Simd::Scalar, DType::BF16, &bytes, &mut out);
    out[0]
}

/// Imitates error feedback: adds the errors of other columns before rounding.
fn fed_back(x: &[f32], y: &[f32]) -> Vec<f32> {
    let other = |i: usize| i / COLS * COLS + (i % COLS * 5 + 3) % COLS;
    (0..x.len()).map(|i| x[i] + (x[other(i)] - y[other(i)])).collect()
}

/// The largest block error, the number of wrong rows, the scale, and the error of the tensor.
fn figures(limits: &Limits, x: &[f32], y: &[f32]) -> (f64, usize, f64, f64) {
    let (mut block, mut others, mut part) = (0f64, 0, Part::default());
    for (row, (x, y)) in x.chunks(COLS).zip(y.chunks(COLS)).enumerate() {
        let groups: Vec<Sums> = x.chunks(GROUP).zip(y.chunks(GROUP)).map(|(x, y)| Sums::of(x, y)).collect();
        let sums = part.add_row(row as u64, &groups);
        block = limits.errors(&groups, COLS, sums).fold(block, f64::max);
        others += usize::from(limits.is_another(&groups, COLS, sums));
    }
    let counts = part.sums.xx > limits.beneath(x.len());
    let scale = if counts { part.scale() } else { 1.0 };
    (block, others, scale, part.sums.relative())
}

fn rows_that_stand_out(limits: &Limits, x: &[f32], y: &[f32]) -> Vec<u64> {
    let rows = (0..).zip(x.chunks(COLS).zip(y.chunks(COLS)));
    let rows = rows.map(|(number, (x, y))| {
        let groups: Vec<Sums> = x.chunks(GROUP).zip(y.chunks(GROUP)).map(|(x, y)| Sums::of(x, y)).collect();
        Row::of(number, &groups, limits.beneath(COLS))
    });
    outliers(&rows.collect::<Vec<_>>())
}

fn groups_that_are_far_off(limits: &Limits, x: &[f32], y: &[f32]) -> Vec<Group> {
    let beneath = limits.beneath(GROUP);
    let block = limits.block_len().max(GROUP);
    let rows = (0..).zip(x.chunks(COLS).zip(y.chunks(COLS)));
    let groups = rows.flat_map(|(row, (x, y))| {
        let groups = x.chunks(GROUP).zip(y.chunks(GROUP)).enumerate();
        groups.filter_map(move |(at, (group, y))| {
            let start = at * GROUP / block * block;
            let largest = quant::max_abs(&x[start..start + block]);
            Group::of(row, at * GROUP, largest, &Sums::of(group, y), beneath)
        })
    });
    groups_far_off(&groups.collect::<Vec<_>>())
}

fn check(limits: &Limits, what: &str, x: &[f32], y: &[f32]) {
    let limits = &match limits.dtype {
        DType::SFP8 => limits.scaled(quant::sfp8_scale(quant::max_abs(x))),
        _ => *limits,
    };
    let (block, others, scale, relative) = figures(limits, x, y);
    let found = format!(
        "{} {what}: block {block:.3} other rows {others} scale {scale:.4} error {relative:.3}",
        limits.dtype
    );
    assert!(block <= limits.block && others == 0 && (scale - 1.0).abs() <= limits.scale, "{found}");
    let alone = rows_that_stand_out(limits, x, y);
    assert!(alone.is_empty(), "{found}: rows {alone:?} stand out");
    if !UNLIKE.iter().any(|unlike| what.contains(unlike)) && !quant::scale_is_apart(limits.dtype) {
        let far = groups_that_are_far_off(limits, x, y);
        assert!(far.is_empty(), "{found}: groups {far:?} stand out");
    }
    if what == "gauss" {
        assert!(relative < limits.tensor / 1.8, "{found}");
    }
}

#[test]
fn no_honest_file_is_beyond_a_limit() {
    let rows = |weight: Weight| {
        let mut random = Random(88172645463325252);
        (0..ROWS * COLS).map(|i| weight(&mut random, i / COLS, i % COLS) as f32).collect::<Vec<_>>()
    };
    // another seed, so that the importance is independent of the first row's weights
    let columns = |importance: Importance| {
        let mut random = Random(1181783497276652981);
        (0..COLS).map(|c| importance(&mut random, c) as f32).collect::<Vec<_>>()
    };
    for limits in LIMITS {
        let dtype = limits.dtype;
        for &(name, weight) in ORDINARY.iter().chain(OUTLIERS) {
            let x = rows(weight);
            check(limits, name, &x, &quantised(dtype, &x, None));
            for &(how, importance) in UNEVEN {
                let weights = columns(importance);
                check(limits, &format!("{name}, {how}"), &x, &quantised(dtype, &x, Some(&weights)));
            }
        }
        for &(name, weight) in ORDINARY {
            let x = rows(weight);
            let fed = fed_back(&x, &quantised(dtype, &x, None));
            check(limits, &format!("{name}, fed back"), &x, &quantised(dtype, &fed, None));
            for &(how, importance) in UNEVEN {
                let weights = columns(importance);
                let fed = fed_back(&x, &quantised(dtype, &x, Some(&weights)));
                check(
                    limits,
                    &format!("{name}, {how}, fed back"),
                    &x,
                    &quantised(dtype, &fed, Some(&weights)),
                );
            }
            for &(how, importance) in DEAD {
                let weights = columns(importance);
                check(limits, &format!("{name}, {how}"), &x, &quantised(dtype, &x, Some(&weights)));
            }
        }
    }
}

#[test]
fn every_wrong_row_is_beyond_one() {
    let mut random = Random(88172645463325252);
    let x: Vec<f32> = (0..ROWS * COLS).map(|_| (0.02 * random.gauss()) as f32).collect();
    for limits in LIMITS {
        let mut y = quantised(limits.dtype, &x, None);
        // every row holds the next one, the last is zero
        y.rotate_left(COLS);
        y[(ROWS - 1) * COLS..].fill(0.0);
        for (row, (x, y)) in x.chunks(COLS).zip(y.chunks(COLS)).enumerate() {
            let (block, others, ..) = figures(limits, x, y);
            let found = format!("{} row {row}: block {block:.3}", limits.dtype);
            assert!(block > limits.block || others == 1, "{found}");
        }
    }
}

/// A scaled row stands out among rows quantized in one way, with or without importance and error feedback.
#[test]
fn a_row_that_was_scaled_stands_out() {
    let mut random = Random(88172645463325252);
    let x: Vec<f32> = (0..ROWS * COLS).map(|_| (0.02 * random.gauss()) as f32).collect();
    let importance: Vec<f32> = (0..COLS).map(|c| UNEVEN[0].1(&mut random, c) as f32).collect();
    for limits in LIMITS {
        let fine =
            matches!(limits.dtype, DType::Q8_0 | DType::Q6_K | DType::Q5_K | DType::Q5_0 | DType::Q5_1);
        let factor = if fine { 1.05 } else { 1.3 };
        for weights in [None, Some(&importance[..])] {
            let rounded = quantised(limits.dtype, &x, weights);
            let fed = quantised(limits.dtype, &fed_back(&x, &rounded), weights);
            for mut y in [rounded, fed] {
                y[7 * COLS..8 * COLS].iter_mut().for_each(|v| *v *= factor);
                let found = rows_that_stand_out(limits, &x, &y);
                assert_eq!(found, [7], "{} {}", limits.dtype, weights.is_some());
            }
        }
    }
}
