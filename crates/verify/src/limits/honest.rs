//! Limits over correct files: every type over weights that are hard for it, with and without importance and error
//! feedback. None exceeds a limit, and a wrong row always does.

use quant::Simd;
use rayon::prelude::*;

use super::*;
use crate::outliers::{self, Group, Row, groups_far_off, outliers};
use crate::row_errors::RowErrors;

const COLS: usize = 512;
const ROWS: usize = 16;
/// Number of random sequences of each test.
const SEQUENCES: u64 = 10;

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    /// Sequence `number` for a purpose: weights and importance are independent.
    fn of(number: u64, purpose: u64) -> Random {
        let mut random = Random((2 * number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ purpose << 32);
        (0..16).for_each(|_| _ = random.unit());
        random
    }

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

/// Weights dominated by a few values, which therefore must not have an importance of zero, or nearly so.
const OUTLIERS: &[(&str, Weight)] = &[
    ("heavier tails", |r, _, _| 0.001 * r.gauss() / (r.gauss().abs() + 1e-3)),
    ("loud columns", |r, _, c| 0.02 * r.gauss() * if c % 97 == 5 { 100.0 } else { 1.0 }),
    ("one outlier", |r, _, c| 0.001 * r.gauss() + if c == 37 { 1.0 } else { 0.0 }),
    ("sparse", |r, _, _| if r.unit() < 0.02 { r.gauss() } else { 0.0 }),
    ("very sparse", |r, _, _| if r.unit() < 0.002 { r.gauss() } else { 0.0 }),
];

/// Cases in which errors of groups are not similar: no model has such weights or so uneven an importance.
const UNLIKE: [&str; 4] = ["a loud group of 32", "two values", "sparse", "skewed"];

/// Weights that are rounded with the error feedback of `quant`, which takes longer.
const FED_BACK: [&str; 8] = [
    "gauss",
    "heavy tails",
    "a loud group of 16",
    "a loud group of 32",
    "far from zero",
    "rows of any size",
    "heavier tails",
    "loud columns",
];

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

/// Figures of a file by which it is judged.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Figures {
    /// The largest error of a block, and the largest of the second worst blocks of all rows.
    pub(super) block: f64,
    pub(super) second: f64,
    /// The largest error of a row, without groups of zeros.
    pub(super) row: f64,
    /// Number of wrong rows.
    pub(super) wrong: usize,
    /// Difference of the tensor's scale from 1.
    pub(super) scale: f64,
    pub(super) relative: f64,
    /// Distance of the farthest row, in robust standard deviations.
    pub(super) distance: f64,
    /// Number of groups that stand out.
    pub(super) far: usize,
}

fn sums_of(x: &[f32], y: &[f32]) -> Vec<Sums> {
    x.chunks(GROUP).zip(y.chunks(GROUP)).map(|(x, y)| Sums::of(x, y)).collect()
}

impl Figures {
    pub(super) fn of(limits: &Limits, x: &[f32], y: &[f32], way: Way) -> Figures {
        let (mut figures, mut part) = (Figures::default(), RowErrors::default());
        for (row, (x, y)) in x.chunks(COLS).zip(y.chunks(COLS)).enumerate() {
            let groups = sums_of(x, y);
            let sums = part.add_row(row as u64, &groups);
            let mut errors: Vec<f64> = limits.errors(&groups, COLS, sums).collect();
            errors.sort_by(|a, b| b.total_cmp(a));
            figures.block = figures.block.max(errors[0]);
            figures.second = figures.second.max(errors[1]);
            figures.row = figures.row.max(limits.row_error(&groups, COLS));
            figures.wrong += usize::from(limits.first_wrong(&groups, COLS, sums).is_some());
        }
        let counts = part.sums.xx > limits.beneath(x.len());
        figures.scale = if counts { (part.scale() - 1.0).abs() } else { 0.0 };
        figures.relative = part.sums.relative();
        figures.distance = outliers::farthest(&rows_of(limits, x, y));
        figures.far = groups_far_off(&groups_of(limits, x, y, way == Way::Feedback)).len();
        figures
    }
}

fn rows_of(limits: &Limits, x: &[f32], y: &[f32]) -> Vec<Row> {
    let rows = (0..).zip(x.chunks(COLS).zip(y.chunks(COLS)));
    let rows = rows.map(|(number, (x, y))| Row::of(number, &sums_of(x, y), limits.beneath(COLS)));
    rows.collect()
}

