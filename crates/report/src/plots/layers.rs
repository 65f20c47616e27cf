//! Plot of the relative error by layer and role, with one cell per tensor, as a multiple of the usual error of its type.

use std::collections::BTreeMap;

use verify::{TensorError, Tensors};

use super::letters::Letters;
use super::outliers::Outliers;
use super::{Plot, Screen};
use crate::number;
use crate::scale::Scale;
use crate::svg::{Anchor, Svg};
use crate::terms::RELATIVE_ERROR;

/// Borders between the colours `c0` … of the style sheet, in multiples of the usual error.
const BORDERS: [f64; 6] = [0.5, 0.7, 0.9, 1.1, 1.4, 2.0];
/// Height of a cell.
const ROW: f64 = 20.0;
/// The largest width of a cell.
const WIDEST: f64 = 32.0;

/// By layer: the worst tensor of a cell, and the number of its tensors.
type Cells<'a> = BTreeMap<Option<usize>, (&'a TensorError, usize)>;

pub(crate) fn layers(tensors: &Tensors) -> Option<Plot> {
    let title = "Error by layer and role";
    let tensors = &tensors.tensors[..];
    tensors.first()?;
    let errors = || tensors.iter().map(|t| t.relative).filter(|error| *error > 0.0 && error.is_finite());
    let Some((low, high)) = errors().zip(errors()).reduce(|(a, b), (c, d)| (a.min(c), b.max(d))) else {
        return Some(Plot::sentence(title, &RELATIVE_ERROR, "Every tensor is exactly that of the base."));
    };
    let map = Map { tensors, letters: Letters::of(tensors), outliers: Outliers::of(tensors) };
    let label =
        format!("{title}: relative errors from {} to {}", number::percent(low), number::percent(high));
    Some(Plot::new(title, &RELATIVE_ERROR, map.caption(), |screen| map.draw(&label, screen)))
}

/// What is drawn.
struct Map<'a> {
    tensors: &'a [TensorError],
    letters: Letters<'a>,
    outliers: Outliers,
}

impl<'a> Map<'a> {
    fn caption(&self) -> String {
        let usual = |(dtype, _): &(&str, char)| {
            Some(format!("{} {}", number::plain(dtype), number::percent(verify::usual_error(dtype)?)))
        };
        let usual: Vec<_> = self.letters.all().iter().filter_map(usual).collect();
        let mut caption = "Colour: the error as a multiple of the usual one of its type".to_owned();
        if !usual.is_empty() {
            caption += &format!(" ({})", usual.join(", "));
        }
        caption += ".";
        let outliers = self.tensors.iter().filter(|tensor| self.outliers.has(tensor));
        let names: Vec<_> = outliers.map(|tensor| number::plain(&tensor.name)).collect();
        if !names.is_empty() {
            let more = names.len().saturating_sub(3);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            caption += &format!(" Outliers, in a frame: {}{more}.", names[..names.len().min(3)].join(", "));
        }
        let (_, exact) = self.rows(1);
        if !exact.is_empty() {
            caption += &format!(" Exact: {}.", exact.join(", "));
        }
        caption
    }

