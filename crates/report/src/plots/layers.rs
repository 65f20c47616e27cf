//! Plot of the relative error by layer and role, with one cell per tensor.

use std::collections::BTreeMap;

use verify::{TensorError, Tensors};

use super::{Plot, WIDTH};
use crate::number;
use crate::scale::Scale;
use crate::svg::{Anchor, Svg};

/// Number of colours, from the smallest error to the largest: classes `h0` … of the style sheet.
const STEPS: usize = 8;
/// Height of a cell.
const ROW: f64 = 20.0;
/// The largest width of a cell.
const WIDEST: f64 = 32.0;
/// The most columns; more layers share columns.
const COLUMNS: usize = 64;
const LEFT: f64 = 156.0;
const TOP: f64 = 56.0;

/// By layer: the worst tensor of a cell, and the number of its tensors.
type Cells<'a> = BTreeMap<Option<usize>, (&'a TensorError, usize)>;

pub(crate) fn layers(tensors: &Tensors) -> Option<Plot> {
    let title = "Error by layer and role";
    tensors.tensors.first()?;
    let errors =
        || tensors.tensors.iter().map(|t| t.relative).filter(|error| *error > 0.0 && error.is_finite());
    let Some((low, high)) = errors().zip(errors()).reduce(|(a, b), (c, d)| (a.min(c), b.max(d))) else {
        return Some(Plot {
            title,
            caption: "Every tensor is exactly that of the base.".to_owned(),
            svg: None,
        });
    };
    let layers = tensors.tensors.iter().filter_map(|t| t.layer).max().map_or(0, |last| last + 1);
    let pooled = layers.div_ceil(COLUMNS).max(1);
    let mut exact = Vec::new();
    let mut rows = Vec::new();
    for (role, cells) in roles(&tensors.tensors, pooled) {
        if cells.values().any(|(tensor, _)| tensor.relative > 0.0) {
            rows.push((role, cells));
        } else {
            exact.push(number::plain(role));
        }
    }

    let columns = layers.div_ceil(pooled);
    let outside = rows.iter().any(|(_, cells)| cells.contains_key(&None));
    // Tensors outside of layers have a column of their own, left of the first layer.
    let (gap, before) = (10.0, usize::from(outside));
    let width = ((WIDTH - 24.0 - LEFT - gap) / (columns + before).max(1) as f64).min(WIDEST);
    let begin = LEFT + if outside { width.max(24.0) + gap } else { 0.0 };
    let column = |layer: Option<usize>| layer.map_or(LEFT, |layer| begin + layer as f64 * width);
    let bottom = TOP + rows.len() as f64 * ROW;
    let range = Range::new(low, high);

    let label =
        format!("{title}: relative errors from {} to {}", number::percent(low), number::percent(high));
    let mut svg = Svg::new(WIDTH, bottom + 46.0, &label);
    range.legend(&mut svg);
    for (row, (role, cells)) in rows.iter().enumerate() {
        let y = TOP + row as f64 * ROW;
        svg.text("n", Anchor::End, [LEFT - 8.0, y + ROW / 2.0 + 4.0], role);
        for (layer, (tensor, count)) in cells {
            let width = if layer.is_none() { width.max(24.0) } else { width };
            let title = match count {
                1 => format!("{}, {}: {}", tensor.name, tensor.dtype, number::percent(tensor.relative)),
                n => format!(
                    "{}, worst of {n}, {}: {}",
                    tensor.name,
                    tensor.dtype,
                    number::percent(tensor.relative)
                ),
            };
            svg.rect(&range.class(tensor.relative), [column(*layer), y], [width - 1.0, ROW - 1.0], &title);
        }
    }
    if outside {
        svg.text("n", Anchor::Middle, [LEFT + width.max(24.0) / 2.0, bottom + 16.0], "none");
    }
    if layers > 0 {
        let scale = Scale::linear(0.0, (layers - 1).max(1) as f64, 0.0, 1.0);
        let most = (columns as f64 * width / 40.0).clamp(1.0, 12.0) as usize;
        let ticks = scale.ticks(most).into_iter().filter(|t| t.fract() == 0.0 && *t < layers as f64);
        for layer in ticks {
            let x = begin + ((layer as usize / pooled) as f64 + 0.5) * width;
            svg.text("n", Anchor::Middle, [x, bottom + 16.0], &number::tick(layer));
        }
        let middle = begin + columns as f64 * width / 2.0;
        svg.text("t", Anchor::Middle, [middle.max(begin + 20.0), bottom + 38.0], "layer");
    }
    let mut caption = "Relative error √(Σ(y − x)² / Σx²) of each tensor; log scale.".to_owned();
    if pooled > 1 {
        caption += &format!(" A column is {pooled} layers, a cell their worst tensor.");
    }
    if !exact.is_empty() {
        caption += &format!(" Exact: {}.", exact.join(", "));
    }
    Some(Plot { title, caption, svg: Some(svg.finish()) })
}

/// Roles in the order of the file, each with its cells.
fn roles(tensors: &[TensorError], pooled: usize) -> Vec<(&str, Cells<'_>)> {
    let mut roles: Vec<(&str, Cells<'_>)> = Vec::new();
    let mut index = BTreeMap::new();
    for tensor in tensors {
        let at = *index.entry(tensor.role.as_str()).or_insert_with(|| {
            roles.push((&tensor.role, Cells::new()));
            roles.len() - 1
        });
        let cell = roles[at].1.entry(tensor.layer.map(|layer| layer / pooled)).or_insert((tensor, 0));
        *cell = (if tensor.relative > cell.0.relative { tensor } else { cell.0 }, cell.1 + 1);
    }
    roles
}

/// The range of errors of the colour scale.
struct Range {
    low: f64,
    high: f64,
}

impl Range {
    /// A range of at least a factor of two, so that small differences do not look large.
    fn new(low: f64, high: f64) -> Range {
        let widen = (2.0 * low / high).sqrt().max(1.0);
        Range { low: (low / widen).max(f64::MIN_POSITIVE), high: (high * widen).min(f64::MAX) }
    }

    fn class(&self, error: f64) -> String {
        if error > 0.0 {
            let part = Scale::log(self.low, self.high, 0.0, 1.0).part(error);
            format!("h{}", ((part * STEPS as f64) as usize).min(STEPS - 1))
        } else {
            "h".to_owned()
        }
    }

    /// Draws the legend: the colours with round numbers below them, above the cells.
    fn legend(&self, svg: &mut Svg) {
        let (width, top) = (40.0, 6.0);
        let end = LEFT + STEPS as f64 * width;
        svg.text("t", Anchor::End, [LEFT - 8.0, top + 11.0], "relative error");
        for step in 0..STEPS {
            svg.rect(&format!("h{step}"), [LEFT + step as f64 * width, top], [width, 14.0], "");
        }
        let scale = Scale::log(self.low * 100.0, self.high * 100.0, LEFT, end);
        for tick in scale.ticks(5) {
            svg.line("a", [scale.at(tick), top + 14.0], [scale.at(tick), top + 18.0]);
            svg.text("n", Anchor::Middle, [scale.at(tick), top + 31.0], &format!("{} %", number::tick(tick)));
        }
        svg.rect("h", [end + 32.0, top], [14.0, 14.0], "");
        svg.text("n", Anchor::Start, [end + 52.0, top + 11.0], "exact");
    }
}