fn groups_of(limits: &Limits, x: &[f32], y: &[f32], by_row: bool) -> Vec<Group> {
    let unit = if by_row { COLS } else { limits.block_len() };
    let rows = (0..).zip(x.chunks(COLS).zip(y.chunks(COLS)));
    let groups = rows.flat_map(|(row, (x, y))| {
        let groups = (0..).zip(sums_of(x, y));
        groups.filter_map(move |(at, sums)| {
            let largest = quant::max_abs(&x[at * GROUP / unit * unit..][..unit]);
            Group::of(row, at * GROUP, largest, &sums, limits.beneath(GROUP))
        })
    });
    groups.collect()
}

/// Rounds with the error feedback of `quant`, for inputs of this power, of which neighbours have this correlation.
fn feedback_rounded(dtype: DType, x: &[f32], importance: &[f32], correlation: f64) -> Vec<f32> {
    let mean = importance.iter().map(|v| f64::from(*v)).sum::<f64>() / importance.len() as f64;
    let size: Vec<f64> = importance.iter().map(|v| (f64::from(*v) + 0.01 * mean).sqrt()).collect();
    let mut y = vec![0.0; x.len()];
    let panels = COLS / quant::PANEL;
    let mut factors = vec![vec![0.0; quant::PANEL * quant::PANEL]; panels];
    let mut weights = vec![vec![0.0; quant::PANEL]; panels];
    for panel in 0..panels {
        let at = panel * quant::PANEL;
        for i in 0..quant::PANEL {
            let last = at + i == COLS - 1;
            let rest = if last { 1.0 } else { 1.0 - correlation * correlation };
            weights[panel][i] = (size[at + i].powi(2) * rest) as f32;
            for j in i + 1..quant::PANEL {
                let factor = correlation.powi((j - i) as i32) * size[at + i] / size[at + j];
                factors[panel][quant::PANEL * i + j] = factor as f32;
            }
        }
    }
    let mut bytes = vec![0; quant::PANEL / dtype.block_len() * dtype.block_bytes()];
    for (x, y) in x.chunks(COLS).zip(y.chunks_mut(COLS)) {
        // the sum of the earlier errors
        let mut moved = 0.0;
        for panel in 0..panels {
            let span = panel * quant::PANEL..(panel + 1) * quant::PANEL;
            let (x, y, size) = (&x[span.clone()], &mut y[span.clone()], &size[span]);
            let mut decay = 1.0;
            let targets: Vec<f32> = x
                .iter()
                .zip(size)
                .map(|(x, size)| {
                    decay *= correlation;
                    (f64::from(*x) - moved * decay / size) as f32
                })
                .collect();
            let of = quant::Panel {
                weights: x,
                targets: &targets,
                feedback: &factors[panel],
                importance: &weights[panel],
                scales: &[],
            };
            quant::round_panel(Simd::detect(), dtype, &of, &mut bytes, y);
            for ((x, y), size) in x.iter().zip(&*y).zip(size) {
                moved = correlation * moved + f64::from(y - x) * size;
            }
        }
    }
    y
}

/// How a file was rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    Nearest,
    Importance,
    Feedback,
}

/// Receives the kind of weights, the way of rounding, the weights and the decoded values.
pub(super) type EachFile<'a> = dyn FnMut(&str, Way, &[f32], &[f32]) + 'a;

