//! The plots of the HTML page. Each takes its part of the report and gives a drawing, or a sentence if there is nothing
//! to draw.

mod along;
mod budget;
mod bursts;
mod delta_p;
mod frontier;
mod layers;
mod sizes;
mod towers;

pub(super) use along::along;
pub(super) use budget::budget;
pub(super) use bursts::bursts;
pub(super) use delta_p::delta_p;
pub(super) use frontier::frontier;
pub(super) use layers::layers;
pub(super) use sizes::sizes;
pub(super) use towers::towers;

use super::number;
use super::scale::Scale;
use super::svg::{Anchor, Svg};

/// The width of every drawing in SVG units.
const WIDTH: f64 = 880.0;

/// A drawing with its title and caption.
pub(super) struct Plot {
    pub(super) title: &'static str,
    /// One or two sentences of plain text.
    pub(super) caption: String,
    /// The drawing; `None` if the caption suffices.
    pub(super) svg: Option<String>,
}

/// The coordinates of the plot area.
struct Frame {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl Frame {
    /// Draws the vertical axis: grid lines at the ticks, their numbers, the title.
    fn vertical(&self, svg: &mut Svg, scale: &Scale, ticks: &[f64], title: &str) {
        for tick in ticks {
            let y = scale.at(*tick);
            svg.line("g", [self.left, y], [self.right, y]);
            svg.text("n", Anchor::End, [self.left - 8.0, y + 4.0], &number::tick(*tick));
        }
        svg.text("t", Anchor::Start, [0.0, self.top - 14.0], title);
    }

    /// Draws the horizontal axis: base line, ticks, their numbers, the title.
    fn horizontal(
        &self,
        svg: &mut Svg,
        scale: &Scale,
        ticks: &[f64],
        write: impl Fn(f64) -> String,
        title: &str,
    ) {
        svg.line("a", [self.left, self.bottom], [self.right, self.bottom]);
        for tick in ticks {
            let x = scale.at(*tick);
            svg.line("a", [x, self.bottom], [x, self.bottom + 4.0]);
            svg.text("n", Anchor::Middle, [x, self.bottom + 18.0], &write(*tick));
        }
        svg.text("t", Anchor::Middle, [f64::midpoint(self.left, self.right), self.bottom + 38.0], title);
    }
}