    /// Roles with errors and their cells, in the order of the file, and the names of the roles that are exact.
    fn rows(&self, pooled: usize) -> (Vec<(&'a str, Cells<'a>)>, Vec<String>) {
        let mut roles: Vec<(&str, Cells<'_>)> = Vec::new();
        let mut index = BTreeMap::new();
        for tensor in self.tensors {
            let at = *index.entry(tensor.role.as_str()).or_insert_with(|| {
                roles.push((&tensor.role, Cells::new()));
                roles.len() - 1
            });
            let cell = roles[at].1.entry(tensor.layer.map(|layer| layer / pooled)).or_insert((tensor, 0));
            *cell = (if tensor.relative > cell.0.relative { tensor } else { cell.0 }, cell.1 + 1);
        }
        let (rows, exact): (Vec<_>, Vec<_>) =
            roles.into_iter().partition(|(_, cells)| cells.values().any(|(tensor, _)| tensor.relative > 0.0));
        (rows, exact.into_iter().map(|(role, _)| number::plain(role)).collect())
    }

    fn draw(&self, label: &str, screen: Screen) -> String {
        let layers = self.tensors.iter().filter_map(|t| t.layer).max().map_or(0, |last| last + 1);
        // More layers than columns share columns.
        let pooled = layers.div_ceil(screen.of(64, 10)).max(1);
        let (rows, _) = self.rows(pooled);
        let columns = layers.div_ceil(pooled);
        let left = screen.of(156.0, 150.0);
        // Tensors outside of layers have a column of their own, left of the first layer.
        let outside = rows.iter().any(|(_, cells)| cells.contains_key(&None));
        let (gap, before) = (8.0, usize::from(outside));
        let room = screen.width() - screen.of(24.0, 4.0) - left - gap;
        let width = (room / (columns + before).max(1) as f64).min(WIDEST);
        let of_none = width.max(screen.of(24.0, width));
        let begin = left + if outside { of_none + gap } else { 0.0 };
        let column = |layer: Option<usize>| layer.map_or(left, |layer| begin + layer as f64 * width);
        let legend = self.letters.lines(screen.of(90, 40));
        let top = 54.0 + 16.0 * legend.len() as f64;
        let bottom = top + rows.len() as f64 * ROW;

        let mut svg = screen.svg(bottom + 46.0, label);
        scale(&mut svg, screen);
        for (index, line) in legend.iter().enumerate() {
            svg.text("n", Anchor::Start, [0.0, 60.0 + 16.0 * index as f64], line);
        }
        for (row, (role, cells)) in rows.iter().enumerate() {
            let y = top + row as f64 * ROW;
            svg.text("n", Anchor::End, [left - 8.0, y + ROW / 2.0 + 4.0], role);
            let mut letters = Vec::new();
            for (layer, (tensor, count)) in cells {
                let width = if layer.is_none() { of_none } else { width };
                let tip = if screen.is_wide() { self.tip(tensor, *count) } else { String::new() };
                let x = column(*layer);
                let (at, size) = ([x + 0.5, y + 0.5], [width - 1.5, ROW - 1.5]);
                svg.rect(&self.class(tensor), at, size, &tip);
                letters.push((x + width / 2.0, self.letters.of_type(&tensor.dtype)));
            }
            svg.letters("cell", y + ROW / 2.0 + 3.5, &letters);
        }
        if outside {
            svg.text("n", Anchor::Middle, [left + of_none / 2.0, bottom + 16.0], "none");
        }
        if layers > 0 {
            let scale = Scale::linear(0.0, (layers - 1).max(1) as f64, 0.0, 1.0);
            let most = (columns as f64 * width / 40.0).clamp(1.0, 12.0) as usize;
            let ticks = scale.ticks(most).into_iter().filter(|t| t.fract() == 0.0 && *t < layers as f64);
            for layer in ticks {
                let x = begin + ((layer as usize / pooled) as f64 + 0.5) * width;
                svg.text("n", Anchor::Middle, [x, bottom + 16.0], &number::tick(layer));
            }
            let middle = (begin + columns as f64 * width / 2.0).max(begin + 20.0);
            let what = match pooled {
                1 => "layer".to_owned(),
                _ => format!("layer; a cell is the worst of {pooled}"),
            };
            let end = begin + columns as f64 * width;
            let (anchor, x) =
                if pooled == 1 || screen.is_wide() { (Anchor::Middle, middle) } else { (Anchor::End, end) };
            svg.text("t", anchor, [x, bottom + 38.0], &what);
        }
        svg.finish()
    }

    fn tip(&self, tensor: &TensorError, count: usize) -> String {
        let worst = if count > 1 { format!(", worst of {count}") } else { String::new() };
        let usual = verify::usual_error(&tensor.dtype).map(|usual| tensor.relative / usual);
        let usual = usual.map(|times| format!(", {} times the usual", number::significant(times)));
        format!(
            "{}{worst}, {}: {}{}",
            tensor.name,
            tensor.dtype,
            number::percent(tensor.relative),
            usual.unwrap_or_default()
        )
    }

    /// The colour of a cell, and the frame of an outlier.
    fn class(&self, tensor: &TensorError) -> String {
        let colour = match verify::usual_error(&tensor.dtype) {
            _ if tensor.relative <= 0.0 => "h".to_owned(),
            Some(usual) => {
                format!("c{}", BORDERS.iter().filter(|border| tensor.relative / usual >= **border).count())
            }
            None => "c".to_owned(),
        };
        if self.outliers.has(tensor) { format!("{colour} outlier") } else { colour }
    }
}

/// Draws the colours, with their borders below them.
fn scale(svg: &mut Svg, screen: Screen) {
    let (width, top, left) = (screen.of(44.0, 30.0), 6.0, screen.of(156.0, 0.0));
    if screen.is_wide() {
        svg.text("t", Anchor::End, [left - 8.0, top + 11.0], "times the usual error");
    }
    for step in 0..=BORDERS.len() {
        svg.rect(&format!("c{step}"), [left + step as f64 * width, top], [width, 14.0], "");
    }
    for (step, border) in BORDERS.iter().enumerate() {
        let x = left + (step + 1) as f64 * width;
        // on a phone there is room for the outer and the inner ones
        if screen.is_wide() || ![1, 4].contains(&step) {
            svg.text("n", Anchor::Middle, [x, top + 30.0], &format!("{}×", number::tick(*border)));
        }
    }
    let end = left + (BORDERS.len() + 1) as f64 * width + screen.of(28.0, 12.0);
    svg.rect("h", [end, top], [14.0, 14.0], "");
    svg.text("n", Anchor::Start, [end + 20.0, top + 11.0], "exact");
    svg.rect("h outlier", [end + 64.0, top], [14.0, 14.0], "");
    svg.text("n", Anchor::Start, [end + 84.0, top + 11.0], screen.of("outlier", "outl."));
}