/// Calls `each` with every correct file: the weights' kind, how it was made, its weights and the decoded values.
pub(super) fn honest_files(dtype: DType, number: u64, each: &mut EachFile<'_>) {
    let rows = |weight: Weight| {
        let mut random = Random::of(number, 1);
        (0..ROWS * COLS).map(|i| weight(&mut random, i / COLS, i % COLS) as f32).collect::<Vec<_>>()
    };
    let columns = |importance: Importance| {
        let mut random = Random::of(number, 2);
        (0..COLS).map(|c| importance(&mut random, c) as f32).collect::<Vec<_>>()
    };
    let (uneven, dead) = if quant::uses_importance(dtype) { (UNEVEN, DEAD) } else { (&[][..], &[][..]) };
    for &(name, weight) in ORDINARY.iter().chain(OUTLIERS) {
        // two bits cannot hold weights most of which are zero
        if dtype == DType::Q2_K && name == "sparse" {
            continue;
        }
        let x = rows(weight);
        let rounded = quantised(dtype, &x, None);
        let ordinary = ORDINARY.iter().any(|(ordinary, _)| *ordinary == name);
        each(name, Way::Nearest, &x, &rounded);
        if ordinary {
            let moved = fed_back(&x, &rounded);
            each(&format!("{name}, moved"), Way::Feedback, &x, &quantised(dtype, &moved, None));
        }
        let uneven = if ordinary { uneven } else { &uneven[..uneven.len().min(1)] };
        for &(how, importance) in uneven {
            let weights = columns(importance);
            let rounded = quantised(dtype, &x, Some(&weights));
            each(&format!("{name}, {how}"), Way::Importance, &x, &rounded);
            if ordinary {
                let moved = quantised(dtype, &fed_back(&x, &rounded), Some(&weights));
                each(&format!("{name}, {how}, moved"), Way::Feedback, &x, &moved);
            }
        }
        for &(how, importance) in dead.iter().filter(|_| ordinary) {
            let rounded = quantised(dtype, &x, Some(&columns(importance)));
            each(&format!("{name}, {how}"), Way::Importance, &x, &rounded);
        }
        if quant::feeds_back(dtype) && FED_BACK.contains(&name) {
            let inputs = UNEVEN.iter().zip([0.9, 0.5]).take(if ordinary { 2 } else { 1 });
            for (&(how, importance), correlation) in inputs {
                let y = feedback_rounded(dtype, &x, &columns(importance), correlation);
                each(&format!("{name}, {how}, feedback"), Way::Feedback, &x, &y);
            }
        }
    }
}

/// The limits for a tensor: SFP8 has one scale.
pub(super) fn limits_for(limits: &Limits, x: &[f32]) -> Limits {
    match limits.dtype {
        DType::SFP8 => limits.scaled(quant::sfp8_scale(quant::max_abs(x))),
        _ => *limits,
    }
}

/// Runs `check` for every type and random sequence.
fn for_all(sequences: u64, check: impl Fn(&Limits, u64) + Sync) {
    let all: Vec<_> =
        LIMITS.iter().flat_map(|limits| (0..sequences).map(move |number| (limits, number))).collect();
    all.into_par_iter().for_each(|(limits, number)| check(limits, number));
}

#[test]
fn no_honest_file_is_beyond_a_limit() {
    for_all(SEQUENCES, |limits, number| {
        honest_files(limits.dtype, number, &mut |what, way, x, y| {
            let limits = limits_for(limits, x);
            let figures = Figures::of(&limits, x, y, way);
            let found = format!("{} {what}, sequence {number}: {figures:?}", limits.dtype);
            assert!(figures.wrong == 0 && figures.scale <= limits.scale, "{found}");
            let alone = outliers(&rows_of(&limits, x, y));
            assert!(alone.is_empty() || what.contains("sparse"), "{found}: rows {alone:?} stand out");
            assert!(figures.far == 0 || UNLIKE.iter().any(|unlike| what.contains(unlike)), "{found}");
            assert!(what != "gauss" || figures.relative < limits.tensor / 1.8, "{found}");
        });
    });
}

/// Weights without a pattern, and their roundings in every way.
fn gaussian(dtype: DType, number: u64) -> (Vec<f32>, Vec<(Way, Vec<f32>)>) {
    let mut random = Random::of(number, 1);
    let x: Vec<f32> = (0..ROWS * COLS).map(|_| (0.02 * random.gauss()) as f32).collect();
    let importance: Vec<f32> = (0..COLS).map(|c| UNEVEN[0].1(&mut random, c) as f32).collect();
    let weighted = quantised(dtype, &x, Some(&importance));
    let moved = quantised(dtype, &fed_back(&x, &weighted), Some(&importance));
    let mut files = vec![(Way::Nearest, quantised(dtype, &x, None)), (Way::Feedback, moved)];
    if quant::uses_importance(dtype) {
        files.push((Way::Importance, weighted));
    }
    if quant::feeds_back(dtype) {
        files.push((Way::Feedback, feedback_rounded(dtype, &x, &importance, 0.9)));
    }
    (x, files)
}

#[test]
fn every_wrong_row_is_beyond_one() {
    type Change = fn(&mut [f32]);
    let changes: [(&str, Change); 3] = [
        ("of zeros", |y| y.fill(0.0)),
        ("of the other sign", |y| y.iter_mut().for_each(|v| *v = -*v)),
        ("times 2.5", |y| y.iter_mut().for_each(|v| *v *= 2.5)),
    ];
    for_all(SEQUENCES, |limits, number| {
        let (x, files) = gaussian(limits.dtype, number);
        let limits = limits_for(limits, &x);
        for (way, y) in files {
            let wrong = |row: usize, y: &[f32]| {
                let x = &x[row * COLS..(row + 1) * COLS];
                let groups = sums_of(x, y);
                let sums = groups.iter().fold(Sums::default(), |sum, group| sum.plus(*group));
                limits.first_wrong(&groups, COLS, sums).is_some()
            };
            for row in 0..ROWS {
                let other = (row + 1) % ROWS;
                let found = format!("{} {way:?}, sequence {number}, row {row}", limits.dtype);
                assert!(wrong(row, &y[other * COLS..(other + 1) * COLS]), "{found}: another row");
                for (what, change) in changes {
                    let mut changed = y[row * COLS..(row + 1) * COLS].to_vec();
                    change(&mut changed);
                    assert!(wrong(row, &changed), "{found}: {what}");
                }
            }
        }
    });
}

/// A scaled row stands out among rows quantized in one way, with or without importance and error feedback.
#[test]
fn a_row_that_was_scaled_stands_out() {
    for_all(SEQUENCES, |limits, number| {
        let factor = match limits.dtype {
            DType::Q8_0 | DType::Q6_K => 1.05,
            DType::Q5_K | DType::Q5_0 | DType::Q5_1 => 1.1,
            DType::Q2_K => 1.5,
            _ => 1.3,
        };
        let (x, files) = gaussian(limits.dtype, number);
        let limits = limits_for(limits, &x);
        for (way, mut y) in files {
            y[7 * COLS..8 * COLS].iter_mut().for_each(|v| *v *= factor);
            let found = outliers(&rows_of(&limits, &x, &y));
            assert_eq!(found, [7], "{} {way:?}, sequence {number}", limits.dtype);
        }
    });
}

/// In a fine-tune of QAT weights most rows are exact. Where a row is one block, those that are rounded do not stand out.
#[test]
fn rounded_rows_among_exact_ones_do_not_stand_out() {
    for_all(SEQUENCES, |limits, number| {
        let (x, files) = gaussian(limits.dtype, number);
        let limits = limits_for(limits, &x);
        for (way, y) in files {
            let rows = (0..).zip(x.chunks(GROUP).zip(y.chunks(GROUP))).map(|(row, (x, y))| {
                let y = if row % 16 == 3 { y } else { x };
                Row::of(row, &sums_of(x, y), limits.beneath(GROUP))
            });
            let found = outliers(&rows.collect::<Vec<_>>());
            assert!(found.is_empty(), "{} {way:?}, sequence {number}: rows {found:?}", limits.dtype);
        }
    });
}

/// A block with the other sign, or of another row, is beyond the limit of blocks or stands out among the others; one of
/// another row of Q2_K may not. With error feedback a single block of 32 has no limit.
#[test]
fn a_wrong_block_is_found() {
    for_all(SEQUENCES, |limits, number| {
        let (x, files) = gaussian(limits.dtype, number);
        let limits = limits_for(limits, &x);
        let at = 7 * COLS..7 * COLS + limits.block_len();
        let feedback = quant::feeds_back(limits.dtype) && limits.block_len() == GROUP;
        for (way, y) in files.into_iter().filter(|(way, _)| !(feedback && *way == Way::Feedback)) {
            let found = |what: &str, y: &[f32]| {
                let figures = Figures::of(&limits, &x, y, way);
                let found = figures.wrong == 1 || figures.far > 0;
                assert!(found, "{} {way:?}, sequence {number}, a block {what}: {figures:?}", limits.dtype);
            };
            let mut flipped = y.clone();
            flipped[at.clone()].iter_mut().for_each(|v| *v = -*v);
            found("of the other sign", &flipped);
            if limits.dtype != DType::Q2_K {
                let mut other = y;
                other.copy_within(9 * COLS..9 * COLS + limits.block_len(), at.start);
                found("of another row", &other);
            }
        }
    });
}

#[test]
fn every_quantised_type_has_limits() {
    for &dtype in DType::ALL.iter().filter(|dtype| quant::can_encode(**dtype)) {
        let needs = dtype.is_quantized() || quant::scale_is_apart(dtype);
        assert_eq!(
            LIMITS.iter().filter(|limits| limits.dtype == dtype).count(),
            usize::from(needs),
            "{dtype}"
        );
    }
}
